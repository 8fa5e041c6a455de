"""What the kernel says of one process, asked in one go: the walls around it, and what it has open.

Sources: proc(5), statx(2), namespaces(7), cgroups(7); PROCMAP_QUERY of Linux 6.11,
include/uapi/linux/fs.h.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import struct

from sandbox_kernel.linux import libc as c
from sandbox_kernel.linux import mounts, processes, reading
from sandbox_kernel.linux.multicall import Calls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NamedTuple

    from sandbox_kernel.linux.multicall import Buffer, Cell

    class Facts(NamedTuple):
        """Of one process, at one time."""

        status: bytes
        groups: bytes
        """The files of /proc."""
        differing: tuple[str, ...]
        """Kinds of namespaces that are not those of the descriptors."""
        devices: tuple[int, ...]
        """What devices its first three descriptors are; 0: none."""
        open: tuple[int, ...]
        """All its descriptors."""

    class Shared(NamedTuple):
        """Memory of a process that others may see."""

        writable: bool
        device: int
        path: str
else:
    from collections import namedtuple

    Facts = namedtuple("Facts", "status groups differing devices open")
    Shared = namedtuple("Shared", "writable device path")

MOST = 1 << 12
"""Bytes of one file; who has more to tell has more open, or is in more groups, than any of ours."""
# include/uapi/linux/stat.h: struct statx is 256 bytes.
STATX_INO = 0x100
_STATX_SIZE, _INODE = 256, struct.Struct("=32xQ")
_DEVICES = struct.Struct("=128xIIII")  # of a device its own numbers, and those of its file system
_ENTRY = struct.Struct("=QqHB")  # struct linux_dirent64, up to the name
# struct procmap_query, and what is asked for: which memory at an address or above it is shared.
_QUERY = struct.Struct("=9Q4I2Q")
_SHARED, _OR_NEXT = 0x08, 0x10
_WRITABLE = 0x02
PROCMAP_QUERY = 3 << 30 | _QUERY.size << 16 | ord("f") << 8 | 17  # _IOWR('f', 17, ...)


class _Looking:
    """The calls for processes that are to be in namespaces of these kinds."""

    def __init__(self, kinds: tuple[str, ...]) -> None:
        self.calls = calls = Calls()
        self.process = calls.given()
        self.namespaces = {kind: calls.given() for kind in kinds}
        with calls.step("look at", "a process"):
            self.status = calls.file(self.process, "status", MOST)
            self.groups = calls.file(self.process, "cgroup", MOST)
            self.kinds = {
                kind: (
                    self._seen(self.process, b"ns/" + processes.FILE_OF_NAMESPACE[kind].encode()),
                    self._seen(self.namespaces[kind], b""),
                )
                for kind in kinds
            }
            self.first = [self._seen(self.process, b"fd/%d" % number) for number in range(3)]
            folder = calls.call("openat", self.process, b"fd", os.O_DIRECTORY | os.O_CLOEXEC)
            self.listed = calls.buffer(MOST)
            self.listed_size = calls.call("getdents64", folder, self.listed, MOST)
            calls.close(folder)

    def _seen(self, place: Cell, name: bytes) -> Buffer:
        flags = 0 if name else mounts.AT_EMPTY_PATH
        seen = self.calls.buffer(_STATX_SIZE)
        self.calls.call("statx", place, name, flags, STATX_INO, seen)
        return seen


_looking = functools.lru_cache(maxsize=8)(_Looking)


def look(pid: int, namespaces: Mapping[str, int]) -> Facts:
    """What is to be known of a process that is to be in these namespaces: descriptors, by kind.

    One that has not even three descriptors is an error. Raises OSError, StepFailed.
    """
    process = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    looking = _looking(tuple(namespaces))
    calls = looking.calls
    try:
        given = {looking.namespaces[kind]: number for kind, number in namespaces.items()}
        calls.run({looking.process: process, **given})
    finally:
        os.close(process)
    differing = tuple(
        kind
        for kind, (its, wanted) in looking.kinds.items()
        if _identity(calls.data(its, _STATX_SIZE)) != _identity(calls.data(wanted, _STATX_SIZE))
    )
    first = [_DEVICES.unpack_from(calls.data(seen, _STATX_SIZE)) for seen in looking.first]
    return Facts(
        status=calls.said(looking.status),
        groups=calls.said(looking.groups),
        differing=differing,
        devices=tuple(os.makedev(major, minor) for major, minor, _, _ in first),
        open=_numbers(calls.data(looking.listed, calls.result(looking.listed_size))),
    )


def _identity(seen: bytes) -> tuple[int, ...]:
    """Of a file: its inode, and the device that its file system is on."""
    (inode,) = _INODE.unpack_from(seen)
    return (inode, *_DEVICES.unpack_from(seen)[2:])


def _numbers(entries: bytes) -> tuple[int, ...]:
    """The names of a folder that are numbers."""
    found, at = [], 0
    while at < len(entries):
        _, _, length, _ = _ENTRY.unpack_from(entries, at)
        name = entries[at + _ENTRY.size : at + length].split(b"\0", 1)[0]
        if name.isdigit():
            found.append(int(name))
        at += length
    return tuple(found)


def shared_memory(pid: int) -> list[Shared]:
    """What a process has mapped and others may see. Raises OSError."""
    maps = os.open(f"/proc/{pid}/maps", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _asked_for(maps)
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EINVAL):
            raise
        return parsed(reading.whole(f"/proc/{pid}/maps"))  # before Linux 6.11
    finally:
        os.close(maps)


def _asked_for(maps: int) -> list[Shared]:
    found: list[Shared] = []
    name = bytearray(os.pathconf("/", "PC_PATH_MAX"))
    place = c.addressof(c.c_ubyte.from_buffer(name))
    begin, asked = 0, _SHARED | _OR_NEXT
    while True:
        query = bytearray(_QUERY.pack(_QUERY.size, asked, begin, *[0] * 8, len(name), 0, place, 0))
        try:
            fcntl.ioctl(maps, PROCMAP_QUERY, query)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return found
            raise
        _, _, _, _, begin, flags, _, _, _, major, minor, size, *_ = _QUERY.unpack(query)
        path = os.fsdecode(bytes(name[: max(0, size - 1)]))  # `size` counts the 0 behind it
        found.append(Shared(bool(flags & _WRITABLE), os.makedev(major, minor), path))


def parsed(maps: bytes) -> list[Shared]:
    """The same out of the text: addresses, mode, offset, device, inode, path."""
    found: list[Shared] = []
    end = 0
    # Most have hundreds of lines, and hardly one whose mode ends with `s`, which a blank follows.
    while (at := maps.find(b"s ", end)) >= 0:
        begin, end = maps.rfind(b"\n", 0, at) + 1, maps.find(b"\n", at)
        _, mode, _, numbers, _, *rest = maps[begin:end].split(b" ", 5)
        if mode[3:] == b"s":
            major, _, minor = numbers.partition(b":")
            path = os.fsdecode(rest[0].lstrip(b" ")) if rest else ""
            found.append(Shared(b"w" in mode, os.makedev(int(major, 16), int(minor, 16)), path))
    return found
