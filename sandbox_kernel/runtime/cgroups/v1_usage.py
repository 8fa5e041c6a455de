"""cgroup v1: what the processes of a group used, out of the files of its controllers."""

from __future__ import annotations

from sandbox_kernel.runtime.cgroups import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Read = Callable[[str, str], str | None]
    """What is in a file of a controller; None: there is no such file."""

FILES = (
    ("cpuacct", "cpuacct.usage"),
    ("cpu", "cpu.stat"),
    ("blkio", "blkio.throttle.io_service_bytes"),
    ("memory", "memory.usage_in_bytes"),
    ("memory", "memory.max_usage_in_bytes"),
    ("memory", "memory.oom_control"),
    ("pids", "pids.current"),
    ("pids", "pids.peak"),
)
"""All that `read` asks for: controller and name."""


def of(directories: Mapping[str, str], *, held_back: bool = True) -> dict[str, int | float | None]:
    """What the processes of these groups used, by controller's directory."""

    def one(controller: str, name: str) -> str | None:
        directory = directories.get(controller)
        try:
            return None if directory is None else files.read(f"{directory}/{name}")
        except FileNotFoundError:
            return None

    return read(one, held_back=held_back)


def read(one: Read, *, held_back: bool = True) -> dict[str, int | float | None]:
    """The same of what each file says. Without `held_back` its time was never held back."""
    used = _number(one("cpuacct", "cpuacct.usage"))
    throttled: int | None = 0
    if held_back:
        throttled = files.parsed(one("cpu", "cpu.stat") or "").get("throttled_time")
    moved = _block_bytes(one("blkio", "blkio.throttle.io_service_bytes"))
    return {
        "cpu_seconds": None if used is None else used / 1e9,
        "memory_bytes": _number(one("memory", "memory.usage_in_bytes")),
        "memory_peak_bytes": _number(one("memory", "memory.max_usage_in_bytes")),
        "pids": _number(one("pids", "pids.current")),
        "pids_peak": _number(one("pids", "pids.peak")),
        "throttled_seconds": None if throttled is None else throttled / 1e9,
        "read_bytes": moved.get("Read"),
        "written_bytes": moved.get("Write"),
        "oom_kills": files.parsed(one("memory", "memory.oom_control") or "").get("oom_kill"),
    }


def table(directories: Mapping[str, str], controller: str, name: str) -> dict[str, int]:
    """One file with lines "key number"; empty when it is not there."""
    directory = directories.get(controller)
    return {} if directory is None else files.read_table(f"{directory}/{name}")


def _block_bytes(text: str | None) -> dict[str, int]:
    """Bytes moved by direction. Empty without counters: "Total" alone, or no blkio group."""
    sums: dict[str, int] = {}
    for key, count in files.parsed(text or "").items():
        _, _, direction = key.partition(" ")
        if direction:
            sums[direction] = sums.get(direction, 0) + count
    return sums


def _number(text: str | None) -> int | None:
    return None if text is None or text == "max" else int(text)
