"""`sandbox-kernel top`: what containers use against their limits, live on a terminal."""

from __future__ import annotations

import os
import select
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from sandbox_kernel import container, errors, grammar
from sandbox_kernel.arguments import Parsed
from sandbox_kernel.cli import output
from sandbox_kernel.cli.verb import FORMAT, Verb
from sandbox_kernel.container import Container
from sandbox_kernel.linux import processes
from sandbox_kernel.observe.sampling import Limits, Reading, Sample, sample

if TYPE_CHECKING:
    from rich.table import Table

INTERVAL = 1.0
HEADINGS = ("id", "name", "memory", "processors", "held back", "processes", "written", "storage")


def top(found: Parsed) -> int:
    """One table over an interval; on a terminal it goes on until it is interrupted."""
    before: dict[str, Reading] = {}
    _let_pass(_look(found.rest, before))
    if found.own.get("format") == "json":
        seen = _look(found.rest, before)
        output.data([{"id": live.id, "name": live.name, "use": use} for live, use in seen])
    elif not sys.stdout.isatty():
        output.table(HEADINGS, [_line(*pair) for pair in _look(found.rest, before)])
    else:
        _live(found.rest, before)
    return 0


def _live(references: list[str], before: dict[str, Reading]) -> None:
    from rich.live import Live

    with Live(auto_refresh=False) as live:
        while True:
            seen = _look(references, before)
            live.update(_view(seen), refresh=True)
            _let_pass(seen)


def _let_pass(seen: list[tuple[Container, Sample]]) -> None:
    """The interval that is measured, or less when one of them ends in it."""
    poll = select.poll()
    opened = []
    for live, _ in seen:
        with suppress(ProcessLookupError):
            opened.append(processes.pidfd_open(live.pid))
            poll.register(opened[-1], select.POLLIN)
    poll.poll(INTERVAL * 1000)
    for descriptor in opened:
        os.close(descriptor)


def _view(seen: list[tuple[Container, Sample]]) -> Table:
    from rich import box
    from rich.table import Table

    view = Table(*HEADINGS, box=box.SIMPLE_HEAD, pad_edge=False)
    for pair in seen:
        view.add_row(*(output.clean(cell) for cell in _line(*pair)))
    return view


def _look(references: list[str], before: dict[str, Reading]) -> list[tuple[Container, Sample]]:
    """A sample of each: of those that were named, else of all that live."""
    named = references or [row.id for row in container.list_all() if row.state == "running"]
    seen = []
    for reference in named:
        with suppress(*(() if references else (errors.NoSuchContainer, errors.LauncherGone))):
            live = container.find(reference)
            try:
                usage, in_force = live.usage(), live.limits()
            finally:
                live.close()
            now = Reading(time.monotonic(), usage)
            limits = Limits.read(in_force, usage.get("storage_limit"))
            seen.append((live, sample(before.get(live.id), now, limits, time.time())))
            before[live.id] = now
    return seen


def _line(live: Container, seen: Sample) -> tuple[str, ...]:
    limits = seen.limits
    processors = "-" if seen.processors is None else f"{seen.processors:.2f}"
    return (
        live.id,
        "" if live.name == live.id else live.name,
        _of(_size(seen.memory_bytes), _size(limits.memory)),
        _of(processors, f"{limits.most_processors:g}"),
        "-" if seen.throttled is None else f"{seen.throttled:.0%}",
        _of(_count(seen.pids), _count(limits.pids)),
        _size(seen.written_bytes),
        _of(_size(seen.storage_bytes), _size(limits.storage)),
    )


def _of(used: str, limit: str) -> str:
    return used if limit == "-" else f"{used} of {limit}"


def _size(count: int | None) -> str:
    return "-" if count is None else grammar.shown_size(count)


def _count(count: int | None) -> str:
    return "-" if count is None else str(count)


VERBS = {
    "top": Verb(
        "top [options] [CONTAINER...]",
        "Show what containers use against their limits: live on a terminal, else over one second.",
        top,
        (FORMAT,),
    )
}
