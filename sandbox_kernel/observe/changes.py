"""A stream of what changes in containers, told by the kernel: nobody looks again and again.

| what      | who tells                                                                    |
|-----------|------------------------------------------------------------------------------|
| ended     | the pidfd of its pid 1                                                       |
| memory    | inotify on memory.events; on version 1 an eventfd of memory.oom_control      |
| processes | inotify on cgroup.events; the process connector, for root                    |
| refused   | inotify on pids.events: a fork was refused at the limit of processes         |
| mounts    | poll on /proc/PID/mountinfo                                                  |
| pressure  | triggers in cpu.pressure, memory.pressure, io.pressure, on version 2         |
| links     | rtnetlink in its network namespace, for root                                 |

What can't be told here stands in `Watched.silent`, with the reason; who wants that reads it itself.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from sandbox_kernel.linux import inotify, process_events, processes
from sandbox_kernel.observe import fact
from sandbox_kernel.observe.groups import NO_GROUP, NO_PRESSURE, RESOURCES
from sandbox_kernel.observe.observed import Observed

ENDED, MEMORY, PROCESSES, REFUSED = "ended", "memory", "processes", "refused"
MOUNTS, PRESSURE, LINKS = "mounts", "pressure", "links"
KINDS = (ENDED, MEMORY, PROCESSES, REFUSED, MOUNTS, PRESSURE, LINKS)

TRIGGER = b"some 100000 2000000\0"
"""A tenth of a second in two: the shortest window that is open to everybody, of 2 s or more."""
# include/uapi/linux/rtnetlink.h
_RTMGRP = 0x1 | 0x10 | 0x40  # LINK, IPV4_IFADDR, IPV4_ROUTE
_ROOM = 1 << 16
_JOIN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Change:
    """Something changed in a container: look there again."""

    container: str
    what: str
    """One of `KINDS`."""
    source: str


@dataclass(slots=True)
class Watched:
    """What tells of one container, and what can't."""

    name: str
    pid: int
    silent: dict[str, str] = field(default_factory=dict)
    """Kind of change -> why nobody tells of it here."""
    descriptors: list[int] = field(default_factory=list)
    space: int | None = None
    """Inode of its pid namespace."""


