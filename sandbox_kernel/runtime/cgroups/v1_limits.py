"""cgroup v1: the files of each limit; setting them all or none, and reading them back."""

from __future__ import annotations

import contextlib
import errno

from sandbox_kernel.runtime.cgroups import contract, files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from typing import Any

UNLIMITED = 1 << 62  # memory without a limit reads back as LONG_MAX rounded down to a page

# Documentation/admin-guide/cgroup-v1: limit -> controller and file.
FILE_OF_LIMIT = {
    "memory": ("memory", "memory.limit_in_bytes"),
    "memory_swap": ("memory", "memory.memsw.limit_in_bytes"),
    "cpus": ("cpu", "cpu.cfs_quota_us"),
    "cpu_shares": ("cpu", "cpu.shares"),
    "cpuset_cpus": ("cpuset", "cpuset.cpus"),
    "pids_limit": ("pids", "pids.max"),
    "device_read_bps": ("blkio", "blkio.throttle.read_bps_device"),
    "device_write_bps": ("blkio", "blkio.throttle.write_bps_device"),
}


def set_new(directories: Mapping[str, str], limits: Mapping[str, Any]) -> dict[str, Any]:
    """Set the limits of a group that was just made, as `read` has them. LimitNotEnforceable."""
    change = _Change(directories, None)
    change.apply(limits)
    return change.shown


def change(directories: Mapping[str, str], limits: Mapping[str, Any]) -> None:
    """Change the limits of a live group: all of them, or none and LimitNotEnforceable."""
    undo: list[tuple[str, str]] = []
    try:
        _Change(directories, undo).apply(limits)
    except BaseException:
        for path, text in reversed(undo):
            # The first error says more than that the way back is closed, too.
            with contextlib.suppress(OSError):
                files.write(path, text)
        raise


def read(
    directories: Mapping[str, str],
    support: Mapping[str, str],
    limits: Collection[str] = contract.LIMITS,
) -> dict[str, Any]:
    """The limits in force; None where there is none, and for those that are not asked for."""
    found: dict[str, Any] = dict.fromkeys(contract.LIMITS)
    for limit in limits:
        controller, name = FILE_OF_LIMIT[limit]
        directory = directories.get(controller)
        if directory is None or support[limit]:
            continue
        text = files.read(f"{directory}/{name}")
        if limit == "cpus":
            period = int(files.read(f"{directory}/cpu.cfs_period_us"))
            found[limit] = int(text) / period if int(text) > 0 else None
        else:
            found[limit] = _meaning(limit, text)
    return found


def _meaning(limit: str, text: str) -> Any:
    """What the file of a limit says."""
    if limit.startswith("memory"):
        return int(text) if int(text) < UNLIMITED else None
    if limit == "cpuset_cpus":
        return text
    if limit.startswith("device"):
        return text.splitlines() or None
    return None if text == "max" else int(text)


