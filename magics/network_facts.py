"""`%container net NAME`: the facts of a container's network as tables of a notebook."""

from __future__ import annotations

import html
from typing import Any

from magics import live
from sandbox_kernel import arguments, settings
from sandbox_kernel.cli import net as of_command
from sandbox_kernel.cli import network_facts, output
from sandbox_kernel.cli.network_facts import Section
from sandbox_kernel.observe import networks


def run(words: list[str]) -> bool:
    """`net`, `net NAME`, and all that the command has, on the word of a notebook.

    A name that is no word of the command is a container: `net web` shows it, and with options
    `net web --allow pypi.org:443` changes it.
    """
    verb = of_command.VERBS["net"]
    found = arguments.parse(words, verb.all_flags())
    if found.own.get("help"):
        return False
    if found.rest and found.rest[0] not in of_command.WORDS:
        changes = found.options or "disallow" in found.own
        found.rest.insert(0, "change" if changes else "show")
    in_tables = live.in_a_notebook() and "format" not in found.own
    if in_tables and found.rest[:1] == ["show"] and len(found.rest) == 2:
        show(networks.facts(found.rest[1]), rules=bool(found.own.get("rules")))
    else:
        of_command.perform(found, settings.MAGIC)
    return True


def show(facts: dict[str, Any], *, rules: bool = True) -> None:
    """Displays them; what comes from containers is text only."""
    from IPython.display import display

    title = output.clean(network_facts.title(facts))
    sections = network_facts.sections(facts, rules=True)
    bundle = {
        "text/plain": "\n".join([title, *(_lines(section) for section in sections)]),
        "text/html": f"<h4>{html.escape(title)}</h4>"
        + "".join(
            _markup(section, closed=section.title.startswith("rules") and not rules)
            for section in sections
        ),
    }
    display(bundle, raw=True)  # type: ignore[no-untyped-call]


def _lines(section: Section) -> str:
    table = output.text_table(section.headings, section.rows) if section.rows else section.nothing
    return f"{section.title}:\n{table}"


def _markup(section: Section, *, closed: bool) -> str:
    opened = "" if closed else " open"
    head = "".join(f"<th>{html.escape(heading)}</th>" for heading in section.headings)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(output.clean(cell))}</td>" for cell in row) + "</tr>"
        for row in section.rows
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return (
        f"<details{opened}><summary>{html.escape(section.title)}</summary>"
        f"{table if section.rows else html.escape(section.nothing)}</details>"
    )