class Changes:
    """Watches any number of containers, by one epoll descriptor. For one thread at a time."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._told: dict[int, tuple[Watched | None, str, str, Callable[[], bool]]] = {}
        self._watched: dict[str, Watched] = {}
        self._members: dict[int, str] = {}
        self._connector: socket.socket | None = None
        self._no_connector = ""
        self._also: list[Change] = []

    def fileno(self) -> int:
        """Readable when there is news."""
        return self._epoll.fileno()

    def watch(self, container: Observed) -> Watched:
        """Tell of this container, too. One that is over already is told of as ended."""
        made = Watched(container.name, container.pid)
        self._watched[container.name] = made
        try:
            pidfd = os.pidfd_open(container.pid)
        except OSError:
            self._also.append(Change(made.name, ENDED, f"pidfd_open({container.pid})"))
            return made
        self._add(made, pidfd, ENDED, f"pidfd_open({container.pid})", select.EPOLLIN, _always)
        with suppress(OSError):
            made.space = os.stat(f"/proc/{made.pid}/ns/pid").st_ino
        self._watch_mounts(made)
        self._watch_groups(made, container.cgroup_paths())
        self._watch_links(made)
        self._watch_processes(made)
        return made

    def forget(self, name: str) -> None:
        """Tell of it no more."""
        watched = self._watched.pop(name, None)
        for descriptor in watched.descriptors if watched else ():
            self._told.pop(descriptor, None)
            self._epoll.unregister(descriptor)
            os.close(descriptor)
        self._members = {pid: of for pid, of in self._members.items() if of != name}

    def wait(self, seconds: float | None = None) -> list[Change]:
        """What changed since, each thing once; waits for the first, at most so long."""
        if self._also:
            seconds = 0
        found = dict.fromkeys(self._also)
        self._also = []
        for descriptor, _ in self._epoll.poll(-1 if seconds is None else seconds):
            told = self._told.get(descriptor)
            if told is None:
                continue
            watched, what, source, take = told
            if watched is None:
                found.update(dict.fromkeys(self._of_processes()))
            elif take():
                found[Change(watched.name, what, source)] = None
                if what == ENDED:
                    self.forget(watched.name)
        return list(found)

    def close(self) -> None:
        """Let everything go."""
        for name in list(self._watched):
            self.forget(name)
        if self._connector is not None:
            self._connector.close()
        self._epoll.close()

    def __enter__(self) -> Changes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- who tells --------------------------------------------------------------------------------

    def _add(
        self,
        watched: Watched,
        descriptor: int,
        what: str,
        source: str,
        mask: int,
        take: Callable[[], bool],
    ) -> None:
        watched.descriptors.append(descriptor)
        self._told[descriptor] = (watched, what, source, take)
        self._epoll.register(descriptor, mask)

    def _watch_mounts(self, watched: Watched) -> None:
        path = f"/proc/{watched.pid}/mountinfo"
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            watched.silent[MOUNTS] = fact.why(error)
            return
        # The kernel says that it changed until it is asked again whether it did.
        self._add(watched, descriptor, MOUNTS, path, select.EPOLLPRI | select.EPOLLET, _always)

    def _watch_groups(self, watched: Watched, paths: dict[str, str]) -> None:
        if not paths:
            watched.silent |= dict.fromkeys((MEMORY, REFUSED, PRESSURE), NO_GROUP)
            return
        if "" in paths:
            here = paths[""]
            self._watch_file(watched, MEMORY, f"{here}/memory.events")
            self._watch_file(watched, REFUSED, f"{here}/pids.events")
            self._watch_file(watched, PROCESSES, f"{here}/cgroup.events")
            for name in RESOURCES:
                self._watch_pressure(watched, f"{here}/{name}.pressure")
            return
        watched.silent[PRESSURE] = NO_PRESSURE
        for kind, controller in ((MEMORY, "memory"), (REFUSED, "pids")):
            if controller not in paths:
                watched.silent[kind] = fact.NOT_COUNTED
        if "pids" in paths:
            self._watch_file(watched, REFUSED, f"{paths['pids']}/pids.events")
        if "memory" in paths:
            self._watch_memory(watched, paths["memory"])

    def _watch_file(self, watched: Watched, what: str, path: str) -> None:
        try:
            descriptor = inotify.watch_modified(path)
        except FileNotFoundError:
            watched.silent[what] = fact.NOT_COUNTED
            return
        except OSError as error:
            watched.silent[what] = fact.why(error)
            return
        self._add(watched, descriptor, what, path, select.EPOLLIN, lambda: _emptied(descriptor))

    def _watch_memory(self, watched: Watched, directory: str) -> None:
        """memory.rst of version 1, section 10: an eventfd that the kernel writes to."""
        path = f"{directory}/memory.oom_control"
        event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            control = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                order = os.open(f"{directory}/cgroup.event_control", os.O_WRONLY | os.O_CLOEXEC)
                try:
                    os.write(order, f"{event} {control}".encode())
                finally:
                    os.close(order)
            finally:
                os.close(control)
        except OSError as error:
            os.close(event)
            watched.silent[MEMORY] = fact.why(error)
            return
        self._add(watched, event, MEMORY, path, select.EPOLLIN, lambda: _emptied(event))

    def _watch_pressure(self, watched: Watched, path: str) -> None:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            watched.silent[PRESSURE] = fact.why(error)
            return
        try:
            os.write(descriptor, TRIGGER)
        except OSError as error:
            os.close(descriptor)
            watched.silent[PRESSURE] = fact.why(error)
            return
        self._add(watched, descriptor, PRESSURE, path, select.EPOLLPRI, _always)

    def _watch_links(self, watched: Watched) -> None:
        """A thread alone can be in another network namespace; the socket stays there."""
        made: list[socket.socket | OSError] = []

        def work() -> None:
            try:
                space = os.open(f"/proc/{watched.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
                try:
                    processes.setns(space, processes.CLONE_NEWNET)
                finally:
                    os.close(space)
                made.append(_open_route())
            except OSError as error:
                made.append(error)

        thread = threading.Thread(target=work, name="observe links", daemon=True)
        thread.start()
        thread.join(_JOIN_SECONDS)
        if not made or isinstance(made[0], OSError):
            watched.silent[LINKS] = fact.why(made[0]) if made else fact.ENDED  # type: ignore[arg-type]
            return
        descriptor = made[0].detach()
        source = f"NETLINK_ROUTE in /proc/{watched.pid}/ns/net"
        self._add(watched, descriptor, LINKS, source, select.EPOLLIN, lambda: _emptied(descriptor))

    def _watch_processes(self, watched: Watched) -> None:
        if self._connector is None and not self._no_connector:
            try:
                self._connector = process_events.listen()
            except OSError as error:
                self._no_connector = fact.why(error)
            else:
                descriptor = self._connector.fileno()
                self._told[descriptor] = (None, PROCESSES, "NETLINK_CONNECTOR", _always)
                self._epoll.register(descriptor, select.EPOLLIN)
        if self._connector is None and not any(
            told[:2] == (watched, PROCESSES) for told in self._told.values()
        ):
            watched.silent[PROCESSES] = self._no_connector

    def _of_processes(self) -> list[Change]:
        assert self._connector is not None
        events = process_events.read(self._connector)
        source = "NETLINK_CONNECTOR"
        if events is None:
            return [Change(name, PROCESSES, source) for name in self._watched]
        spaces = {each.space: each.name for each in self._watched.values() if each.space}
        found: dict[Change, None] = {}
        for event in events:
            name = self._members.get(event.pid) or self._members.get(event.parent)
            if name is None and event.kind != "exit":
                with suppress(OSError):
                    name = spaces.get(os.stat(f"/proc/{event.pid}/ns/pid").st_ino)
            if name is None:
                continue
            if event.kind == "exit":
                self._members.pop(event.pid, None)
            else:
                self._members[event.pid] = name
            found[Change(name, PROCESSES, source)] = None
        return list(found)


def _always() -> bool:
    return True


def _emptied(descriptor: int) -> bool:
    """Take what came; whether anything did."""
    try:
        return bool(os.read(descriptor, _ROOM))
    except BlockingIOError:
        return False
    except OSError:  # ENOBUFS of netlink: there was more than the kernel keeps
        return True


def _open_route() -> socket.socket:
    flags: Any = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    channel = socket.socket(socket.AF_NETLINK, flags, socket.NETLINK_ROUTE)
    try:
        channel.bind((0, _RTMGRP))
    except BaseException:
        channel.close()
        raise
    return channel
