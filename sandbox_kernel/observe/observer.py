"""A thread that samples a container until the container ends.

It reads the files of the control groups itself, so neither a busy cell in the container nor a busy
launcher delays it; the launcher is asked for the limits alone, seldom. Between samples it waits for
the container's end, so it ends with it at once.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from sandbox_kernel import errors
from sandbox_kernel.observe.observed import Observed
from sandbox_kernel.observe.sampling import Limits, Reading, Sample, sample
from sandbox_kernel.runtime import cgroups

INTERVAL = 0.5
LIMITS_SECONDS = 2.0
"""How old the limits may be that a sample is measured against."""
STOP_SECONDS = 10.0
ENDED = "the container ended"
STOPPED = "stopped"


class Observer:
    """Calls `told` with each sample from a thread of its own; after the last, `ended` with why."""

    def __init__(
        self,
        container: Observed,
        told: Callable[[Sample], None],
        ended: Callable[[str], None] = lambda why: None,
        *,
        interval: float = INTERVAL,
    ) -> None:
        if not interval > 0:
            raise errors.InvalidOption("interval", interval, "seconds, more than 0")
        self.container = container
        self.limits = Limits()
        self._told = told
        self._ended = ended
        self._interval = interval
        self._groups = container.cgroup_paths()
        self._before: Reading | None = None
        self._limits_due = 0.0
        self._writable: int | None = None
        self._lock = threading.Lock()
        self._sampled = threading.Event()
        self._stop: int | None = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(
            target=self._run, args=(self._stop,), name=f"observe {container.name}", daemon=True
        )
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether samples still come."""
        return self._thread.is_alive()

    def wait_sampled(self, seconds: float) -> bool:
        """Whether the first sample was told, or none will come, within so many seconds."""
        return self._sampled.wait(seconds)

    def wait_ended(self, seconds: float) -> bool:
        """Whether `ended` was called, and has returned, within so many seconds."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def stop(self, *, wait: bool = True) -> None:
        """No more samples after this returns, or soon. May be called twice, and by `told`."""
        with self._lock:
            if self._stop is not None:
                os.eventfd_write(self._stop, 1)
        if wait and threading.current_thread() is not self._thread:
            self._thread.join(STOP_SECONDS)

    # -- the thread -------------------------------------------------------------------------------

    def _run(self, stop: int) -> None:
        opened = [stop]
        why = ENDED
        try:
            poll = select.poll()
            poll.register(stop, select.POLLIN)
            with suppress(ProcessLookupError):
                opened.append(os.pidfd_open(self.container.pid))
                poll.register(opened[-1], select.POLLIN)
                with suppress(errors.SandboxError, OSError, TimeoutError):
                    self._writable, _ = self.container.open_writable()
                    opened.append(self._writable)
                if stop in self._sample_until(poll):
                    why = STOPPED
        finally:
            with self._lock:
                self._stop = None
            for descriptor in opened:
                os.close(descriptor)
            self._sampled.set()
            self._ended(why)

    def _sample_until(self, poll: select.poll) -> list[int]:
        """Samples at even distances, until descriptors say that it is over: these; or none do."""
        due = time.monotonic()
        while self._take():
            due = max(due + self._interval, time.monotonic())
            if said := poll.poll(max(0.0, due - time.monotonic()) * 1000):
                return [descriptor for descriptor, _ in said]
        return []

    def _take(self) -> bool:
        """One sample. False: the groups are gone."""
        try:
            usage: dict[str, Any] = cgroups.usage(self._groups)
        except OSError:
            return False
        if self._groups and all(value is None for value in usage.values()):
            return False
        if self._writable is not None:
            found = os.fstatvfs(self._writable)
            usage["storage_bytes"] = (found.f_blocks - found.f_bfree) * found.f_frsize
            usage["storage_limit"] = found.f_blocks * found.f_frsize
        now = Reading(time.monotonic(), usage)
        if now.at >= self._limits_due:
            # A container that is ending has none to read: those read last were in force.
            with suppress(errors.SandboxError, OSError, TimeoutError):
                self.limits = Limits.read(self.container.limits(), usage.get("storage_limit"))
            self._limits_due = now.at + LIMITS_SECONDS
        before, self._before = self._before, now
        self._told(sample(before, now, self.limits, time.time()))
        self._sampled.set()
        return True
