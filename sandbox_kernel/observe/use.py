"""What a container uses against its limits, sampled: from its control group and its files."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from sandbox_kernel import errors
from sandbox_kernel.linux import inotify
from sandbox_kernel.observe.fact import Fact
from sandbox_kernel.observe.groups import Group
from sandbox_kernel.observe.observed import Observed
from sandbox_kernel.observe.sampling import Limits, Reading, Sample, sample
from sandbox_kernel.observe.source import INTERVAL, Source, drained

TELLING = ("memory.events", "pids.events", "cgroup.events")
"""Files of a group of version 2 that tell when they change."""
MEASURED = ("memory", "cpu_quota_seconds", "cpu_period_seconds", "pids_limit")
MARKED = ("out_of_memory", "forks_refused")
"""What a sample has of the limits, and of what happened: no more is read."""


class Use(Source):
    """Samples of one container until it ends."""

    quick = True

    def __init__(self, container: Observed, interval: float = INTERVAL) -> None:
        super().__init__(container.name, container.pid, interval)
        self._container = container
        self._paths = container.cgroup_paths()
        self._group: Group | None = None
        self._before: Reading | None = None
        self._writable: int | None = None
        self._watches: list[int] = []

    def opened(self) -> Sequence[int]:
        self._group = Group(self._paths)
        with suppress(errors.SandboxError, OSError, TimeoutError):
            self._writable, _ = self._container.open_writable()
        for name in TELLING if "" in self._paths else ():
            with suppress(OSError):  # this group has not got it, or is gone: `facts` sees that
                self._watches.append(inotify.watch_modified(f"{self._paths['']}/{name}"))
        return self._watches

    def closed(self) -> None:
        if self._group is not None:
            self._group.close()
        for descriptor in (*self._watches, *([] if self._writable is None else [self._writable])):
            os.close(descriptor)
        self._group, self._watches, self._writable = None, [], None

    def facts(self) -> Sample | None:
        """One sample; None: the group is gone."""
        assert self._group is not None
        for watch in self._watches:
            drained(watch)
        usage = read(self._group)
        if self._paths and all(value is None for value in usage.values()):
            return None
        if self._writable is not None:
            found = os.fstatvfs(self._writable)
            usage["storage_bytes"] = (found.f_blocks - found.f_bfree) * found.f_frsize
            usage["storage_limit"] = found.f_blocks * found.f_frsize
        now = Reading(time.monotonic(), usage)
        before, self._before = self._before, now
        limits = in_force(self._group, usage.get("storage_limit"))
        return sample(before, now, limits, time.time())


def read(group: Group) -> dict[str, Any]:
    """The counters of a group by the names of `Exit.usage`, and what else a sample has."""
    usage = {name: fact.value for name, fact in group.usage().items()}
    events = group.events(MARKED)
    cache, shared = usage.pop("file_bytes"), usage.pop("shared_bytes")
    whole: dict[str, Any] = {
        **usage,
        "memory_anon": usage.pop("anonymous_bytes"),
        "memory_shmem": shared,
        "memory_file": None if cache is None or shared is None else max(0, cache - shared),
        "memory_kernel": usage.pop("kernel_bytes"),
        "oom_kills": events["out_of_memory"].value,
        "forks_refused": events["forks_refused"].value,
    }
    for name, pressure in group.pressure().items():
        whole[f"{name}_pressure"] = None if pressure.value is None else pressure.value.some
    return whole


def in_force(group: Group, storage: int | None = None) -> Limits:
    """The limits that a sample is measured against, as the kernel's files have them now."""
    found = group.limits(MEASURED)
    quota, period = _known(found["cpu_quota_seconds"]), _known(found["cpu_period_seconds"])
    return Limits.read(
        {
            "memory": _known(found["memory"]),
            "cpus": None if quota is None or not period else quota / period,
            "pids_limit": _known(found["pids_limit"]),
            "cpuset_cpus": group.processors() or None,
        },
        storage,
    )


def _known(limit: Fact[float]) -> Any:
    """The number, None where there is no limit or none can be read."""
    return None if limit.value is None or limit.value == float("inf") else limit.value
