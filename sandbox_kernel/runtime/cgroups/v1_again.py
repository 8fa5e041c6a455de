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

import contextlib
import errno
import functools
import os

from sandbox_kernel.errors import StepFailed
from sandbox_kernel.linux.multicall import Calls
from sandbox_kernel.runtime.cgroups import v1_usage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sandbox_kernel.linux.multicall import Cell, File
    from sandbox_kernel.runtime.cgroups.v1_usage import Read

    Name = tuple[str, str]
    """Controller and name of a file."""
    Names = tuple[Name, ...]

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
INSIDE = ("pids", "pids.current", b"0\n")
"""The same of one that nobody is in; and nobody is among the `tasks` of its freezer."""
FREEZING = ("freezer", "freezer.state")
PEAK = ("pids", "pids.peak")
LEFT = ("memory", "memory.usage_in_bytes")
# What is set back to 0, of what `v1_usage.read` and `observe.groups` read.
RESETTING = (
    ("memory", "memory.max_usage_in_bytes"),
    ("memory", "memory.failcnt"),
    ("cpuacct", "cpuacct.usage"),
)
WRITTEN = (*RESETTING, FREEZING)
NEEDED = frozenset(("freezer", "memory", "pids", "cpuacct"))


class Again:
    """One group with its files open, so that they are the same by whatever name."""

    def __init__(self, directories: Mapping[str, str], limits: Names) -> None:
        """`limits`: the files that say which are in force. Raises OSError, StepFailed."""
        self._name = os.path.basename(next(iter(directories.values())))
        self._folders: list[int] = []
        self._above: list[int] = []
        self._files: dict[Name, int] = {}
        try:
            flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
            for directory in directories.values():
                self._folders.append(os.open(directory, flags))
                self._above.append(os.open(os.path.dirname(directory), flags))
            places = dict(zip(directories, self._folders, strict=True))
            self._open(places, (*limits, *WRITTEN, LEFT, PEAK, INSIDE[:2]))
            self._open(places, (*v1_usage.FILES, *(file[:2] for file in TELLING)))
            controllers, there = tuple(directories), frozenset(self._files)
            self._looking = _looking(controllers, there)
            self._beginning = _beginning(controllers, there, limits)
            self._using = _using(there)
            in_force = _in_force(there, limits)
            in_force.run((), self._files)
            self._in_force = in_force.said()
        except BaseException:
            self.close()
            raise

    def _open(self, places: Mapping[str, int], names: Names) -> None:
        """Those of these that there are."""
        for name in names:
            controller, file = name
            if controller not in places or name in self._files:
                continue
            access = os.O_RDWR if name in WRITTEN else os.O_RDONLY
            with contextlib.suppress(FileNotFoundError):
                self._files[name] = os.open(file, access | os.O_CLOEXEC, dir_fd=places[controller])

    def is_new(self) -> bool | None:
        """Whether nothing was counted that can't be set back. None: somebody is in it yet; who has
        ended is, for some moments."""
        looking = self._looking
        try:
            looking.run(self._folders, self._files)
        except StepFailed:
            return False
        return looking.says_new() if looking.is_left() else None

    def rename(self, name: str) -> bool:
        """Give all its directories another name. False: they have the name that they had."""
        for count, place in enumerate(self._above):
            try:
                os.rename(self._name, name, src_dir_fd=place, dst_dir_fd=place)
            except OSError:
                for done in self._above[:count]:
                    os.rename(name, self._name, src_dir_fd=done, dst_dir_fd=done)
                return False
        self._name = name
        return True

    def begin(self) -> list[int] | None:
        """Set its counters back. Its entrances, or None: the kernel did not, or other limits are in
        force than were."""
        beginning = self._beginning
        try:
            beginning.run(self._folders, self._files)
        except StepFailed:
            return None
        entrances = [beginning.calls.result(cell) for cell in beginning.entrances]
        if beginning.said() == self._in_force and beginning.left() <= MOST_LEFT:
            return entrances
        for entrance in entrances:
            os.close(entrance)
        return None

    def read_usage(self) -> Read:
        """What `v1_usage.read` asks for. Raises StepFailed."""
        self._using.run((), self._files)
        return self._using.one

    def thaw(self) -> None:
        """See `contract.Group.thaw`."""
        try:
            os.pwrite(self._files[FREEZING], b"THAWED", 0)
        except OSError as error:
            if error.errno != errno.ENODEV:  # somebody removed it
                raise

    def close(self) -> None:
        """Let go of its files and directories."""
        for opened in (self._folders, self._above, self._files):
            descriptors = [*(opened.values() if isinstance(opened, dict) else opened)]
            opened.clear()
            for descriptor in descriptors:
                os.close(descriptor)


