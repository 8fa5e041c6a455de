"""Containers as boxes beside each other on the host: what each shares, and what one sees inside.

All of it is read with the caller's rights. What he may not see is a `Fact` that says so.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from sandbox_kernel import container, errors
from sandbox_kernel.container import Container
from sandbox_kernel.linux import processes as calls
from sandbox_kernel.observe import identities, links, mounts, namespaces, processes
from sandbox_kernel.observe.fact import Fact, fact, text
from sandbox_kernel.observe.identities import Extent, Offsets
from sandbox_kernel.observe.links import Link
from sandbox_kernel.observe.mounts import Mount
from sandbox_kernel.observe.namespaces import Namespace
from sandbox_kernel.observe.observed import Observed
from sandbox_kernel.observe.processes import Process
from sandbox_kernel.observe.source import Source

LIST_SECONDS = 0.5
MOST_BOXES = 60
_JOIN_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Box:
    """One container: the numbers of its namespaces by kind, as far as they can be seen."""

    id: str
    name: str
    pid: int
    namespaces: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Side:
    """What there is on one side: in the container, or on the host."""

    hostname: Fact[str]
    processes: int
    mounts: Fact[tuple[Mount, ...]]
    users: Fact[tuple[Extent, ...]]
    links: Fact[tuple[Link, ...]]
    addresses: Fact[tuple[str, ...]]
    clocks: Fact[Offsets]


@dataclass(frozen=True, slots=True)
class World:
    """The host with its boxes, and both sides of the one that is looked into."""

    host: Mapping[str, int]
    boxes: tuple[Box, ...]
    chosen: str
    """Id of the box that is looked into."""
    namespaces: Mapping[str, Fact[Namespace]]
    """Of that box."""
    processes: tuple[Process, ...]
    """Of that box, with their numbers on both sides."""
    inside: Side
    outside: Side


class Boxes(Source):
    """Looks at all containers of this user, and into one. `choose` may be called by any thread."""

    def __init__(self, first: Observed) -> None:
        super().__init__(first.name, first.pid)
        self._first = first
        self._chosen = first.id
        self._held: Observed = first
        self._found: Container | None = None
        self._boxes: tuple[Box, ...] = ()
        self._outside: Side | None = None
        self._due = 0.0

    def choose(self, container_id: str) -> None:
        """Which one to look into from now on."""
        self._chosen = container_id

    def closed(self) -> None:
        if self._found is not None:
            self._found.close()
            self._found = None

    def facts(self) -> World:
        now = time.monotonic()
        if self._outside is None or now >= self._due:
            self._due = now + LIST_SECONDS
            self._boxes = self._list()
            self._outside = _side("self", len(_all_processes()))
        self._hold()
        held = self._held
        found = processes.of_container(held)
        return World(
            host=namespaces.inodes("self"),
            boxes=self._boxes,
            chosen=held.id,
            namespaces=namespaces.of_process(held.pid),
            processes=found,
            inside=_side(held.pid, len(found)),
            outside=self._outside,
        )

    def _list(self) -> tuple[Box, ...]:
        running = [
            (row.id, row.name, row.pid)
            for row in container.list_all()
            if row.state == "running" and row.pid is not None
        ]
        first = (self._first.id, self._first.name, self._first.pid)
        if first[0] not in {row[0] for row in running}:
            running.insert(0, first)
        running.sort(key=lambda row: (row[0] != self._first.id, row[1]))
        return tuple(
            Box(each, name, pid, namespaces.inodes(pid)) for each, name, pid in running[:MOST_BOXES]
        )

    def _hold(self) -> None:
        """The one that was chosen; when it is over, the first one again."""
        wanted = self._chosen
        if wanted == self._held.id and (wanted == self._first.id or _lives(self._held.pid)):
            return
        self.closed()
        self._held = self._first
        if wanted != self._first.id:
            with suppress(errors.SandboxError, OSError, TimeoutError):
                found = container.find(wanted)
                self._found = self._held = found
        self._chosen = self._held.id


def _side(pid: int | str, count: int) -> Side:
    return Side(
        hostname=hostname(pid),
        processes=count,
        mounts=mounts.of_process(pid),
        users=identities.maps(pid).users,
        links=links.of_process(pid),
        addresses=links.addresses(pid),
        clocks=identities.time_offsets(pid),
    )


def hostname(pid: int | str) -> Fact[str]:
    """The name of the host that a process sees. A thread can look from its place, if it may."""
    if pid == "self":
        return Fact(os.uname().nodename, "uname(2)")
    source = f"uname(2) in /proc/{pid}/ns/uts"
    told: list[Fact[str]] = []

    def look() -> str:
        space = os.open(f"/proc/{pid}/ns/uts", os.O_RDONLY | os.O_CLOEXEC)
        try:
            calls.setns(space, calls.CLONE_NEWUTS)
        finally:
            os.close(space)
        return text(os.fsencode(os.uname().nodename))

    thread = threading.Thread(
        target=lambda: told.append(fact(source, look)), name="observe hostname", daemon=True
    )
    thread.start()
    thread.join(_JOIN_SECONDS)
    return told[0] if told else Fact(None, source, "it took too long")


def _all_processes() -> list[str]:
    return [name for name in os.listdir("/proc") if name.isdecimal()]


def _lives(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}/ns")
