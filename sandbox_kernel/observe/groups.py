"""The control group of a container: usage, limits, events, pressure, and the groups below it.

Sources: the group's own files, Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst. They are
opened once and read again from their beginning, so a reading is a few calls and no path is walked.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from sandbox_kernel.observe.fact import ENDED, NOT_COUNTED, Fact, read, text, why

T = TypeVar("T")

_ROOM, _MORE_ROOM = 1 << 12, 1 << 16
_UNLIMITED = 1 << 62
MOST_GROUPS = 1000
_PARTS_SECONDS = 1.0
NO_PRESSURE = "control groups of version 1 have no pressure of their own"
NO_GROUP = "the container has no control group"


class _Field(NamedTuple):
    """Where one number stands: a file of a controller, and a line of it. It is divided."""

    controller: str
    file: str
    key: str | None = None
    divisor: float = 1


# Of version 1: Documentation/admin-guide/cgroup-v1/{memory,cpuacct,pids}.rst
_V1 = {
    "memory_bytes": _Field("memory", "memory.usage_in_bytes"),
    "memory_peak_bytes": _Field("memory", "memory.max_usage_in_bytes"),
    "anonymous_bytes": _Field("memory", "memory.stat", "total_rss"),
    "file_bytes": _Field("memory", "memory.stat", "total_cache"),
    "shared_bytes": _Field("memory", "memory.stat", "total_shmem"),
    "kernel_bytes": _Field("memory", "memory.kmem.usage_in_bytes"),
    "cpu_seconds": _Field("cpuacct", "cpuacct.usage", None, 1e9),
    "throttled_seconds": _Field("cpu", "cpu.stat", "throttled_time", 1e9),
    "throttled_periods": _Field("cpu", "cpu.stat", "nr_throttled"),
    "periods": _Field("cpu", "cpu.stat", "nr_periods"),
    "pids": _Field("pids", "pids.current"),
    "pids_peak": _Field("pids", "pids.peak"),
    "read_bytes": _Field("blkio", "blkio.throttle.io_service_bytes", "Read"),
    "written_bytes": _Field("blkio", "blkio.throttle.io_service_bytes", "Write"),
}
# Of version 2: Documentation/admin-guide/cgroup-v2.rst
_V2 = {
    "memory_bytes": _Field("", "memory.current"),
    "memory_peak_bytes": _Field("", "memory.peak"),
    "anonymous_bytes": _Field("", "memory.stat", "anon"),
    "file_bytes": _Field("", "memory.stat", "file"),
    "shared_bytes": _Field("", "memory.stat", "shmem"),
    "kernel_bytes": _Field("", "memory.stat", "kernel"),
    "cpu_seconds": _Field("", "cpu.stat", "usage_usec", 1e6),
    "throttled_seconds": _Field("", "cpu.stat", "throttled_usec", 1e6),
    "throttled_periods": _Field("", "cpu.stat", "nr_throttled"),
    "periods": _Field("", "cpu.stat", "nr_periods"),
    "pids": _Field("", "pids.current"),
    "pids_peak": _Field("", "pids.peak"),
    "read_bytes": _Field("", "io.stat", "rbytes"),
    "written_bytes": _Field("", "io.stat", "wbytes"),
}
_EVENTS_V1 = {
    "out_of_memory": _Field("memory", "memory.oom_control", "oom_kill"),
    "at_memory_limit": _Field("memory", "memory.failcnt"),
    "forks_refused": _Field("pids", "pids.events", "max"),
}
_EVENTS_V2 = {
    "out_of_memory": _Field("", "memory.events", "oom_kill"),
    "at_memory_limit": _Field("", "memory.events", "max"),
    "forks_refused": _Field("", "pids.events", "max"),
}
_LIMITS_V1 = {
    "memory": _Field("memory", "memory.limit_in_bytes"),
    "memory_swap": _Field("memory", "memory.memsw.limit_in_bytes"),
    "cpu_quota_seconds": _Field("cpu", "cpu.cfs_quota_us", None, 1e6),
    "cpu_period_seconds": _Field("cpu", "cpu.cfs_period_us", None, 1e6),
    "cpu_shares": _Field("cpu", "cpu.shares"),
    "pids_limit": _Field("pids", "pids.max"),
}
_LIMITS_V2 = {
    "memory": _Field("", "memory.max"),
    "memory_swap": _Field("", "memory.swap.max"),
    "cpu_quota_seconds": _Field("", "cpu.max", "0", 1e6),
    "cpu_period_seconds": _Field("", "cpu.max", "1", 1e6),
    "cpu_shares": _Field("", "cpu.weight"),
    "pids_limit": _Field("", "pids.max"),
}
_COUNTED_V1, _COUNTED_V2 = _V1 | _EVENTS_V1, _V2 | _EVENTS_V2
USAGE, EVENTS, LIMITS = tuple(_V1), tuple(_EVENTS_V1), tuple(_LIMITS_V1)
"""The names of what is counted, of what happened so often, and of limits."""
MEMORY_PARTS = ("anonymous_bytes", "file_bytes", "shared_bytes")
"""Those of `USAGE` that stand in the file which the kernel adds up from its beginning."""
RESOURCES = ("cpu", "memory", "io")

Facts = Mapping[str, Fact[float]]


@dataclass(frozen=True, slots=True)
class Pressure:
    """How much of the time processes waited for a resource (Documentation/accounting/psi.rst)."""

    some: float
    """Percent of the last ten seconds in which at least one waited."""
    full: float
    """... in which all waited that had something to do."""
    some_seconds: float
    """In all."""
    full_seconds: float


@dataclass(frozen=True, slots=True)
class Node:
    """A group and those below it: of a container, its runs."""

    name: str
    path: str
    processes: int
    below: tuple[Node, ...]


@dataclass(slots=True)
class _File:
    """One file, and what it said last: most say the same the next time."""

    path: str
    fields: dict[str, _Field] = field(default_factory=dict)
    said: bytes | str | None = None
    descriptor: int = -1


class Group:
    """The files of one container's group, open. `paths` as `Container.cgroup_paths` has them."""

    def __init__(self, paths: Mapping[str, str]) -> None:
        self._paths = dict(paths)
        self._version = 2 if "" in paths else 1
        self._open: dict[str, int] = {}
        self._files: dict[object, dict[str, _File]] = {}
        self._known: dict[object, dict[str, Any]] = {}
        self._parts: dict[str, float | None] = {}
        self._whole: float | None = None
        self._counted = float("-inf")

    @property
    def version(self) -> int:
        """1 or 2; 1 also where there is no group at all."""
        return self._version

    def usage(self) -> Facts:
        """What is used now, or was in all, by the names of `USAGE`."""
        return self._read(_V2 if self._version == 2 else _V1)

    def events(self, names: tuple[str, ...] = EVENTS) -> Facts:
        """How often each of these happened."""
        return self._read(_EVENTS_V2 if self._version == 2 else _EVENTS_V1, names)

    def numbers(self, names: tuple[str, ...]) -> dict[str, float | None]:
        """Those of `usage` and `events` by these names, bare: for who looks all the time."""
        fields = _COUNTED_V2 if self._version == 2 else _COUNTED_V1
        return self._renewed(fields, names, _bare)

    def memory_parts(self, whole: float | None) -> dict[str, float | None]:
        """Numbers of `MEMORY_PARTS`: anew when `whole`, their sum, has changed, or after a second.

        The kernel takes longer to count them than all else that a look reads.
        """
        now = time.monotonic()
        if whole != self._whole or now - self._counted >= _PARTS_SECONDS:
            self._whole, self._counted = whole, now
            self._parts = self.numbers(MEMORY_PARTS)
        return self._parts

    def limits(self, names: tuple[str, ...] = LIMITS) -> Facts:
        """These limits, as they stand in the kernel's files; infinity: no limit."""
        return self._read(_LIMITS_V2 if self._version == 2 else _LIMITS_V1, names)

    def pressure(self) -> dict[str, Fact[Pressure]]:
        """For each of `RESOURCES`."""
        found: dict[str, Fact[Pressure]] = {}
        if self._version == 1:
            reason = NO_PRESSURE if self._paths else NO_GROUP
            return {name: Fact(None, f"/proc/pressure/{name}", reason) for name in RESOURCES}
        for name in RESOURCES:
            path = f"{self._paths['']}/{name}.pressure"
            content = self._content_or_why(path)
            if isinstance(content, str):
                found[name] = Fact(None, path, content)
            else:
                found[name] = Fact(_pressure(content), path)
        return found

    def processors(self) -> str:
        """The processors that it may run on, such as `0-2,5`; empty where nothing says so."""
        place = self._paths.get("", self._paths.get("cpuset"))
        if place is None:
            return ""
        try:
            return text(self._content(f"{place}/cpuset.cpus")).strip()
        except OSError:
            return ""

    def tree(self) -> Node | None:
        """The group with those below it; None where there is none, or none any more."""
        place = self._paths.get(
            "", self._paths.get("freezer", next(iter(self._paths.values()), None))
        )
        left = [MOST_GROUPS]
        return None if place is None else _node(place, left)

    def close(self) -> None:
        """Let the files go."""
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()
        self._files.clear()

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(
        self, fields: Mapping[str, _Field], names: tuple[str, ...] = ()
    ) -> dict[str, Fact[float]]:
        return self._renewed(fields, names, _fact)

    def _renewed(
        self,
        fields: Mapping[str, _Field],
        names: tuple[str, ...],
        made: Callable[[bytes | str, str, _Field], T],
    ) -> dict[str, T]:
        """What is made of these names, of all without; anew where a file differs from last time."""
        found = self._known.setdefault((id(fields), names), {})
        for file in self._files_of(fields, names):
            content: bytes | str
            try:  # most of the time there is no more to it
                content = os.pread(file.descriptor, _ROOM, 0)
            except OSError:
                content = self._content_or_why(file.path)
                file.descriptor = self._open.get(file.path, -1)
            if len(content) == _ROOM:
                content = self._content_or_why(file.path)
            if content != file.said:
                file.said = content
                for name, each in file.fields.items():
                    found[name] = made(content, file.path, each)
        return found.copy()

    def _files_of(self, fields: Mapping[str, _Field], names: tuple[str, ...]) -> Iterable[_File]:
        """The files to read, worked out once."""
        made = self._files.get((id(fields), names))
        if made is None:
            made = self._files[id(fields), names] = {}
            for name in names or fields:
                each = fields[name]
                directory = self._paths.get(each.controller)
                path = each.file if directory is None else f"{directory}/{each.file}"
                made.setdefault(path, _File(path)).fields[name] = each
        return made.values()

    def _content_or_why(self, path: str) -> bytes | str:
        if path[0] != "/":
            return NOT_COUNTED if self._paths else NO_GROUP
        try:
            return self._content(path)
        except FileNotFoundError:
            return NOT_COUNTED if os.path.isdir(os.path.dirname(path)) else ENDED
        except OSError as error:
            return why(error)

    def _content(self, path: str) -> bytes:
        descriptor = self._open.get(path)
        if descriptor is None:
            descriptor = self._open[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        content = os.pread(descriptor, _ROOM, 0)
        return os.pread(descriptor, _MORE_ROOM, 0) if len(content) == _ROOM else content


def machine_pressure() -> dict[str, Fact[Pressure]]:
    """That of the whole machine, for each of `RESOURCES`."""
    found: dict[str, Fact[Pressure]] = {}
    for name in RESOURCES:
        path = f"/proc/pressure/{name}"
        try:
            found[name] = Fact(_pressure(read(path)), path)
        except FileNotFoundError:
            found[name] = Fact(None, path, NOT_COUNTED)
        except OSError as error:
            found[name] = Fact(None, path, why(error))
    return found


def _fact(content: bytes | str, path: str, of: _Field) -> Fact[float]:
    if isinstance(content, str):
        return Fact(None, path, content)
    number = _divided(content, of)
    return Fact(None, path, NOT_COUNTED) if number is None else Fact(number, path)


def _bare(content: bytes | str, _: str, of: _Field) -> float | None:
    return None if isinstance(content, str) else _divided(content, of)


def _divided(content: bytes, of: _Field) -> float | None:
    number = _number(content, of.key)
    return number if number is None or of.divisor == 1 else number / of.divisor


def _number(content: bytes, key: str | None) -> float | None:
    if key is None:
        words = content.split()
        return _value(words[0]) if words else None
    if key.isdecimal():
        return _value(content.split()[int(key)])
    wanted = key.encode()
    if content.startswith(wanted + b" "):
        return _value(content[len(wanted) + 1 :].split(None, 1)[0])
    at = content.find(b"\n" + wanted + b" ")
    if at >= 0:
        return _value(content[at + len(wanted) + 2 :].split(None, 1)[0])
    found = list(_of_devices(content, wanted))
    return sum(found) if found else None


def _of_devices(content: bytes, key: bytes) -> Iterator[float]:
    """`8:0 Read 4096` of version 1, `8:0 rbytes=4096 ...` of version 2."""
    for line in content.splitlines():
        words = line.split()
        if len(words) == 3 and words[1] == key:
            yield int(words[2])
        for word in words[1:]:
            name, equals, number = word.partition(b"=")
            if equals and name == key:
                yield int(number)


def _value(word: bytes) -> float:
    """No limit is `max`, -1, or the largest number of pages."""
    if word == b"max":
        return float("inf")
    number = int(word)
    return float("inf") if number < 0 or number >= _UNLIMITED else number


def _pressure(content: bytes) -> Pressure:
    lines = {}
    for line in text(content).splitlines():
        kind, *fields = line.split()
        lines[kind] = dict(field.split("=") for field in fields)
    some, full = lines["some"], lines.get("full", {"avg10": "0", "total": "0"})
    return Pressure(
        float(some["avg10"]),
        float(full["avg10"]),
        int(some["total"]) / 1e6,
        int(full["total"]) / 1e6,
    )


def _node(path: str, left: list[int]) -> Node | None:
    left[0] -= 1
    try:
        processes = len(read(f"{path}/cgroup.procs").split())
        with os.scandir(path) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError:
        return None
    below = []
    for name in names:
        if left[0] <= 0:
            break
        with suppress(RecursionError):
            node = _node(f"{path}/{name}", left)
            if node is not None:
                below.append(node)
    return Node(os.path.basename(path), path, processes, tuple(below))
