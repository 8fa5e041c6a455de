"""Threads that go round: each looks at what it was given when it is time, or when that has news.

What is read in a moment shares one thread and is looked at in one go, so twenty views wake this
program four times in a second and not eighty times. What may take longer has a thread of its own,
for nobody shall wait for it.
"""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from sandbox_kernel import errors

LEAST_GAP = 0.04
"""Seconds: a source that has news without end is looked at no more often."""


class Looked(Protocol):
    """What is looked at. All but the properties are called by the thread alone."""

    @property
    def name(self) -> str:
        """For people, in the name of a thread."""

    @property
    def interval(self) -> float:
        """Seconds between two looks."""

    @property
    def quick(self) -> bool:
        """Whether others may wait for a look of it."""

    def begin(self) -> Sequence[int]:
        """Called first: descriptors that are readable when there is news."""

    def turn(self) -> bool:
        """Looks; whether there will be another time."""

    def finish(self, problem: BaseException | None) -> None:
        """Called last, in any case."""


class _Place:
    """Where one of them stands in the round."""

    def __init__(self, looked: Looked) -> None:
        self.looked = looked
        self.descriptors: Sequence[int] = ()
        self.due = 0.0
        self.last = 0.0


class Rounds:
    """One thread. It ends when there is nothing left to look at."""

    def __init__(self, name: str) -> None:
        self._lock = threading.Lock()
        self._joining: list[Looked] = []
        self._asked: set[Looked] = set()
        self._wake: int | None = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        self._places: dict[Looked, _Place] = {}
        self._of: dict[int, _Place] = {}
        self._thread = threading.Thread(
            target=self._run, args=(self._wake,), name=f"observe {name}", daemon=True
        )

    def take(self, looked: Looked) -> bool:
        """Whether it is looked at from now on; not where the thread is about to end, or has."""
        with self._lock:
            began = self._thread.ident is not None
            if self._wake is None or (began and not self._thread.is_alive()):
                return False
            self._joining.append(looked)
            if began:
                os.eventfd_write(self._wake, 1)
            else:
                self._thread.start()
            return True

    def ask(self, looked: Looked) -> None:
        """Look at it now."""
        with self._lock:
            if self._wake is not None:
                self._asked.add(looked)
                os.eventfd_write(self._wake, 1)

    def is_here(self) -> bool:
        """Whether the caller is this thread."""
        return threading.current_thread() is self._thread

    # -- the thread -------------------------------------------------------------------------------

    def _run(self, wake: int) -> None:
        self._poll.register(wake, select.POLLIN)
        while self._take_in():
            now = time.monotonic()
            for place in [each for each in self._places.values() if each.due <= now]:
                self._turn(place)
            self._wait(wake)

    def _take_in(self) -> bool:
        """Those that have joined, or were asked for; whether there is anything to do."""
        with self._lock:
            joining, self._joining = self._joining, []
            asked, self._asked = self._asked, set()
            if not joining and not self._places:
                assert self._wake is not None
                os.close(self._wake)
                self._wake = None
                return False
        for looked in joining:
            self._begin(looked)
        for looked in asked:
            if looked in self._places:
                self._places[looked].due = 0.0
        return True

    def _begin(self, looked: Looked) -> None:
        place = self._places[looked] = _Place(looked)
        try:
            place.descriptors = looked.begin()
        except Exception as problem:
            _report(problem)
            self._finish(place, problem)
        else:
            self._listen(place)

    def _turn(self, place: _Place) -> None:
        place.last = time.monotonic()
        problem: BaseException | None = None
        goes_on = False
        try:
            goes_on = place.looked.turn()
        except Exception as error:
            _report(error)
            problem = error
        if not goes_on:
            self._finish(place, problem)
            return
        interval = place.looked.interval
        now = time.monotonic()
        # At the same moments for all, so that they are looked at in one go.
        place.due = (now // interval + 1) * interval
        self._listen(place)

    def _finish(self, place: _Place, problem: BaseException | None) -> None:
        self._unlisten(place)
        del self._places[place.looked]
        try:
            place.looked.finish(problem)
        except Exception as error:
            _report(error)

    def _wait(self, wake: int) -> None:
        """Until the first is due, or one has news."""
        if not self._places:
            return
        left = min(place.due for place in self._places.values()) - time.monotonic()
        for descriptor, _ in self._poll.poll(max(0.0, left) * 1000):
            if descriptor == wake:
                with suppress(BlockingIOError):
                    os.eventfd_read(wake)
            elif descriptor in self._of:
                self._hurry(self._of[descriptor])

    def _hurry(self, place: _Place) -> None:
        """It is looked at as soon as the last time is long enough ago; till then it is heard."""
        place.due = min(place.due, place.last + LEAST_GAP)
        self._unlisten(place)

    def _listen(self, place: _Place) -> None:
        for descriptor in place.descriptors:
            if descriptor not in self._of:
                self._of[descriptor] = place
                self._poll.register(descriptor, select.POLLIN)

    def _unlisten(self, place: _Place) -> None:
        for descriptor in place.descriptors:
            if self._of.pop(descriptor, None) is not None:
                self._poll.unregister(descriptor)


def _report(problem: Exception) -> None:
    """What is to be expected is told by `finish`; a mistake is shown, and the others go on."""
    if not isinstance(problem, (errors.SandboxError, OSError)):
        sys.excepthook(type(problem), problem, problem.__traceback__)


_lock = threading.Lock()
_shared: list[Rounds] = []
"""The one that is not about to end, if any."""


def join(looked: Looked) -> Rounds:
    """Has it looked at, by the thread that it belongs to."""
    if not looked.quick:
        alone = Rounds(looked.name)
        alone.take(looked)
        return alone
    with _lock:
        if not (_shared and _shared[0].take(looked)):
            _shared[:] = [Rounds("what is read in a moment")]
            _shared[0].take(looked)
        return _shared[0]
