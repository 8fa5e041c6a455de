"""System calls of a container: what its filter says; while asked, what is called and refused."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from select import epoll
from threading import Lock

from sandbox_kernel import errors
from sandbox_kernel.container import Container
from sandbox_kernel.observe import filters, processes, trials
from sandbox_kernel.observe.calls import Calls, Counted
from sandbox_kernel.observe.fact import Fact
from sandbox_kernel.observe.filters import Filter, InForce
from sandbox_kernel.observe.source import Source

MOST_OUTCOMES = 30


@dataclass(frozen=True, slots=True)
class Called:
    """What is known at one moment."""

    filter: Filter | None
    in_force: Fact[InForce]
    counting: bool
    stopped: str
    """Why counting ended by itself; "" while it did not."""
    counted: Counted
    seconds: float
    """For how long was counted."""
    rates: tuple[tuple[str, float], ...]
    """Calls in each second since the look before."""
    outcomes: tuple[trials.Outcome, ...]


class CallsOf(Source):
    """Of one container, until it ends. Nothing is counted until `count(True)`."""

    def __init__(self, container: Container) -> None:
        super().__init__(container.name, container.pid)
        self._container = container
        self._filter = filters.of_plan(container.plan)
        self._lock = Lock()
        self._calls: Calls | None = None
        self._counted = Counted()
        self._began = 0.0
        self._seconds = 0.0
        self._stopped = ""
        self._before: tuple[float, dict[str, int]] = (0.0, {})
        self._outcomes: list[trials.Outcome] = []
        self._poll: epoll | None = None

    def count(self, *, on: bool) -> None:
        """Begin to count, from nothing, or leave off. Raises StepFailed, HostLacks."""
        with self._lock:
            if on == (self._calls is not None):
                return
            if not on:
                self._leave_off("")
                return
            self._calls = Calls.of(self._container, self._container.plan)
            self._counted, self._stopped = Counted(), ""
            self._began = time.monotonic()
            self._before = (self._began, {})
            if self._poll is not None:
                self._poll.register(self._calls.fileno())

    def attempt(self, name: str) -> None:
        """Make a call in the container; its outcome is a fact from then on. Raises as `trials`."""
        outcome = trials.attempt(self._container, name)
        with self._lock:
            self._outcomes.insert(0, outcome)
            del self._outcomes[MOST_OUTCOMES:]

    def opened(self) -> Sequence[int]:
        self._poll = epoll()
        return [self._poll.fileno()]

    def closed(self) -> None:
        with self._lock:
            self._leave_off("")
            if self._poll is not None:
                self._poll.close()
                self._poll = None

    def facts(self) -> Called:
        there = [pid for pid in processes.pids(self._container) if pid != self._container.pid]
        with self._lock:
            rates = self._read() if self._calls is not None else ()
            return Called(
                filter=self._filter,
                in_force=filters.of_process(there[-1] if there else self._container.pid),
                counting=self._calls is not None,
                stopped=self._stopped,
                counted=self._counted,
                seconds=self._seconds,
                rates=rates,
                outcomes=tuple(self._outcomes),
            )

    def _read(self) -> tuple[tuple[str, float], ...]:
        assert self._calls is not None
        now = time.monotonic()
        self._seconds = now - self._began
        try:
            self._calls.follow()
            self._counted = self._calls.read()
        except errors.StepFailed as error:
            self._leave_off(str(error))
            return ()
        at, before = self._before
        after = dict(self._counted.calls)
        self._before = (now, after)
        passed = max(now - at, 1e-3)
        grown = {name: (count - before.get(name, 0)) / passed for name, count in after.items()}
        return tuple(sorted(grown.items(), key=lambda item: -item[1]))

    def _leave_off(self, why: str) -> None:
        if self._calls is None:
            return
        if self._poll is not None:
            self._poll.unregister(self._calls.fileno())
        self._calls.close()
        self._calls, self._stopped = None, why
