"""cgroup v1: a group that is used again, for one container after another with the same limits.

To make six directories, to set the limits and to take all of it away again costs more than half a
millisecond of processor time, much of it in the kernel's own threads. What a container that did
nothing special leaves of that is empty, and as it was when it was new: its counters can be set back
to 0, or stand where the making of any container takes them. Such a group gets another name and is
the next container's. `Again.is_new` says which are no such groups, and these are removed.

A container has no way to its own group, so nothing else of it can be in there.

Source: Documentation/admin-guide/cgroup-v1: memory, cpuacct, pids, blkio-controller.
"""

from __future__ import annotations

import functools
import os

from sandbox_kernel.errors import StepFailed
from sandbox_kernel.linux.multicall import Calls
from sandbox_kernel.runtime.cgroups import v1_usage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox_kernel.linux.multicall import File
    from sandbox_kernel.runtime.cgroups.v1_usage import Read

    Files = tuple[tuple[str, str], ...]  # controller and name of each

ROOM = 512
"""Bytes of a file that are looked at: one that says more is not that of a group as new."""
ROOM_FOR_DISKS = 1 << 14
"""The same where each disk of the machine has five lines."""
PROCESSES = 2
"""The most that are in a group at once while any container is made and its first process runs:
what `pids.peak` says can't be set back."""
MOST_LEFT = 1 << 20
"""Bytes of memory that may still be counted: the kernel frees some of it later."""
# Controller, file, what it says of a group in which nothing happened. One that is not there counts
# nothing.
TELLING = (
    ("freezer", "freezer.state", b"THAWED\n"),
    ("pids", "pids.events", b"max 0\n"),
    ("memory", "memory.oom_control", b"oom_kill_disable 0\nunder_oom 0\noom_kill 0\n"),
    ("blkio", "blkio.throttle.io_service_bytes", b"Total 0\n"),
)
INSIDE = (("freezer", "tasks", b""), ("pids", "pids.current", b"0\n"))
"""The same of one that nobody is in."""
PEAK = ("pids", "pids.peak")
LEFT = ("memory", "memory.usage_in_bytes")
# What is set back to 0, of what `v1_usage.read` and `observe.groups` read.
RESETTING = (
    ("memory", "memory.max_usage_in_bytes"),
    ("memory", "memory.failcnt"),
    ("cpuacct", "cpuacct.usage"),
)
NEEDED = frozenset(("freezer", "memory", "pids", "cpuacct"))


class Again:
    """The directories of one group, open, so that they are the same by whatever name."""

    def __init__(self, directories: Mapping[str, str], limits: Files) -> None:
        """`limits`: the files that say which are in force. Raises OSError, StepFailed."""
        self._controllers = tuple(directories)
        self._limits = limits
        self._opened: list[int] = []
        self._name = os.path.basename(next(iter(directories.values())))
        try:
            flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
            for directory in directories.values():
                self._opened.append(os.open(directory, flags))
            for directory in directories.values():
                self._opened.append(os.open(os.path.dirname(directory), flags))
            looking = _looking(self._controllers, limits)
            looking.calls.run(dict(zip(looking.places, self._opened, strict=False)))
            self._in_force = looking.in_force()
        except BaseException:
            self.close()
            raise

    def is_new(self) -> bool | None:
        """Whether nothing was counted that can't be set back. None: somebody is in it yet; who has
        ended is, for some moments."""
        looking = _looking(self._controllers, ())
        try:
            looking.calls.run(dict(zip(looking.places, self._opened, strict=False)))
        except StepFailed:
            return False
        return looking.says_new() if looking.is_left() else None

    def rename(self, name: str) -> bool:
        """Give all its directories another name. False: they have the name that they had."""
        above = self._opened[len(self._controllers) :]
        for count, place in enumerate(above):
            try:
                os.rename(self._name, name, src_dir_fd=place, dst_dir_fd=place)
            except OSError:
                for done in above[:count]:
                    os.rename(name, self._name, src_dir_fd=done, dst_dir_fd=done)
                return False
        self._name = name
        return True

    def begin(self) -> list[int] | None:
        """Set its counters back. Its entrances, or None: the kernel did not, or other limits are in
        force than were."""
        beginning = _beginning(self._controllers, self._limits)
        try:
            beginning.calls.run(dict(zip(beginning.places, self._opened, strict=False)))
        except StepFailed:
            return None
        entrances = [beginning.calls.result(cell) for cell in beginning.entrances]
        if beginning.in_force() == self._in_force and beginning.left() <= MOST_LEFT:
            return entrances
        for entrance in entrances:
            os.close(entrance)
        return None

    def read_usage(self) -> Read:
        """What `v1_usage.read` asks for. Raises StepFailed."""
        using = _using(self._controllers)
        using.calls.run(dict(zip(using.places, self._opened, strict=False)))
        return using.one

    def close(self) -> None:
        """Let go of the directories."""
        while self._opened:
            os.close(self._opened.pop())


