"""How far pulls and pushes are: a bar for each layer on a terminal, nothing where nobody looks."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from sandbox_kernel.image.registry.progress import LAST, Progress

if TYPE_CHECKING:
    from rich.progress import Progress as View
    from rich.progress import TaskID

DIGITS = 12
"""How much of a digest is shown."""
SAID = {"there": "is there", "mounted": "mounted from another repository"}


class Bars:
    """A context manager that gives the listener, or None where stderr is no terminal.

    Nothing is shown before the first event: mostly an image is there, and there is none.
    """

    def __init__(self) -> None:
        self._view: View | None = None
        self._bars: dict[str, TaskID] = {}

    def __enter__(self) -> Any:
        return self.show if sys.stderr.isatty() else None

    def _start(self) -> View:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TransferSpeedColumn,
        )

        view = Progress(
            TextColumn("{task.fields[name]}"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            console=Console(stderr=True),
        )
        view.start()
        return view

    def __exit__(self, *_: object) -> None:
        if self._view is not None:
            self._view.stop()

    def show(self, event: Progress) -> None:
        """One event."""
        if self._view is None:
            self._view = self._start()
        if event.digest not in self._bars:
            self._bars[event.digest] = self._view.add_task(
                event.stage, name=short(event), total=max(1, event.total)
            )
        self._view.update(
            self._bars[event.digest],
            description=SAID.get(event.stage, event.stage),
            completed=None if event.stage == "failed" else max(moved(event), int(event.total == 0)),
        )


def short(event: Progress) -> str:
    """What a layer is called in a view."""
    return event.digest.partition(":")[2][:DIGITS]


def moved(event: Progress) -> int:
    """How many bytes of a layer need no more work."""
    return event.total if event.stage in LAST - {"failed"} else event.done


def line(events: dict[str, Progress]) -> str:
    """All layers in one line of text: how many are done, and the bytes of those under way."""
    from sandbox_kernel.grammar import shown_size

    ended = sum(event.stage in LAST for event in events.values())
    done = sum(
        event.total if event.stage in LAST or event.stage == "unpacking" else event.done
        for event in events.values()
    )
    total = sum(event.total for event in events.values())
    at_work = sorted({event.stage for event in events.values()} - LAST - {"waiting"})
    words = f", {' and '.join(at_work)}" if at_work else ""
    return f"{ended}/{len(events)} layers, {shown_size(done)} of {shown_size(total)}{words}"
