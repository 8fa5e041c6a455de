"""User and group ids: which ids of the host a container's ids are.

    as root           each container has its own range of 65536 ids, leased from a reserve
    ordinary user     the launcher enters the user's namespace (`sharing`): the user is root there,
                      and 1.. are the ranges of /etc/subuid, written by newuidmap(1). Each
                      container's user namespace is a child of it, with the same ids.
    no ranges         the same, with the one id that may always be mapped

So a container never has an id of the host that is of use there, and making one needs no helper
program. Sources: user_namespaces(7), subuid(5), newuidmap(1).
"""

from __future__ import annotations

import fcntl
import os
import signal

from sandbox_kernel.errors import HostLacks
from sandbox_kernel.linux import processes
from sandbox_kernel.linux.user_namespaces import (
    RANGE,
    refused,
    write_map,
    write_maps,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["RANGE", "Reserve", "namespace_of", "write_maps"]

# Above the ranges that /etc/subuid and systemd-nspawn hand out (systemd, UIDS-GIDS.md: 524288 to
# 1879048191), below 2**31, where old programs start to see negative numbers.
FIRST = 0x70000000
RANGES_IN_BLOCK = 16
BLOCKS = 255


class Reserve:
    """The ranges of ids that root's containers get, leased in blocks by file locks.

    A block belongs to the process that holds the lock of its file; the kernel gives the lock back
    when that process ends, however it ends.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._locks: list[int] = []
        self._free: list[int] = []

    def take(self) -> int:
        """The first host id of a free range. Raises HostLacks when all are in use."""
        if not self._free:
            self._lease_block()
        return self._free.pop()

    def give_back(self, first: int) -> None:
        """The last process of that container is gone: its range may be used again."""
        self._free.append(first)

    def _lease_block(self) -> None:
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        start = os.getpid() % BLOCKS
        for step in range(BLOCKS):
            block = (start + step) % BLOCKS
            lock = os.open(f"{self._folder}/{block}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                continue
            self._locks.append(lock)
            first = FIRST + block * RANGES_IN_BLOCK * RANGE
            self._free.extend(first + index * RANGE for index in range(RANGES_IN_BLOCK))
            return
        raise HostLacks(
            f"lease ids for a container: all {BLOCKS * RANGES_IN_BLOCK} ranges are in use: "
            "end some containers (`sandbox-kernel ps`)"
        )


def user_namespace(firsts: Sequence[int] | None, count: int) -> int:
    """A new user namespace, a child of ours, with maps as `write_maps` has them: a descriptor.

    The process that makes it ends at once. Raises OSError.
    """
    return _made(lambda pid: write_maps(pid, firsts, count))


def namespace_of(extent: tuple[int, int, int], groups: tuple[int, int, int]) -> int:
    """A user namespace with one id map, as a descriptor, for an id-mapped mount.

    Each extent is (id on disk, id shown, count). The process that makes it ends at once.
    """

    def write(pid: int) -> None:
        write_map(f"/proc/{pid}/uid_map", "{} {} {}\n".format(*extent))
        write_map(f"/proc/{pid}/gid_map", "{} {} {}\n".format(*groups))

    return _made(write)


def _made(write: Callable[[int], None]) -> int:
    try:
        pid, pidfd = processes.clone(processes.CLONE_NEWUSER)
    except OSError as error:
        raise refused(error) from error
    if pid == 0:
        while True:
            signal.pause()
    try:
        write(pid)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        processes.send_signal(pidfd, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(pidfd)
