"""The comparison of walls as a source of facts: measured one by one, and again when asked."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from os import EFD_CLOEXEC, EFD_NONBLOCK, close, eventfd, eventfd_write
from threading import Event, Lock, Thread

from sandbox_kernel.observe import comparing
from sandbox_kernel.observe.comparing import Measured
from sandbox_kernel.observe.source import Source, drained

END_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Compared:
    """What is known so far."""

    image: str
    measured: tuple[Measured, ...]
    running: str
    """The wall that is being measured; "" when all are done."""
    taken: float
    """When the last one was measured, seconds since the epoch; 0 before the first."""


class Comparison(Source):
    """Measures when it is opened, in a thread of its own."""

    def __init__(self, image: str = "host", walls: Sequence[str] = comparing.WALLS) -> None:
        super().__init__(image, None, 60.0)
        self._image = image
        self._walls = tuple(walls)
        self._lock = Lock()
        self._stop = Event()
        self._news = -1
        self._thread: Thread | None = None
        self._measured: dict[str, Measured] = {}
        self._running = ""
        self._taken = 0.0

    def again(self) -> None:
        """Measure once more, if it is not going on."""
        with self._lock:
            if self._running or self._news < 0:
                return
            self._measured = {}
            self._running = self._walls[0]
            self._thread = Thread(target=self._measure, name="compare walls", daemon=True)
            self._thread.start()

    @property
    def settled(self) -> bool:
        """Whether all walls are measured."""
        with self._lock:
            return not self._running

    def opened(self) -> Sequence[int]:
        self._news = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        self.again()
        return [self._news]

    def closed(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(END_SECONDS)
        with self._lock:
            close(self._news)
            self._news = -1

    def facts(self) -> Compared:
        drained(self._news)
        with self._lock:
            return Compared(self._image, tuple(self._measured.values()), self._running, self._taken)

    def _measure(self) -> None:
        for wall in self._walls:
            if self._stop.is_set():
                break
            with self._lock:
                self._running = wall
            self._tell()
            found = comparing.measure(wall, self._image)
            with self._lock:
                self._measured[wall] = found
                self._taken = time.time()
        with self._lock:
            self._running = ""
        self._tell()

    def _tell(self) -> None:
        with self._lock:
            if self._news >= 0:
                eventfd_write(self._news, 1)
