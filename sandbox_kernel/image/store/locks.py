"""Locks of the store: flock(2) on files, so that the kernel frees what a killed process held.

A lock's file may be removed while nobody holds it. Who locked a file then looks whether it is still
the one of that name, and begins again if not, so that two can't hold two files of one name.

Order, so that no two processes wait for each other: `content` (shared: something is being added;
alone: things are being removed), then a blob, then a layer, then `names`.
"""

from __future__ import annotations

import fcntl
import os


class Lock:
    """A lock that is held until `release`, or the end of its `with` block, or of the process.

    `passing`: its file goes with it, for locks whose names are as many as there are blobs.
    """

    __slots__ = ("fd", "passing", "path")

    def __init__(self, path: str, fd: int, *, passing: bool = False) -> None:
        self.path = path
        self.fd = fd
        self.passing = passing

    def release(self) -> None:
        """Free it. Twice is once."""
        if self.fd >= 0:
            if self.passing and _is(self.path, self.fd):
                os.unlink(self.path)
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def hold(path: str, *, shared: bool = False, passing: bool = False) -> Lock:
    """Wait for the lock and hold it. Raises OSError when its file can't be made."""
    found = _take(path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    assert found is not None  # without LOCK_NB it waits
    found.passing = passing
    return found


def try_hold(path: str, *, shared: bool = False, passing: bool = False) -> Lock | None:
    """The lock, or None at once when somebody else holds it."""
    found = _take(path, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    if found is not None:
        found.passing = passing
    return found


def _take(path: str, operation: int) -> Lock | None:
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, operation)
            still = _is(path, fd)
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        if still:
            return Lock(path, fd)
        os.close(fd)


def _is(path: str, fd: int) -> bool:
    """Whether a locked file still has its name, which somebody may have taken from it by hand."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(fd))
    except FileNotFoundError:
        return False
