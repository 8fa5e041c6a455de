"""Stopping a cell: a signal first, the container's end when that does not help in time."""

from __future__ import annotations

import math
import signal
import time
from typing import Any, Protocol

from sandbox_kernel import errors

from .contents import Failure
from .requests import Ledger, Request
from .voice import failure

AGAIN_SECONDS = 0.25
"""Until a cell that was signalled while it began is signalled once more. From its `execute_input`
on, the inside keeps a signal for its code (`inside/kernel.py`); before, ipykernel ignores it."""


class Signalled(Protocol):
    """The process inside, as far as it is needed here."""

    def signal(self, number: int) -> None: ...


class Interrupts:
    """Who is being stopped, why, and until when. Asks nobody and waits for nothing."""

    def __init__(
        self, ledger: Ledger, process: Signalled, *, grace: float, timeout: float | None
    ) -> None:
        self._ledger = ledger
        self._process = process
        self._grace = grace
        self._timeout = timeout
        self._stopping: Request | None = None
        self._timed_out = False
        self._kill_at = 0.0
        self._again_at = math.inf
        self._when_it_begins = False

    def interrupt(self) -> None:
        """The user wants the running cell to stop."""
        running = self._ledger.on_main()
        if running is not None:
            self._stop(running, timed_out=False)
            if running.is_cell and not running.entered:
                self._again_at = time.monotonic() + AGAIN_SECONDS
        elif (cell := self._ledger.head_cell()) is not None:
            # It is on its way, and ipykernel ignores the signal until it runs: then it comes again.
            # Or it runs and holds the interpreter's lock since before its `busy` was sent.
            self._when_it_begins = True
            self._stop(cell, timed_out=False)

    def began(self, request: Request) -> None:
        """A cell has begun to run."""
        if request.on_main and self._when_it_begins:
            self._when_it_begins = False
            if request is self._stopping:
                self._again_at = time.monotonic() + AGAIN_SECONDS  # the first may have reached it
            else:
                self._stop(request, timed_out=False)

    def ended(self, request: Request) -> None:
        """A cell has its reply."""
        if request is self._stopping:
            self._stopping = None
            self._again_at = math.inf
        if self._ledger.head_cell() in (None, request):
            self._when_it_begins = False

    def _stop(self, request: Request, *, timed_out: bool) -> None:
        self._process.signal(signal.SIGINT)
        if request is not self._stopping:
            self._again_at = math.inf
            self._stopping = request
            self._timed_out = timed_out
            self._kill_at = time.monotonic() + self._grace

    def due(self) -> float | None:
        """When `check` has something to do, on the monotonic clock."""
        if self._stopping is not None:
            return min(self._kill_at, self._again_at)
        cell = self._ledger.head_cell() if self._timeout is not None else None
        if cell is None:
            return None
        if cell.started is None:
            cell.started = time.monotonic()
        return cell.started + (self._timeout or 0.0)

    def check(self) -> errors.CellFailed | None:
        """Signals a cell whose time is over. The error to end the container with, if it must."""
        due = self.due()
        if due is None or time.monotonic() < due:
            return None
        if self._stopping is None:
            cell = self._ledger.head_cell()
            if cell is not None:
                self._stop(cell, timed_out=True)
            return None
        if time.monotonic() < self._kill_at:
            self._again_at = math.inf
            self._process.signal(signal.SIGINT)
            return None
        if self._timed_out and self._timeout is not None:
            return errors.TimedOut(self._timeout)
        return errors.Killed(
            f"interrupted, but it did not stop within {self._grace:g} s, as code in a long call "
            "of a C library may: the container was ended and its variables are lost"
        )

    def renamed(self, request: Request, failed: Failure) -> dict[str, Any] | None:
        """The interrupt that our own time limit caused is told as what it is."""
        if (
            request is self._stopping
            and self._timed_out
            and failed.ename == "KeyboardInterrupt"
            and self._timeout is not None
        ):
            told = failure(errors.TimedOut(self._timeout))
            return {**told, "traceback": [*failed.traceback, *told["traceback"]]}
        return None