class _Reading:
    """Calls that read files of a group."""

    def __init__(self, controllers: tuple[str, ...], limits: Files) -> None:
        self.calls = Calls()
        self.places = [self.calls.given() for _ in controllers]
        self._place = dict(zip(controllers, self.places, strict=True))
        self._limits = [self._file(*file) for file in limits]

    def _file(self, controller: str, name: str, room: int = ROOM) -> File:
        with self.calls.step("read", name):
            return self.calls.file(self._place[controller], name, room, may_be_missing=True)

    def in_force(self) -> tuple[bytes, ...]:
        """What the files of the limits say."""
        return tuple(map(self.calls.said, self._limits))


class _Looking(_Reading):
    """What tells whether a group is as new."""

    def __init__(self, controllers: tuple[str, ...], limits: Files) -> None:
        super().__init__(controllers, limits)
        self._inside, self._telling = (
            [
                (self._file(controller, name), wanted)
                for controller, name, wanted in files
                if controller in controllers
            ]
            for files in (INSIDE, TELLING)
        )
        self._peak = self._file(*PEAK)

    def is_left(self) -> bool:
        """Whether nobody is in it."""
        return all(self.calls.said(file) == wanted for file, wanted in self._inside)

    def says_new(self) -> bool:
        """Whether all that can't be set back is as in a new one."""
        peak = self.calls.said(self._peak)
        return int(peak or b"0") <= PROCESSES and all(
            self.calls.said(file) in (wanted, b"") for file, wanted in self._telling
        )


class _Beginning(_Reading):
    """What makes one new again, and the ways into it: the freezer first, see `v1.entrances`."""

    def __init__(self, controllers: tuple[str, ...], limits: Files) -> None:
        super().__init__(controllers, limits)
        for controller, name in RESETTING:
            with self.calls.step("reset", name):
                flags = os.O_WRONLY | os.O_CLOEXEC
                file = self.calls.call("openat", self._place[controller], name.encode(), flags)
                self.calls.call("write", file, b"0", 1)
                self.calls.close(file)
        self._left = self._file(*LEFT)
        with self.calls.step("open", "tasks"):
            flags = os.O_WRONLY | os.O_CLOEXEC
            self.entrances = [
                self.calls.call("openat", place, b"tasks", flags) for place in self.places
            ]

    def left(self) -> int:
        return int(self.calls.said(self._left))


class _Using(_Reading):
    """What the processes in a group used."""

    def __init__(self, controllers: tuple[str, ...]) -> None:
        super().__init__(controllers, ())
        self._used = {
            (controller, name): self._file(controller, name, _room(controller))
            for controller, name in v1_usage.FILES
            if controller in controllers
        }

    def one(self, controller: str, name: str) -> str | None:
        """What one of the files says; None: there is no such file, or it says too much."""
        file = self._used.get((controller, name))
        said = self.calls.said(file) if file else b""
        return said.decode("ascii").rstrip("\n") if 0 < len(said) < _room(controller) else None


def _room(controller: str) -> int:
    return ROOM_FOR_DISKS if controller == "blkio" else ROOM


_using = functools.lru_cache(maxsize=4)(_Using)
_looking = functools.lru_cache(maxsize=8)(_Looking)
_beginning = functools.lru_cache(maxsize=8)(_Beginning)
