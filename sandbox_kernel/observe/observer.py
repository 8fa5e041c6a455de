"""A thread that looks at a source until it is over, and tells of what it saw.

It reads the kernel's files itself, so neither a busy cell in a container nor a busy launcher delays
it. Between two looks it waits for what the source names, such as the end of the container, so it
ends with it at once.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable
from typing import Any

from sandbox_kernel import errors
from sandbox_kernel.observe.source import Source

LEAST_GAP = 0.04
"""Seconds: a source that has news without end is looked at no more often."""
STOP_SECONDS = 10.0
ENDED = "the container ended"
STOPPED = "stopped"


class Observer:
    """Calls `told` with facts from a thread of its own; after the last ones `ended` with why."""

    def __init__(
        self,
        source: Source,
        told: Callable[[Any], None],
        ended: Callable[[str], None] = lambda why: None,
    ) -> None:
        self.source = source
        self._told = told
        self._ended = ended
        self._lock = threading.Lock()
        self._looked = threading.Event()
        self._stopping = False
        self._wake: int | None = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(
            target=self._run, args=(self._wake,), name=f"observe {source.name}", daemon=True
        )
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether facts still come."""
        return self._thread.is_alive()

    def wait_looked(self, seconds: float) -> bool:
        """Whether the first facts were told, or none will come, within so many seconds."""
        return self._looked.wait(seconds)

    def wait_ended(self, seconds: float) -> bool:
        """Whether `ended` was called, and has returned, within so many seconds."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def look(self) -> None:
        """Look now rather than when it is time."""
        with self._lock:
            if self._wake is not None:
                os.eventfd_write(self._wake, 1)

    def stop(self, *, wait: bool = True) -> None:
        """Nothing is told after this returns, or soon. May be called twice, and by `told`."""
        self._stopping = True
        self.look()
        if wait and threading.current_thread() is not self._thread:
            self._thread.join(STOP_SECONDS)

    # -- the thread -------------------------------------------------------------------------------

    def _run(self, wake: int) -> None:
        why = ENDED
        try:
            poll = select.poll()
            poll.register(wake, select.POLLIN)
            for descriptor in self.source.open():
                poll.register(descriptor, select.POLLIN)
            self._look_until_over(poll)
        except (errors.SandboxError, OSError, TimeoutError) as problem:
            why = errors.shown(problem)
        finally:
            if self._stopping and not self.source.over():
                why = STOPPED
            with self._lock:
                self._wake = None
                os.close(wake)
            self.source.close()
            self._looked.set()
            self._ended(why)

    def _look_until_over(self, poll: select.poll) -> None:
        """At even distances, and when a descriptor says that there is something to see."""
        due = time.monotonic()
        while not self._stopping:
            facts = self.source.look()
            if facts is None:
                return
            self._told(facts)
            self._looked.set()
            now = time.monotonic()
            due = max(due + self.source.interval, now)
            if poll.poll(max(0.0, due - now) * 1000):
                due = time.monotonic()
                with self._lock:
                    if self._wake is not None:
                        _empty(self._wake)
                if not self._stopping and due - now < LEAST_GAP:
                    self._pause(LEAST_GAP - (due - now))

    def _pause(self, seconds: float) -> None:
        """Lets a moment pass, or less when it is to stop."""
        assert self._wake is not None
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        poll.poll(seconds * 1000)


def _empty(eventfd: int) -> None:
    try:
        os.eventfd_read(eventfd)
    except BlockingIOError:
        return
