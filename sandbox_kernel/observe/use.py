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
from sandbox_kernel.observe.groups import MEMORY_PARTS, USAGE, Group
from sandbox_kernel.observe.observed import Observed
from sandbox_kernel.observe.sampling import Limits, Reading, Sample, sample
from sandbox_kernel.observe.source import INTERVAL, Source, drained

TELLING = {
    "": ("memory.events", "pids.events", "cgroup.events",
         "memory.max", "cpu.max", "pids.max", "cpuset.cpus"),
    "memory": ("memory.limit_in_bytes",),
    "cpu": ("cpu.cfs_quota_us", "cpu.cfs_period_us"),
    "pids": ("pids.max",),
    "cpuset": ("cpuset.cpus",),
}  # fmt: skip
"""Files that tell: of version 2 when something happened, and of both when a limit is written."""
MEASURED = ("memory", "cpu_quota_seconds", "cpu_period_seconds", "pids_limit")
COUNTED = (
    *(name for name in USAGE if name not in MEMORY_PARTS),
    "out_of_memory",
    "forks_refused",
)
"""What a sample has of the limits, of what is used, and of what happened: no more is read."""


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
        self._watch: int | None = None
        self._watched = False
        """Whether a change of a limit is told, so that they are read only then."""
        self._limits: Limits | None = None

    def opened(self) -> Sequence[int]:
        self._group = Group(self._paths)
        with suppress(errors.SandboxError, OSError, TimeoutError):
            self._writable, _ = self._container.open_writable()
        try:
            self._watch = inotify.open_many()
            self._watched = self._watch_all(self._watch)
        except OSError:  # a user may have so many of them: then limits are read each time
            self._watched = False
        return () if self._watch is None else (self._watch,)

    def _watch_all(self, descriptor: int) -> bool:
        """Whether all files are watched that there are."""
        for controller, names in TELLING.items():
            for name in names if controller in self._paths else ():
                with suppress(FileNotFoundError):  # not counted here, or gone: `facts` sees that
                    inotify.add_file(descriptor, f"{self._paths[controller]}/{name}")
        return True

    def closed(self) -> None:
        if self._group is not None:
            self._group.close()
        for descriptor in (self._watch, self._writable):
            if descriptor is not None:
                os.close(descriptor)
        self._group = self._watch = self._writable = None

    def facts(self) -> Sample | None:
        """One sample; None: the group is gone."""
        assert self._group is not None
        changed = self.news and self._watch is not None and drained(self._watch)
        usage = read(self._group)
        if self._paths and all(value is None for value in usage.values()):
            return None
        if self._writable is not None:
            found = os.fstatvfs(self._writable)
            usage["storage_bytes"] = (found.f_blocks - found.f_bfree) * found.f_frsize
            usage["storage_limit"] = found.f_blocks * found.f_frsize
        now = Reading(time.monotonic(), usage)
        before, self._before = self._before, now
        storage = usage.get("storage_limit")
        known = self._limits
        if known is None or changed or not self._watched or known.storage != (storage or None):
            known = self._limits = in_force(self._group, storage)
        return sample(before, now, known, time.time())


def read(group: Group) -> dict[str, Any]:
    """The counters of a group by the names of `Exit.usage`, and what else a sample has."""
    usage: dict[str, Any] = group.numbers(COUNTED)
    parts = group.memory_parts(usage["memory_bytes"])
    cache, shared = parts["file_bytes"], parts["shared_bytes"]
    usage["memory_anon"] = parts["anonymous_bytes"]
    usage["memory_shmem"] = shared
    usage["memory_file"] = None if cache is None or shared is None else max(0, cache - shared)
    usage["memory_kernel"] = usage.pop("kernel_bytes")
    usage["oom_kills"] = usage.pop("out_of_memory")
    if group.version == 2:
        for name, pressure in group.pressure().items():
            usage[f"{name}_pressure"] = None if pressure.value is None else pressure.value.some
    return usage


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