class _Reading:
    """Calls that read files of a group, of those that are `there`."""

    def __init__(self, there: frozenset[Name], controllers: tuple[str, ...] = ()) -> None:
        self.calls = Calls()
        self._there = there
        self.places = {controller: self.calls.given() for controller in controllers}
        self._given: dict[Name, Cell] = {}

    def opened(self, name: Name) -> Cell:
        """A file that is open."""
        if name not in self._given:
            self._given[name] = self.calls.given()
        return self._given[name]

    def file(self, name: Name, room: int = ROOM) -> File | None:
        """Read it from its beginning; None: it is not there."""
        if name not in self._there:
            return None
        with self.calls.step("read", name[1]):
            text = self.calls.buffer(room)
            return text, self.calls.call("pread64", self.opened(name), text, room, 0)

    def run(self, folders: Sequence[int], files: Mapping[Name, int]) -> None:
        """Raises StepFailed."""
        given = dict(zip(self.places.values(), folders, strict=False))
        given.update({cell: files[name] for name, cell in self._given.items()})
        self.calls.run(given)

    def what(self, file: File | None) -> bytes:
        """What it said; nothing where it is not there."""
        return self.calls.said(file) if file else b""


class _InForce(_Reading):
    """What says which limits are in force."""

    def __init__(
        self, there: frozenset[Name], limits: Names, controllers: tuple[str, ...] = ()
    ) -> None:
        super().__init__(there, controllers)
        self._limits = [self.file(name) for name in limits]

    def said(self) -> tuple[bytes, ...]:
        """What the files of the limits say."""
        return tuple(map(self.what, self._limits))


class _Looking(_Reading):
    """What tells whether a group is as new."""

    def __init__(self, controllers: tuple[str, ...], there: frozenset[Name]) -> None:
        super().__init__(there, controllers)
        # It is opened each time: what it says to who has it open can be a second old.
        self._tasks = self.calls.file(self.places["freezer"], "tasks", ROOM)
        self._inside = self.file(INSIDE[:2])
        self._telling = [(self.file(name[:2]), name[2]) for name in TELLING]
        self._peak = self.file(PEAK)

    def is_left(self) -> bool:
        """Whether nobody is in it."""
        return self.what(self._tasks) == b"" and self.what(self._inside) == INSIDE[2]

    def says_new(self) -> bool:
        """Whether all that can't be set back is as in a new one."""
        return int(self.what(self._peak) or b"0") <= PROCESSES and all(
            self.what(file) in (wanted, b"") for file, wanted in self._telling
        )


class _Beginning(_InForce):
    """What makes one new again, and the ways into it: the freezer first, see `v1.entrances`."""

    def __init__(self, controllers: tuple[str, ...], there: frozenset[Name], limits: Names) -> None:
        super().__init__(there, limits, controllers)
        for name in RESETTING:
            with self.calls.step("reset", name[1]):
                self.calls.call("pwrite64", self.opened(name), b"0", 1, 0)
        self._left = self.file(LEFT)
        with self.calls.step("open", "tasks"):
            flags = os.O_WRONLY | os.O_CLOEXEC
            self.entrances = [
                self.calls.call("openat", place, b"tasks", flags) for place in self.places.values()
            ]

    def left(self) -> int:
        """Bytes of memory that are counted."""
        return int(self.what(self._left))


class _Using(_Reading):
    """What the processes in a group used."""

    def __init__(self, there: frozenset[Name]) -> None:
        super().__init__(there)
        self._used = {name: self.file(name, _room(name[0])) for name in v1_usage.FILES}

    def one(self, controller: str, name: str) -> str | None:
        """What one of the files says; None: there is no such file, or it says too much."""
        said = self.what(self._used[controller, name])
        return said.decode("ascii").rstrip("\n") if 0 < len(said) < _room(controller) else None


def _room(controller: str) -> int:
    return ROOM_FOR_DISKS if controller == "blkio" else ROOM


_using = functools.lru_cache(maxsize=4)(_Using)
_looking = functools.lru_cache(maxsize=4)(_Looking)
_beginning = functools.lru_cache(maxsize=8)(_Beginning)
_in_force = functools.lru_cache(maxsize=8)(_InForce)
