"""Control groups of cells: below their container's, each with limits, kill and counters of its own.

A cell may use what its container has left, less a reserve, so a cell that takes too much is ended
by its own limit, and never takes with it the states that other cells left in the container.
"""

from __future__ import annotations

import os

from sandbox_kernel.errors import HostLacks
from sandbox_kernel.runtime.cgroups import contract, files, v1, v1_limits, v1_usage, v2, v2_limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

OF_A_CELL = ("freezer", "memory", "pids", "cpuacct", "cpu")
NEEDED = ("memory", "pids")
V2 = ""
RESERVE = 8 << 20
"""Bytes that stay for what of ours runs beside the cell."""
RESERVED_PROCESSES = 8


class CellGroup:
    """The group of one cell. Made empty, with its limits in force."""

    def __init__(self, container: contract.Group, name: str) -> None:
        above = container.paths()
        container.touched = True
        self._v2 = V2 in above
        if not self._v2 and any(controller not in above for controller in NEEDED):
            raise HostLacks(
                "run a cell in a group of its own: the controllers memory and pids are not there "
                f"for this user: {contract.HAND_OVER}, or use `%sandbox mode fresh`"
            )
        limits = _limits(container)
        self._directories: dict[str, str] = {}
        try:
            if self._v2:
                _hand_on(above[V2])
            for controller in (V2,) if self._v2 else OF_A_CELL:
                if controller in above:
                    directory = f"{above[controller]}/{name}"
                    files.make(directory)
                    self._directories[controller] = directory
            if self._v2:
                files.write(f"{self._directories[V2]}/memory.oom.group", "1")
                v2_limits.set_new(self._directories[V2], limits)
            else:
                v1_limits.set_new(self._directories, limits)
        except BaseException:
            self.remove()
            raise
        self.limits = {"memory": limits.get("memory"), "pids_limit": limits.get("pids_limit")}

    def entrances(self) -> list[int]:
        """Descriptors to which pid 1 of the container writes who is to come in."""
        places = dict.fromkeys(self._directories.values())
        return files.open_all([f"{place}/cgroup.procs" for place in places])

    def holds(self, pid: int) -> bool:
        """Whether this process of the host is in it, in each hierarchy."""
        return all(pid in files.members(place) for place in self._directories.values())

    def is_empty(self) -> bool:
        """Whether nobody is in it."""
        return not any(files.members(place) for place in self._directories.values())

    def kill(self) -> None:
        """SIGKILL all that is in it; returns when it is empty."""
        if self._v2:
            v2.kill(self._directories[V2])
        else:
            v1.kill(self._directories)

    def usage(self) -> dict[str, Any]:
        """What it used, and how often memory or processes ran out in it."""
        if self._v2:
            here = self._directories[V2]
            refused = files.read_table(f"{here}/pids.events").get("max", 0)
            return {**v2.usage(here), "forks_refused": refused}
        refused = files.read_table(f"{self._directories['pids']}/pids.events").get("max", 0)
        return {**v1_usage.of(self._directories), "forks_refused": refused}

    def remove(self) -> None:
        """Its processes are gone or going."""
        for place in dict.fromkeys(self._directories.values()):
            files.remove(place)


def room(container: contract.Group) -> tuple[int | None, int | None]:
    """Bytes and processes that the container has left; None: it has no limit."""
    limits, used = container.limits(), container.usage()
    memory, pids = limits.get("memory"), limits.get("pids_limit")
    if memory is not None:
        memory -= (used["memory_bytes"] or 0) - _reclaimable(container.paths())
    if pids is not None:
        pids -= used["pids"] or 0
    return memory, pids


def ran_out(container: contract.Group) -> bool:
    """On v2: whether the container itself reached its memory limit, and not a cell in it.

    The events of a group count those of the groups below it; the local ones do not.
    """
    directory = container.paths().get(V2)
    if directory is None:
        return True  # v1 tells a group only of its own end of memory
    return files.read_table(f"{directory}/memory.events.local").get("oom", 0) > 0


def _limits(container: contract.Group) -> dict[str, Any]:
    memory, pids = room(container)
    limits: dict[str, Any] = {}
    if memory is not None:
        size = max(1 << 20, memory - RESERVE) // contract.PAGE * contract.PAGE
        limits["memory"] = size
        if container.limits().get("memory_swap") is not None:
            limits["memory_swap"] = size
    if pids is not None:
        limits["pids_limit"] = max(1, pids - RESERVED_PROCESSES)
    return limits


def _reclaimable(paths: Mapping[str, str]) -> int:
    """Copies of files of a disk: the kernel drops them when the memory is wanted."""
    directory = paths.get(V2) or paths.get("memory")
    table = files.read_table(f"{directory}/memory.stat") if directory else {}
    total = "" if V2 in paths else "total_"
    return table.get(f"{total}inactive_file", 0) + table.get(f"{total}active_file", 0)


def _hand_on(directory: str) -> None:
    """The groups below get memory and pids of their own; the container's leaves have no limits."""
    path = f"{directory}/cgroup.subtree_control"
    on = files.read(path).split()
    for controller in NEEDED:
        if controller not in on:
            try:
                files.write(path, f"+{controller}")
            except OSError as error:
                raise HostLacks(
                    f"run a cell in a group of its own: the {controller} controller can't be "
                    f"handed on ({os.strerror(error.errno or 0)}): {contract.HAND_OVER}"
                ) from error
