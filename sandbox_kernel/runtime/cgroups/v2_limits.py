"""cgroup v2: the files of each limit; setting them all or none, and reading them back.

Source: Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import contextlib

from sandbox_kernel.runtime.cgroups import contract, files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

# Limit -> controller and file. `memory_swap` is memory with swap; the file holds swap alone.
FILE_OF_LIMIT = {
    "memory": ("memory", "memory.max"),
    "memory_swap": ("memory", "memory.swap.max"),
    "cpus": ("cpu", "cpu.max"),
    "cpu_shares": ("cpu", "cpu.weight"),
    "cpuset_cpus": ("cpuset", "cpuset.cpus"),
    "pids_limit": ("pids", "pids.max"),
    "device_read_bps": ("io", "io.max"),
    "device_write_bps": ("io", "io.max"),
}
KEY_OF_RATE = {"device_read_bps": "rbps", "device_write_bps": "wbps"}


def set_new(directory: str, limits: Mapping[str, Any]) -> None:
    """Set the limits of a group that was just made. LimitNotEnforceable."""
    _Change(directory, None).apply(limits)


def change(directory: str, limits: Mapping[str, Any]) -> None:
    """Change the limits of a live group: all of them, or none and LimitNotEnforceable."""
    undo: list[tuple[str, str]] = []
    try:
        _Change(directory, undo).apply(limits)
    except BaseException:
        for path, text in reversed(undo):
            # The first error says more than that the way back is closed, too.
            with contextlib.suppress(OSError):
                files.write(path, text)
        raise


def read(directory: str) -> dict[str, Any]:
    """The limits in force; None where there is none."""
    found: dict[str, Any] = dict.fromkeys(contract.LIMITS)
    found["memory"] = files.read_number(f"{directory}/memory.max")
    swap = files.read_number(f"{directory}/memory.swap.max")
    if swap is not None and found["memory"] is not None:
        found["memory_swap"] = found["memory"] + swap
    found["pids_limit"] = files.read_number(f"{directory}/pids.max")
    with contextlib.suppress(FileNotFoundError):
        quota, period = files.read(f"{directory}/cpu.max").split()
        found["cpus"] = None if quota == "max" else int(quota) / int(period)
        found["cpu_shares"] = shares_of(int(files.read(f"{directory}/cpu.weight")))
    with contextlib.suppress(FileNotFoundError):
        found["cpuset_cpus"] = files.read(f"{directory}/cpuset.cpus") or None
    with contextlib.suppress(FileNotFoundError):
        lines = files.read(f"{directory}/io.max").splitlines()
        for limit, key in KEY_OF_RATE.items():
            rates = [(line.split(" ")[0], _rate(line, key)) for line in lines]
            found[limit] = [f"{device} {rate}" for device, rate in rates if rate] or None
    return found


def weight_of(shares: int) -> int:
    """cpu.weight for docker's shares: 2 -> 1, 1024 -> 100, 262144 -> 10000.

    The formula of runc and crun since 2025 (runc, `ConvertCPUSharesToCgroupV2Value`): a quadratic
    function of the logarithm, so that the two defaults meet.
    """
    from math import ceil, log2

    power = log2(min(max(shares, 2), 262144))
    return ceil(10 ** ((power * power + 125 * power) / 612 - 7 / 34))


def shares_of(weight: int) -> int:
    """The fewest shares that give at least this weight."""
    low, high = 2, 262144
    while low < high:
        middle = (low + high) // 2
        if weight_of(middle) < weight:
            low = middle + 1
        else:
            high = middle
    return 1024 if weight == 100 else low


def _rate(line: str, key: str) -> str | None:
    for field in line.split(" ")[1:]:
        name, _, rate = field.partition("=")
        if name == key and rate != "max":
            return rate
    return None


class _Change:
    """One setting of several limits; `undo` collects (file, text before), None: a new group."""

    def __init__(self, directory: str, undo: list[tuple[str, str]] | None) -> None:
        self._directory = directory
        self._undo = undo

    def apply(self, limits: Mapping[str, Any]) -> None:
        if "memory" in limits or "memory_swap" in limits:
            self._memory(limits.get("memory"), limits.get("memory_swap"))
        if "cpus" in limits:
            quota, period = limits["cpus"]
            text = f"{quota if quota > 0 else 'max'} {period}"
            self._same("cpus", text, limits["cpus"])
        if "cpu_shares" in limits:
            shares = limits["cpu_shares"]
            self._same("cpu_shares", str(weight_of(shares)), shares)
        if "cpuset_cpus" in limits:
            self._cpuset(limits["cpuset_cpus"])
        if "pids_limit" in limits:
            count = limits["pids_limit"]
            self._same("pids_limit", str(count) if count > 0 else "max", count)
        for limit, key in KEY_OF_RATE.items():
            for rule in limits.get(limit, ()):
                self._device_rate(limit, key, rule)

    def _memory(self, memory: int | None, total: int | None) -> None:
        """memory.max, and what of `total` is left for memory.swap.max.

        When only the memory changes, what was allowed as swap stays allowed.
        """
        if memory is not None:
            if self._undo is not None and memory > 0:
                self._reclaim(memory)
            self._size("memory", memory, memory)
        if total is not None:
            if memory is None:
                memory = files.read_number(f"{self._directory}/memory.max") or -1
            if total > 0 and (memory <= 0 or total < memory):
                raise contract.refused(
                    "memory_swap",
                    total,
                    "memory with swap can't be less than memory",
                    "ask for at least the size of `--memory`",
                )
            self._size("memory_swap", total - memory if total > 0 else -1, total)

    def _reclaim(self, size: int) -> None:
        """Make room before a live limit goes down; the kernel would kill for it, not refuse.

        memory.high reclaims at once and kills nobody. It goes back to what it was.
        """
        current = f"{self._directory}/memory.current"
        if int(files.read(current)) <= size:
            return
        high = f"{self._directory}/memory.high"
        before = files.read(high)
        files.write(high, str(size))
        used = int(files.read(current))
        files.write(high, before)
        if used > size:
            raise contract.refused(
                "memory",
                size,
                f"{used} bytes are in use and can't be reclaimed",
                "end processes in it first, or ask for more than that",
            )

    def _size(self, limit: str, size: int, asked: int) -> None:
        unlimited = size < 0 or asked <= 0
        shown = self._write(limit, "max" if unlimited else str(size), asked)
        number = None if shown == "max" else int(shown)
        if unlimited != (number is None) or not (unlimited or contract.same_size(size, number)):
            raise contract.altered(limit, asked, shown)

    def _cpuset(self, cpus: str) -> None:
        """The kernel takes any number; which CPUs there are, the effective set says."""
        shown = self._write("cpuset_cpus", cpus, cpus)
        effective = files.read(f"{self._directory}/cpuset.cpus.effective")
        if contract.cpu_set(shown) != contract.cpu_set(cpus) or contract.cpu_set(
            effective
        ) != contract.cpu_set(cpus):
            raise contract.refused(
                "cpuset_cpus", cpus, f"the CPUs to be had are {effective}", "name some of these"
            )

    def _device_rate(self, limit: str, key: str, rule: Mapping[str, int]) -> None:
        device = f"{rule['major']}:{rule['minor']}"
        rate = str(rule["rate"]) if rule["rate"] > 0 else "max"
        path = f"{self._directory}/io.max"
        try:
            lines = files.read(path).splitlines()
            before = [_rate(line, key) for line in lines if line.startswith(device + " ")]
            shown = files.write_and_read(path, f"{device} {key}={rate}")
        except OSError as error:
            raise contract.refused(limit, [rule], *contract.why(error, limit)) from error
        if self._undo is not None:
            self._undo.append((path, f"{device} {key}={(before or [None])[0] or 'max'}"))
        after = [_rate(line, key) for line in shown.splitlines() if line.startswith(device + " ")]
        if ((after or [None])[0] or "max") != rate:
            raise contract.altered(limit, [rule], shown)

    def _same(self, limit: str, text: str, asked: object) -> None:
        """Write the file of a limit, which must read back the same."""
        shown = self._write(limit, text, asked)
        if shown != text:
            raise contract.altered(limit, asked, shown)

    def _write(self, limit: str, text: str, asked: object) -> str:
        path = f"{self._directory}/{FILE_OF_LIMIT[limit][1]}"
        try:
            if self._undo is not None:
                self._undo.append((path, files.read(path)))
            return files.write_and_read(path, text)
        except OSError as error:
            raise contract.refused(limit, asked, *contract.why(error, limit)) from error
