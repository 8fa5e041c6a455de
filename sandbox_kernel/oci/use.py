"""`events`: what a container uses, as lines of JSON."""

from __future__ import annotations

import json
import os
import re
import sys

from sandbox_kernel.errors import InvalidOption
from sandbox_kernel.linux import processes, waiting
from sandbox_kernel.oci import state
from sandbox_kernel.runtime.cgroups import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def tell(known: Mapping[str, Any], *, once: bool, interval: str) -> None:
    """Print its use now, and again after each interval until it ends. Raises InvalidOption."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)", interval)
    if found is None:
        raise InvalidOption("--interval", interval, "a time such as 5s")
    seconds = float(found[1]) * UNITS[found[2]]
    if once:
        _print(known)
        return
    pidfd = processes.pidfd_open(known["pid"])
    try:
        while state.lives(known):
            _print(known)
            if waiting.readable(pidfd, seconds):
                return
    finally:
        os.close(pidfd)


def _print(known: Mapping[str, Any]) -> None:
    groups = known["groups"]
    data = _v2(groups[""]) if "" in groups else _v1(groups)
    print(json.dumps({"type": "stats", "id": known["id"], "data": data}))
    sys.stdout.flush()


def _v1(groups: Mapping[str, str]) -> dict[str, Any]:
    def number(controller: str, name: str) -> int:
        folder = groups.get(controller)
        return (files.read_number(f"{folder}/{name}") or 0) if folder else 0

    def memory(kind: str) -> dict[str, int]:
        stem = f"memory{kind}"
        return {
            "usage": number("memory", f"{stem}.usage_in_bytes"),
            "max": number("memory", f"{stem}.max_usage_in_bytes"),
            "limit": number("memory", f"{stem}.limit_in_bytes"),
            "failcnt": number("memory", f"{stem}.failcnt"),
        }

    throttling = files.read_table(f"{groups['cpu']}/cpu.stat") if "cpu" in groups else {}
    raw = files.read_table(f"{groups['memory']}/memory.stat") if "memory" in groups else {}
    return {
        "cpu": {
            "usage": {"total": number("cpuacct", "cpuacct.usage")},
            "throttling": {
                "periods": throttling.get("nr_periods", 0),
                "throttledPeriods": throttling.get("nr_throttled", 0),
                "throttledTime": throttling.get("throttled_time", 0),
            },
        },
        "memory": {"usage": memory(""), "swap": memory(".memsw"), "raw": raw},
        "pids": {"current": number("pids", "pids.current"), "limit": number("pids", "pids.max")},
    }


def _v2(folder: str) -> dict[str, Any]:
    def number(name: str) -> int:
        return files.read_number(f"{folder}/{name}") or 0

    cpu = files.read_table(f"{folder}/cpu.stat")
    return {
        "cpu": {
            "usage": {"total": cpu.get("usage_usec", 0) * 1000},
            "throttling": {
                "periods": cpu.get("nr_periods", 0),
                "throttledPeriods": cpu.get("nr_throttled", 0),
                "throttledTime": cpu.get("throttled_usec", 0) * 1000,
            },
        },
        "memory": {
            "usage": {
                "usage": number("memory.current"),
                "max": number("memory.peak"),
                "limit": number("memory.max"),
            },
            "raw": files.read_table(f"{folder}/memory.stat"),
        },
        "pids": {"current": number("pids.current"), "limit": number("pids.max")},
    }
