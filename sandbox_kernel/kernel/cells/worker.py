"""The thread that runs cells, one after another, and what it hands to the loop of the sockets."""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

MOST_WAITING = 256
"""Messages on their way to the sockets; a cell that writes faster waits."""


class Worker:
    """Jobs in, calls for the loop's thread out. `wake` is readable when there are calls."""

    def __init__(self) -> None:
        self.wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._calls: deque[Callable[[], None]] = deque()
        self._room = threading.Semaphore(MOST_WAITING)
        self._over = False
        self._thread = threading.Thread(target=self._work, name="cells", daemon=True)
        self._thread.start()

    def do(self, job: Callable[[], None]) -> None:
        """Run it after all that was given before."""
        self._jobs.put(job)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def hand_over(self, call: Callable[[], None]) -> None:
        """From the worker: let the loop make this call. Waits while the loop has enough of them."""
        while not self._room.acquire(timeout=1.0):
            if self._over:
                return
        self._calls.append(call)
        os.eventfd_write(self.wake, 1)

    def take(self, *, more: Callable[[], bool]) -> None:
        """In the loop: make the calls that wait, as long as there may be `more`."""
        with suppress(BlockingIOError):
            os.eventfd_read(self.wake)
        while self._calls and more():
            call = self._calls.popleft()
            self._room.release()
            call()

    @property
    def waiting(self) -> bool:
        """Whether calls wait to be taken."""
        return bool(self._calls)

    def end(self, seconds: float) -> bool:
        """No more jobs; whether the last one is over by then."""
        self._over = True
        self._jobs.put(None)
        self._thread.join(seconds)
        return not self._thread.is_alive()