class _Change:
    """One setting of several limits; `undo` collects (file, text before), None: a new group."""

    def __init__(self, directories: Mapping[str, str], undo: list[tuple[str, str]] | None) -> None:
        self._directories = directories
        self._undo = undo
        self.shown: dict[str, Any] = {}
        """What the kernel said of each limit when it was set, as `read` has it."""

    def apply(self, limits: Mapping[str, Any]) -> None:
        if "memory" in limits or "memory_swap" in limits:
            self._memory(limits.get("memory"), limits.get("memory_swap"))
        if "cpus" in limits:
            self._cpus(limits["cpus"])
        if "cpu_shares" in limits:
            self._same("cpu_shares", "cpu.shares", str(limits["cpu_shares"]), limits["cpu_shares"])
        if "cpuset_cpus" in limits:
            cpus = limits["cpuset_cpus"]
            shown = self._write("cpuset_cpus", "cpuset.cpus", cpus, cpus)
            if contract.cpu_set(shown) != contract.cpu_set(cpus):
                raise contract.altered("cpuset_cpus", cpus, shown)
        if "pids_limit" in limits:
            count = limits["pids_limit"]
            self._same("pids_limit", "pids.max", str(count) if count > 0 else "max", count)
        for limit in ("device_read_bps", "device_write_bps"):
            for rule in limits.get(limit, ()):
                self._rate(limit, rule)

    def _memory(self, memory: int | None, total: int | None) -> None:
        """Memory, and memory with swap (memsw), which may never be the smaller one of the two.

        When only the memory changes, what was allowed as swap stays allowed: memsw moves along.
        """
        steps = [("memory", memory), ("memory_swap", total)]
        if self._undo is not None and memory is not None:
            old = self._number("memory.limit_in_bytes")
            old_total = self._number("memory.memsw.limit_in_bytes")
            if old is not None and old_total is not None and old_total < UNLIMITED:
                if total is None:
                    steps[1] = ("memory_swap", memory + old_total - old if memory > 0 else -1)
                if memory <= 0 or memory > old_total:
                    steps.reverse()
        for limit, size in steps:
            if size is None:
                continue
            name = FILE_OF_LIMIT[limit][1]
            shown = int(self._write(limit, name, str(size if size > 0 else -1), size))
            if not (contract.same_size(size, shown) if size > 0 else shown >= UNLIMITED):
                raise contract.altered(limit, size, shown)

    def _cpus(self, asked: tuple[int, int]) -> None:
        quota, period = asked
        if self._undo is not None:
            # Lifted first: the kernel refuses a period that makes the old quota absurd.
            self._same("cpus", "cpu.cfs_quota_us", "-1", asked)
        self._same("cpus", "cpu.cfs_period_us", str(period), asked)
        self._same("cpus", "cpu.cfs_quota_us", str(quota if quota > 0 else -1), asked)
        self.shown["cpus"] = quota / period if quota > 0 else None

    def _rate(self, limit: str, rule: Mapping[str, int]) -> None:
        path = f"{self._directories['blkio']}/{FILE_OF_LIMIT[limit][1]}"
        text = contract.device_rule(rule)
        device = text.partition(" ")[0]
        before = [line for line in files.read(path).splitlines() if line.startswith(device + " ")]
        try:
            shown = files.write_and_read(path, text)
        except OSError as error:
            raise contract.refused(limit, [rule], *_why(error, limit, self._directories)) from error
        if self._undo is not None:
            self._undo.append((path, before[0] if before else f"{device} 0"))
        if (text in shown.splitlines()) != (rule["rate"] > 0):
            raise contract.altered(limit, [rule], shown)
        self.shown[limit] = _meaning(limit, shown)

    def _same(self, limit: str, name: str, text: str, asked: object) -> None:
        """Write one file that must read back the same."""
        shown = self._write(limit, name, text, asked)
        if shown != text:
            raise contract.altered(limit, asked, shown)

    def _write(self, limit: str, name: str, text: str, asked: object) -> str:
        path = f"{self._directories[FILE_OF_LIMIT[limit][0]]}/{name}"
        try:
            if self._undo is not None:
                self._undo.append((path, files.read(path)))
            shown = files.write_and_read(path, text)
        except OSError as error:
            raise contract.refused(limit, asked, *_why(error, limit, self._directories)) from error
        if limit != "cpus":
            self.shown[limit] = _meaning(limit, shown)
        return shown

    def _number(self, name: str) -> int | None:
        return files.read_number(f"{self._directories['memory']}/{name}")


def _why(error: OSError, limit: str, directories: Mapping[str, str]) -> tuple[str, str]:
    """What the kernel's errno means for this limit, and the remedy."""
    if error.errno == errno.EBUSY and limit.startswith("memory"):
        used = files.read_number(f"{directories['memory']}/memory.usage_in_bytes")
        return (
            f"{used} bytes are in use and can't be reclaimed",
            "end processes in it first, or ask for more than that",
        )
    if error.errno == errno.EINVAL and limit == "memory_swap":
        return (
            "memory with swap can't be less than memory",
            "ask for at least the size of `--memory`",
        )
    return contract.why(error, limit)
