"""`%container images`, `history`, `inspect`, `diff`, `sbom`, `tags` and `referrers` as tables.

In a notebook; elsewhere, and for words that ask for more, they are the command's.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Sequence
from typing import Any

from magics import live
from magics.notebook import Notebook
from sandbox_kernel import arguments, container, grammar, image, policy, settings
from sandbox_kernel.cli import files, layers, listing, materials, output, registries
from sandbox_kernel.cli import images as of_command
from sandbox_kernel.errors import NoSuchContainer
from sandbox_kernel.image.store import Store

MOST_ROWS = 2000
"""In one display: a front end gets slow of more."""


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


def inspect(words: list[str]) -> bool:
    """What is known of one image. Of a container it is JSON: it is a tree of facts."""
    found = arguments.parse(words, listing.VERBS["inspect"].all_flags())
    if len(found.rest) != 1 or not live.in_a_notebook() or _is_container(found.rest[0]):
        return False
    facts = of_command.facts(found.rest[0])
    if facts is None:
        return False
    _show(("fact", "value"), list(_rows_of(facts)))
    return True


def _rows_of(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """A row for each fact, and of lists and tables one for each item."""
    for name, value in facts.items():
        items = value.items() if isinstance(value, dict) else [("", value)]
        for key, item in items:
            fact = f"{name} {key}".strip().replace("_", " ")
            for each in item if isinstance(item, list) else [item]:
                if each not in (None, "", {}):
                    yield fact, _worded(name, each)


def _worded(name: str, value: Any) -> str:
    if name == "size":
        return grammar.shown_size(value)
    if name == "layers":
        here = "unpacked" if value["unpacked"] else "not unpacked"
        return f"{value['digest']}  {grammar.shown_size(value['size'])}, {here}"
    return value if isinstance(value, str) else json.dumps(value)


def diff(notebook: Notebook, words: list[str]) -> bool:
    """What is different between two, each an image or a container."""
    found = arguments.parse(words, files.VERBS["diff"].all_flags())
    if len(found.rest) != 2:
        return False
    for word in found.rest:
        if not _is_container(word):
            notebook.hold(word)
    if found.own or not live.in_a_notebook():
        return False
    rows = [
        (KINDS[each.kind], each.path, ", ".join(each.what), _size(each.before), _size(each.after))
        for each in layers.compare(*found.rest)
    ]
    if rows:
        _show(("change", "path", "what", "before", "after"), rows)
    else:
        print("nothing is different")
    return True


KINDS = {"A": "added", "C": "changed", "D": "deleted"}


def _size(size: int) -> str:
    return grammar.shown_size(size) if size else "-"


def sbom(notebook: Notebook, words: list[str]) -> bool:
    """What is installed in an image; `--format spdx` prints the document."""
    found = arguments.parse(words, materials.VERBS["sbom"].all_flags())
    if len(found.rest) != 1:
        return False
    notebook.hold(found.rest[0])
    if found.own or not live.in_a_notebook():
        return False
    plan = policy.plan(settings.COMMAND_LINE, image=found.rest[0])  # held just now
    resolved = image.resolve(plan.image)
    _show(materials.HEADINGS, materials.rows(resolved))
    for note in materials.notes(resolved):
        print(f"note: {note}")
    return True


def tags(notebook: Notebook, words: list[str]) -> bool:
    """The tags of a repository in a registry that this notebook may use."""
    found = arguments.parse(words, registries.VERBS["tags"].all_flags())
    if len(found.rest) != 1:
        return False
    notebook.plan({"image": found.rest[0]})
    if found.own or not live.in_a_notebook():
        return False
    _show(("tag",), [(tag,) for tag in registries.listed_tags(found.rest[0])])
    return True


def referrers(notebook: Notebook, words: list[str]) -> bool:
    """What refers to an image in a registry that this notebook may use."""
    found = arguments.parse(words, registries.VERBS["referrers"].all_flags())
    if len(found.rest) != 1:
        return False
    notebook.plan({"image": found.rest[0]})
    if "format" in found.own or not live.in_a_notebook():
        return False
    rows = registries.referrer_rows(registries.listed_referrers(found))
    _show(registries.REFERRERS, rows)
    return True


def _is_container(word: str) -> bool:
    try:
        container.match(word)
    except NoSuchContainer:
        return False
    return True


def _show(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table in HTML, and in text for who shows no HTML. What comes from images is text only."""
    from IPython.display import display

    more = len(rows) - MOST_ROWS
    if more > 0:
        rest = f"... {more} more: the command has all of them"
        rows = [*rows[:MOST_ROWS], (rest, *("" for _ in headings[1:]))]
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
