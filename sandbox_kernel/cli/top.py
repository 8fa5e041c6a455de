"""`sandbox-kernel top`: all containers with what they use, live on a terminal.

The rows are those of the view `Containers` of notebooks.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from sandbox_kernel import container
from sandbox_kernel.arguments import Parsed
from sandbox_kernel.cli import output
from sandbox_kernel.cli.verb import FORMAT, Verb
from sandbox_kernel.observe.containers import Containers, Row
from sandbox_kernel.observe.source import wait
from sandbox_kernel.widgets.containers import HEADINGS, Cell, Cells, cells

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

INTERVAL = 1.0
HIGH, FULL = 80, 95
FIRST_NUMBER = 4


def top(found: Parsed) -> int:
    """One table over an interval; on a terminal it goes on until it is interrupted."""
    wanted = [container.match(reference).id for reference in found.rest]
    source = Containers(INTERVAL, others=not wanted)
    try:
        telling = source.open()
        _look(source, wanted)  # rates are between two looks
        if sys.stdout.isatty() and found.own.get("format") != "json":
            _live(source, telling, wanted)
        wait(telling, INTERVAL)
        if found.own.get("format") == "json":
            seen = _look(source, wanted)
            output.data([_facts(row) for row in seen])
        else:
            output.table(HEADINGS, [shown.texts() for shown in _cells(_look(source, wanted))])
    finally:
        source.close()
    return 0


def _facts(row: Row) -> dict[str, Any]:
    used = row.use._asdict() if row.use else None
    return {"id": row.id, "name": row.name, "use": used}


def _live(source: Containers, telling: Sequence[int], wanted: list[str]) -> NoReturn:
    from rich.live import Live

    with Live(auto_refresh=False) as live:
        while True:
            live.update(_view(_cells(_look(source, wanted))), refresh=True)
            wait(telling, INTERVAL)


def _look(source: Containers, wanted: list[str]) -> list[Row]:
    return [row for row in source.look() or () if not wanted or row.id in wanted]


def _cells(rows: list[Row]) -> list[Cells]:
    now = time.time()
    return [cells(row, now) for row in rows]


def _view(shown: list[Cells]) -> Table:
    from rich import box
    from rich.table import Table

    view = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for at, heading in enumerate(HEADINGS):
        view.add_column(heading, justify="right" if at >= FIRST_NUMBER else "left")
    for row in shown:
        view.add_row(*(_coloured(cell) for cell in row))
    return view


def _coloured(cell: str | Cell) -> Text:
    """Near a limit in yellow, at it in red; the numbers say the same."""
    from rich.text import Text

    if isinstance(cell, str):
        return Text(output.clean(cell))
    percent = cell.percent or 0
    return Text(cell.text, "red" if percent >= FULL else "yellow" if percent >= HIGH else "")


VERBS = {
    "top": Verb(
        "top [options] [CONTAINER...]",
        "Show what containers use against their limits: live on a terminal, else over one second.",
        top,
        (FORMAT,),
    )
}
