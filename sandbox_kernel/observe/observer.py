"""Looks at a source again and again until it is over, and tells of what it saw.

The kernel's files are read here, so neither a busy cell in a container nor a busy launcher delays
it. Between two looks it waits for what the source names, such as the end of the container, so it
ends with it at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from sandbox_kernel import errors
from sandbox_kernel.observe import rounds
from sandbox_kernel.observe.source import Source

STOP_SECONDS = 10.0
ENDED = "the container ended"
STOPPED = "stopped"


class Observer:
    """Calls `told` with facts from another thread; after the last ones `ended` with why."""

    def __init__(
        self,
        source: Source,
        told: Callable[[Any], None],
        ended: Callable[[str], None] = lambda why: None,
    ) -> None:
        self.source = source
        self._told = told
        self._ended = ended
        self._looked = threading.Event()
        self._over = threading.Event()
        self._stopping = False
        self._joining = threading.Lock()
        with self._joining:  # the first facts may be told before it is known who tells them
            self._rounds = rounds.join(self)

    @property
    def running(self) -> bool:
        """Whether facts still come."""
        return not self._over.is_set()

    def wait_looked(self, seconds: float) -> bool:
        """Whether the first facts were told, or none will come, within so many seconds."""
        return self._looked.wait(seconds)

    def wait_ended(self, seconds: float) -> bool:
        """Whether `ended` was called, and has returned, within so many seconds."""
        return self._over.wait(seconds)

    def look(self) -> None:
        """Look now rather than when it is time."""
        with self._joining:
            goes_round = self._rounds
        goes_round.ask(self)

    def stop(self, *, wait: bool = True) -> None:
        """Nothing is told after this returns, or soon. May be called twice, and by `told`."""
        self._stopping = True
        self.look()
        if wait and not self._rounds.is_here():
            self._over.wait(STOP_SECONDS)

    # -- by the thread that goes round ------------------------------------------------------------

    @property
    def name(self) -> str:
        """Of what is looked at."""
        return self.source.name

    @property
    def interval(self) -> float:
        """Seconds between two looks."""
        return self.source.interval

    @property
    def quick(self) -> bool:
        """Whether others may wait for a look of it."""
        return self.source.quick

    def begin(self) -> Sequence[int]:
        """Descriptors that are readable when it is to be looked at. None of them: it is over."""
        return self.source.open()

    def turn(self) -> bool:
        """One look; whether there will be another one."""
        if self._stopping:
            return False
        facts = self.source.look()
        if facts is None:
            return False
        self._told(facts)
        self._looked.set()
        return not self._stopping

    def finish(self, problem: BaseException | None) -> None:
        """The last that is called: it is over, or could not be looked at."""
        try:
            if problem is not None:
                why = errors.shown(problem)
            elif self._stopping and not self.source.over():
                why = STOPPED
            else:
                why = ENDED
            self.source.close()
            self._looked.set()
            self._ended(why)
        finally:
            self._looked.set()
            self._over.set()
