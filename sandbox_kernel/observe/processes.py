"""Processes of a container, as the host and as the container number them.

Sources: /proc/PID/stat, /proc/PID/status, /proc/PID/cmdline (proc(5)), and the processes that the
container's control group names. Where there is no group, those of its pid namespace.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass

from sandbox_kernel.observe import identities
from sandbox_kernel.observe.fact import Fact, fact, read, text
from sandbox_kernel.observe.observed import Observed

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
MOST_COMMAND = 4096
MOST_GROUPS = 4096
_FORGET_SECONDS = 5.0
_LINKS_OF_A_LEAF = 2
"""A directory of the kernel's has one link for its name, one for itself, one for each below."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process. `inner_*` is what the container itself sees of it."""

    pid: int
    inner_pid: int | None
    """None: it is in no pid namespace below the caller's."""
    parent: int
    """0: its parent is in no pid namespace that the caller sees."""
    uid: int
    inner_uid: int | None
    """None: the container's user namespace has no such user."""
    name: str
    command: tuple[str, ...]
    """Empty: it has given none, as a process that is dying."""
    state: str
    """One letter: R, S, D, T, t, Z, X, I."""
    threads: int
    memory_bytes: int
    cpu_seconds: float
    started: float
    """Seconds since the machine was started: with the pid, its identity."""
    source: str


def of_process(pid: int) -> Fact[Process]:
    """One process, by its number on the host."""
    source = f"/proc/{pid}/status"
    return fact(source, lambda: _read(pid, source))


def of_container(container: Observed) -> tuple[Process, ...]:
    """All processes in it that there are now, in order of their start; pid 1 first."""
    found = []
    for pid in pids(container):
        with suppress(OSError):  # it ended meanwhile
            found.append(_read(pid, f"/proc/{pid}/status"))
    return tuple(sorted(found, key=lambda each: (each.inner_pid != 1, each.started, each.pid)))


def pids(container: Observed) -> tuple[int, ...]:
    """The numbers on the host of all processes in a container."""
    groups = container.cgroup_paths()
    place = groups.get("", groups.get("freezer", next(iter(groups.values()), None)))
    if place is None:
        return _SPACES.members(container.pid)
    return _in_group(place)


def _in_group(place: str) -> tuple[int, ...]:
    """Those in a group and in the groups of runs below it."""
    found: dict[int, None] = {}
    waiting = [place]
    seen = 0
    while waiting and seen < MOST_GROUPS:
        here = waiting.pop()
        seen += 1
        try:
            found.update((int(line), None) for line in read(f"{here}/cgroup.procs").split())
            if os.stat(here).st_nlink == _LINKS_OF_A_LEAF:
                continue
            with os.scandir(here) as entries:
                waiting += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            continue  # the group of a run that is over
    found.pop(0, None)  # one that is in no pid namespace of ours
    return tuple(found)


class _Spaces:
    """Which process is in which pid namespace, asked once for each process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[int, int] = {}
        self._asked = 0.0

    def members(self, pid: int) -> tuple[int, ...]:
        """All in the pid namespace of a process; none when it has ended."""
        try:
            wanted = os.stat(f"/proc/{pid}/ns/pid").st_ino
        except OSError:
            return ()
        with self._lock:
            now = time.monotonic()
            if now - self._asked > _FORGET_SECONDS:  # a number may be another process's by now
                self._known.clear()
                self._asked = now
            there = [int(name) for name in os.listdir("/proc") if name.isdecimal()]
            known = {each: self._known[each] for each in there if each in self._known}
            for each in there:
                if each not in known:
                    with suppress(OSError):
                        known[each] = os.stat(f"/proc/{each}/ns/pid").st_ino
            self._known = known
            return tuple(each for each, inode in known.items() if inode == wanted)


_SPACES = _Spaces()


def _read(pid: int, source: str) -> Process:
    status = dict(
        line.partition(b":\t")[::2] for line in read(f"/proc/{pid}/status").split(b"\n") if line
    )
    fields = read(f"/proc/{pid}/stat").rpartition(b") ")[2].split()
    numbers = status.get(b"NSpid", b"").split()
    uid = int(status[b"Uid"].split()[1])
    inner = None
    with suppress(OSError):
        inner = identities.inner_id(uid, identities.read_map(pid, "uid_map"))
    command = b""
    with suppress(OSError):
        command = read(f"/proc/{pid}/cmdline")[:MOST_COMMAND]
    return Process(
        pid=pid,
        inner_pid=int(numbers[-1]) if len(numbers) > 1 else None,
        parent=int(fields[1]),
        uid=uid,
        inner_uid=inner,
        name=text(_unescaped(status[b"Name"])),
        command=tuple(text(word) for word in command.rstrip(b"\0").split(b"\0")) if command else (),
        state=text(fields[0]),
        threads=int(fields[17]),
        memory_bytes=int(fields[21]) * _PAGE,
        cpu_seconds=(int(fields[11]) + int(fields[12])) / _TICKS,
        started=int(fields[19]) / _TICKS,
        source=source,
    )


def _unescaped(name: bytes) -> bytes:
    """A name as it is: /proc/PID/status writes newline and backslash as `\\n` and `\\\\`."""
    return name.replace(b"\\n", b"\n").replace(b"\\\\", b"\\")
