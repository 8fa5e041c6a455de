"""Where facts come from: looked at again and again, until what they are about is over."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, ClassVar

from sandbox_kernel import errors
from sandbox_kernel.linux import waiting

INTERVAL = 0.25
"""Seconds between two looks: a change is on the screen within 300 ms."""


class Source:
    """Facts of one kind. A thread opens it, looks, and closes it; nobody else uses it meanwhile."""

    quick: ClassVar[bool] = False
    """Whether a look takes far less than a millisecond, and never waits for anybody."""

    def __init__(self, name: str, pid: int | None = None, interval: float = INTERVAL) -> None:
        """`name`: of what is looked at. With `pid` it is over when this process ends."""
        self.name = name
        self.set_interval(interval)
        self._pid = pid
        self._pidfd: int | None = None
        self._gone = False
        self._readable = select.poll()
        self.news = False
        """Whether one of the descriptors of `opened` could be read when `look` was called."""

    def set_interval(self, seconds: float) -> None:
        """How long to wait between two looks. Raises InvalidOption."""
        if not seconds > 0:
            raise errors.InvalidOption("interval", seconds, "seconds, more than 0")
        self.interval = seconds

    def open(self) -> Sequence[int]:
        """Descriptors that are readable when it is to be looked at before the interval is over."""
        if self._pid is not None:
            try:
                self._pidfd = os.pidfd_open(self._pid)
            except ProcessLookupError:
                self._gone = True
                return ()
        watched = [*([] if self._pidfd is None else [self._pidfd]), *self.opened()]
        for descriptor in watched:
            self._readable.register(descriptor, select.POLLIN)
        return watched

    @property
    def settled(self) -> bool:
        """Whether there is nothing on its way that who looks once would want to wait for."""
        return True

    def look(self) -> Any:
        """The facts as they are now; None when it is over."""
        ready = self._ready()
        if self._gone or self._pidfd in ready:
            return None
        self.news = bool(ready)
        return self.facts()

    def close(self) -> None:
        """Lets all descriptors go."""
        self._readable = select.poll()
        self.closed()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None

    def over(self) -> bool:
        """Whether the process is gone without which there is nothing to look at."""
        return self._gone or (self._pidfd is not None and self._pidfd in self._ready())

    def _ready(self) -> list[int]:
        return [descriptor for descriptor, _ in self._readable.poll(0)]

    # -- of each kind -----------------------------------------------------------------------------

    def opened(self) -> Sequence[int]:
        """More descriptors, which `facts` reads empty and `closed` closes."""
        return ()

    def facts(self) -> Any:
        """The facts; None when there are none any more."""
        raise NotImplementedError

    def closed(self) -> None:
        """Lets go of what `opened` opened."""


class Polled(Source):
    """What one function reads, each interval."""

    def __init__(
        self,
        name: str,
        read: Callable[[], Any],
        *,
        pid: int | None = None,
        interval: float = INTERVAL,
    ) -> None:
        super().__init__(name, pid, interval)
        self._read = read

    def facts(self) -> Any:
        try:
            return self._read()
        except (errors.NoSuchContainer, errors.LauncherGone, ProcessLookupError):
            return None


def drained(descriptor: int) -> bool:
    """Whether a descriptor that does not block had something to read; it is empty then."""
    found = False
    with suppress(BlockingIOError):
        while os.read(descriptor, 65536):
            found = True
    return found


def wait(descriptors: Sequence[int], seconds: float) -> None:
    """Until one of them is readable, at most so long: for who looks without an observer."""
    waiting.ready(descriptors, (), seconds)
