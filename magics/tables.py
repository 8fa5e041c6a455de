"""`%container images` and `history` as tables of a notebook; elsewhere they are the command's."""

from __future__ import annotations

import html
from collections.abc import Sequence

from magics import live
from sandbox_kernel import arguments
from sandbox_kernel.cli import images as of_command
from sandbox_kernel.cli import output
from sandbox_kernel.image.store import Store


def images(words: list[str]) -> bool:
    """The images of this user."""
    found = arguments.parse(words, of_command.VERBS["images"].all_flags())
    if found.own or len(found.rest) > 1 or not live.in_a_notebook():
        return False
    rows = of_command.listed(found.rest[0] if found.rest else None)
    _show(of_command.HEADINGS, of_command.table_rows(rows))
    return True


def history(words: list[str]) -> bool:
    """The steps that made an image."""
    found = arguments.parse(words, of_command.VERBS["history"].all_flags())
    if found.own.keys() - {"no_trunc"} or len(found.rest) != 1 or not live.in_a_notebook():
        return False
    steps = of_command.history_facts(Store.open().find(found.rest[0]))
    whole = bool(found.own.get("no_trunc"))
    _show(of_command.STEPS, of_command.history_rows(steps, whole=whole))
    return True


def _show(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table in HTML, and in text for who shows no HTML. What comes from images is text only."""
    from IPython.display import display

    head = "".join(f"<th>{html.escape(heading)}</th>" for heading in headings)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(output.clean(cell))}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    bundle = {
        "text/plain": output.text_table(headings, rows),
        "text/html": f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>",
    }
    display(bundle, raw=True)  # type: ignore[no-untyped-call]
