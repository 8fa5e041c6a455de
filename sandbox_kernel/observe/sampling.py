"""Samples of what a container uses: what two readings of its counters say about the time between.

A reading is what the kernel counts at one moment; memory and processes stand in it as they are,
processor time only grows. A sample puts two readings and the limits together.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

PARTS = ("anon", "file", "shmem", "kernel")
PRESSURES = ("cpu", "memory", "io")
_PARTS = tuple((part, f"memory_{part}") for part in PARTS)
_PRESSURES = tuple((name, f"{name}_pressure") for name in PRESSURES)


class Reading(NamedTuple):
    """The counters of a container (see `Exit.usage`) at a moment of the monotonic clock."""

    at: float
    usage: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits that a sample is measured against; None where there is none."""

    memory: int | None = None
    processors: float | None = None
    pids: int | None = None
    storage: int | None = None
    available: float = 1.0
    """Processors that there are for the container, whatever its limit."""

    @classmethod
    def read(cls, in_force: Mapping[str, Any], storage: int | None = None) -> Limits:
        """From what the kernel reads back (`Container.limits`)."""
        cpuset = in_force.get("cpuset_cpus")
        return cls(
            memory=in_force.get("memory"),
            processors=in_force.get("cpus"),
            pids=in_force.get("pids_limit"),
            storage=storage or None,
            available=_count(cpuset) if cpuset else _processors(),
        )

    @property
    def most_processors(self) -> float:
        """What it can use at most: its limit, or all that there are for it."""
        return min(self.processors or self.available, self.available)


class Sample(NamedTuple):
    """What a container used up to a moment, and in the interval that ended then.

    None where the host has no counter, or where no interval came before.
    """

    taken: float
    """Seconds since the epoch."""
    seconds: float | None
    """Length of the interval."""
    limits: Limits
    memory_bytes: int | None
    memory_peak_bytes: int | None
    processors: float | None
    """Processors in use over the interval: 0.5 is half of one, 2.0 is two."""
    cpu_seconds: float | None
    throttled: float | None
    """Share of the interval for which the limit held processes back, at most 1."""
    throttled_seconds: float | None
    pids: int | None
    pids_peak: int | None
    read_bytes: int | None
    written_bytes: int | None
    storage_bytes: int | None
    oom_kills: int | None
    memory_parts: Mapping[str, int]
    """Bytes of `anon`, `file`, `shmem` and `kernel`, as far as the machine counts them."""
    forks_refused: int | None
    pressure: Mapping[str, float]
    """Percent of the last 10 s in which something waited for `cpu`, `memory` or `io`."""


def sample(before: Reading | None, now: Reading, limits: Limits, taken: float) -> Sample:
    """The sample of the interval between two readings."""
    usage = now.usage
    seconds = now.at - before.at if before else None
    used = _growth(before, now, "cpu_seconds") if seconds else None
    waited = _growth(before, now, "throttled_seconds") if seconds else None
    return Sample(
        taken=taken,
        seconds=seconds,
        limits=limits,
        memory_bytes=usage.get("memory_bytes"),
        memory_peak_bytes=usage.get("memory_peak_bytes"),
        processors=used / seconds if seconds and used is not None else None,
        cpu_seconds=usage.get("cpu_seconds"),
        throttled=min(1.0, waited / seconds) if seconds and waited is not None else None,
        throttled_seconds=usage.get("throttled_seconds"),
        pids=usage.get("pids"),
        pids_peak=usage.get("pids_peak"),
        read_bytes=usage.get("read_bytes"),
        written_bytes=usage.get("written_bytes"),
        storage_bytes=usage.get("storage_bytes"),
        oom_kills=usage.get("oom_kills"),
        memory_parts=_known(usage, _PARTS),
        forks_refused=usage.get("forks_refused"),
        pressure=_known(usage, _PRESSURES),
    )


def _known(usage: Mapping[str, Any], names: Sequence[tuple[str, str]]) -> dict[str, Any]:
    return {key: value for key, name in names if (value := usage.get(name)) is not None}


@functools.cache
def _processors() -> int:
    """Of the machine; the kernel takes its time to tell."""
    return os.cpu_count() or 1


def _growth(before: Reading | None, now: Reading, name: str) -> float | None:
    """How much a counter grew. It never shrinks: where it seems to, somebody reset it."""
    then = before.usage.get(name) if before else None
    value = now.usage.get(name)
    return None if then is None or value is None else max(0.0, value - then)


def _count(cpuset: str) -> int:
    """How many processors a list such as "0-2,5" names."""
    count = 0
    for part in cpuset.split(","):
        first, _, last = part.partition("-")
        count += int(last or first) - int(first) + 1
    return count
