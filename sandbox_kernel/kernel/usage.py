"""What a cell used, for the metadata of its reply: differences of the container's counters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

GROWING = ("cpu_seconds", "throttled_seconds", "read_bytes", "written_bytes", "oom_kills")
STANDING = ("memory_bytes", "memory_peak_bytes", "pids", "pids_peak")


def of_cell(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> dict[str, Any]:
    """Counters that only grow as their growth in this cell, the others as they are."""
    told: dict[str, Any] = {}
    for name in GROWING:
        now = after.get(name)
        if now is not None:
            then = (before or {}).get(name) or 0
            told[name] = round(now - then, 6)
    for name in STANDING:
        if after.get(name) is not None:
            told[name] = after[name]
    return told
