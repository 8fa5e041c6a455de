"""`Fact`: one value with its source, or with the reason why there is none. Reading small files."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

ENDED = "it ended"
NOT_COUNTED = "this machine does not count it"
_NOT_VISIBLE = "not visible to you"
_GONE = (errno.ESRCH, errno.ENOENT, errno.ENODEV)
_PIECE = 1 << 16
MOST_BYTES = 4 << 20
"""A file of the kernel that is longer is read so far: some grow with what a container does."""


@dataclass(frozen=True, slots=True)
class Fact(Generic[T]):
    """What was read, and of which file or call. Without a value `reason` says why."""

    value: T | None
    source: str
    reason: str = ""

    @property
    def shown(self) -> str:
        """The value, or the reason, in words."""
        return self.reason if self.value is None else str(self.value)


def fact(source: str, read: Callable[[], T]) -> Fact[T]:
    """What `read` returns; where it fails, why: the process ended, or it is not for the caller."""
    try:
        return Fact(read(), source)
    except OSError as error:
        return Fact(None, source, why(error))


def why(error: OSError) -> str:
    """Why something could not be read, in words for its reader."""
    if error.errno in _GONE:
        return ENDED
    if error.errno == errno.EOPNOTSUPP:  # pressure, of a kernel that was started with psi=0
        return NOT_COUNTED
    return f"{_NOT_VISIBLE}: {os.strerror(error.errno or errno.EIO)}"


def read(path: str) -> bytes:
    """The whole of a file of the kernel. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        pieces = [os.read(descriptor, _PIECE)]
        size = len(pieces[0])
        while pieces[-1] and size < MOST_BYTES:
            pieces.append(os.read(descriptor, _PIECE))
            size += len(pieces[-1])
    finally:
        os.close(descriptor)
    return b"".join(pieces)


def text(raw: bytes) -> str:
    """Bytes that anybody may have chosen, as text; what is no UTF-8 as surrogates."""
    return raw.decode("utf-8", "surrogateescape")
