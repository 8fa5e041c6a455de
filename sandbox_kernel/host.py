"""Facts of this machine that a default depends on: how much memory there is to give away."""

from __future__ import annotations

import os

from sandbox_kernel.linux import reading

_UNLIMITED = 1 << 60  # cgroup v1 says 2^63 - 4096 for "no limit"


def available_memory() -> int:
    """MemAvailable, or the limit of a cgroup around this process if that is smaller. Bytes."""
    words = reading.whole("/proc/meminfo").split()
    available = int(words[words.index(b"MemAvailable:") + 1]) * 1024
    return min([available, *_enclosing_limits()])


def _enclosing_limits() -> list[int]:
    """Limits of this process's memory group and of the groups above it, v1 and v2."""
    limits = []
    try:
        lines = os.fsdecode(reading.whole("/proc/self/cgroup")).splitlines()
    except OSError:
        return []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        roots: tuple[str, ...]
        if controllers == "":
            roots, name = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"), "memory.max"
        elif "memory" in controllers.split(","):
            roots, name = ("/sys/fs/cgroup/memory",), "memory.limit_in_bytes"
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for root in roots:
            for depth in range(len(parts), -1, -1):
                number = _read_number("/".join([root, *parts[:depth], name]))
                if number is not None and number < _UNLIMITED:
                    limits.append(number)
    return limits


def _read_number(path: str) -> int | None:
    try:
        return int(reading.whole(path))
    except (OSError, ValueError):  # not there, or "max"
        return None
