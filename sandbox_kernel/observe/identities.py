"""Which ids of the host the ids of a container are, and how far its clocks are set off.

Sources: /proc/PID/uid_map, gid_map, setgroups (user_namespaces(7)), timens_offsets
(time_namespaces(7)).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sandbox_kernel.observe.fact import Fact, fact, read, text


@dataclass(frozen=True, slots=True)
class Extent:
    """`count` ids from `inside` on are those from `outside` on, as the caller sees them."""

    inside: int
    outside: int
    count: int


@dataclass(frozen=True, slots=True)
class Maps:
    """The id maps of a user namespace."""

    users: Fact[tuple[Extent, ...]]
    groups: Fact[tuple[Extent, ...]]
    may_set_groups: Fact[bool]


@dataclass(frozen=True, slots=True)
class Offsets:
    """By how many seconds the clocks of a time namespace differ from the host's."""

    monotonic: float
    boottime: float


def maps(pid: int | str) -> Maps:
    """The id maps of the user namespace that a process is in."""
    return Maps(
        users=fact(f"/proc/{pid}/uid_map", lambda: read_map(pid, "uid_map")),
        groups=fact(f"/proc/{pid}/gid_map", lambda: read_map(pid, "gid_map")),
        may_set_groups=fact(
            f"/proc/{pid}/setgroups", lambda: read(f"/proc/{pid}/setgroups").strip() == b"allow"
        ),
    )


def read_map(pid: int | str, name: str) -> tuple[Extent, ...]:
    """`uid_map` or `gid_map` of a process. Raises OSError."""
    lines = read(f"/proc/{pid}/{name}").splitlines()
    return tuple(Extent(*map(int, line.split())) for line in lines)


def inner_id(outside: int, extents: Sequence[Extent]) -> int | None:
    """The id of the container that an id of the host is there; None: it has no such id."""
    for extent in extents:
        if extent.outside <= outside < extent.outside + extent.count:
            return extent.inside + outside - extent.outside
    return None


def time_offsets(pid: int | str) -> Fact[Offsets]:
    """How far the clocks of a process's children are set off."""
    path = f"/proc/{pid}/timens_offsets"
    return fact(path, lambda: _offsets(path))


def _offsets(path: str) -> Offsets:
    found = {}
    for line in read(path).splitlines():
        clock, seconds, nanoseconds = text(line).split()
        found[clock] = int(seconds) + int(nanoseconds) / 1e9
    return Offsets(found.get("monotonic", 0.0), found.get("boottime", 0.0))
