"""Namespaces: which ones a process is in, who owns them, and who shares them with whom.

Sources: /proc/PID/ns (namespaces(7)) and the requests of ioctl_ns(2).
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from sandbox_kernel.linux.processes import FILE_OF_NAMESPACE
from sandbox_kernel.observe.fact import Fact, fact

KINDS = tuple(FILE_OF_NAMESPACE)

# include/uapi/linux/nsfs.h: _IO(0xb7, n)
_NS_GET_USERNS = 0xB701
_NS_GET_PARENT = 0xB702
_NS_GET_OWNER_UID = 0xB704


@dataclass(frozen=True, slots=True)
class Namespace:
    """One namespace. What the caller may not see of its family is None."""

    kind: str
    inode: int
    """Its number: two processes are in the same one when it is the same."""
    user_namespace: int | None
    """Inode of the user namespace that owns it: whose capabilities count in it."""
    parent: int | None
    """Inode of the one that it was made in; of user and pid namespaces alone."""
    owner: int | None
    """Of a user namespace: the user id, as the caller sees it, of who made it."""


@dataclass(frozen=True, slots=True)
class Shared:
    """One namespace and who is in it."""

    kind: str
    inode: int
    members: tuple[str, ...]
    with_host: bool
    """Whether this program is in it, too."""


def of_process(pid: int | str) -> dict[str, Fact[Namespace]]:
    """The namespaces of a process, by kind in the order of the OCI runtime specification."""
    return {kind: _one(pid, kind) for kind in KINDS}


def inodes(pid: int | str) -> dict[str, int]:
    """The numbers of its namespaces alone; those that can't be seen are not there."""
    found = {}
    for kind, name in FILE_OF_NAMESPACE.items():
        with suppress(OSError):
            found[kind] = os.stat(f"/proc/{pid}/ns/{name}").st_ino
    return found


def shared(pids: Mapping[str, int]) -> list[Shared]:
    """Every namespace of these processes with the names of all that are in it, kind by kind."""
    host = inodes("self")
    members: dict[tuple[str, int], list[str]] = {}
    for name, pid in pids.items():
        for kind, inode in inodes(pid).items():
            members.setdefault((kind, inode), []).append(name)
    return [
        Shared(kind, inode, tuple(names), host.get(kind) == inode)
        for (kind, inode), names in sorted(
            members.items(), key=lambda item: (KINDS.index(item[0][0]), item[0][1])
        )
    ]


def _one(pid: int | str, kind: str) -> Fact[Namespace]:
    path = f"/proc/{pid}/ns/{FILE_OF_NAMESPACE[kind]}"
    return fact(path, lambda: _read(path, kind))


def _read(path: str, kind: str) -> Namespace:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        owner = None
        if kind == "user":
            buffer = bytearray(4)
            with suppress(OSError):
                fcntl.ioctl(descriptor, _NS_GET_OWNER_UID, buffer)
                (owner,) = struct.unpack("=I", buffer)
        return Namespace(
            kind,
            os.fstat(descriptor).st_ino,
            _related(descriptor, _NS_GET_USERNS),
            _related(descriptor, _NS_GET_PARENT) if kind in ("user", "pid") else None,
            owner,
        )
    finally:
        os.close(descriptor)


def _related(descriptor: int, request: int) -> int | None:
    """EPERM: it lies outside what the caller can see, which is so for the caller's own parent."""
    try:
        other = fcntl.ioctl(descriptor, request)
    except OSError:
        return None
    try:
        return os.fstat(other).st_ino
    finally:
        os.close(other)
