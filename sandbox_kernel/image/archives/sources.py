"""What images are loaded from: a folder or a tar archive, read by the names of files in it."""

from __future__ import annotations

import os
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from sandbox_kernel.errors import ImageError, shown
from sandbox_kernel.image.archives import members
from sandbox_kernel.image.store import Store
from sandbox_kernel.linux import paths

CHUNK = 1 << 20
GZIP = b"\x1f\x8b"


class Source(Protocol):
    """Files by name."""

    path: str

    def has(self, name: str) -> bool:
        """Whether there is such a file."""

    def chunks(self, name: str) -> Iterator[bytes]:
        """Its bytes, piece by piece. Raises ImageError when it is not there."""

    def size(self, name: str) -> int:
        """Bytes. Raises ImageError when it is not there."""


def read(source: Source, name: str, cap: int) -> bytes:
    """A whole small file. Raises ImageError."""
    if source.size(name) > cap:
        raise ImageError(
            f"read `{shown(name)}` of `{shown(source.path)}`: it has more than {cap} bytes: "
            "save the image again"
        )
    return b"".join(source.chunks(name))


class Folder:
    """A folder, below which every name stays: no link is followed out of it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        """Let the folder go."""
        os.close(self._fd)

    def _open(self, name: str) -> int:
        try:
            return paths.open_below(
                self._fd, name, os.O_RDONLY | os.O_NONBLOCK, paths.RESOLVE_BENEATH
            )
        except OSError as error:
            raise _missing(self.path, name, error.strerror) from None

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return os.path.isfile(os.path.join(self.path, name))

    def chunks(self, name: str) -> Iterator[bytes]:
        """Its bytes."""
        with open(self._open(name), "rb", buffering=0) as file:
            while data := file.read(CHUNK):
                yield data

    def size(self, name: str) -> int:
        """Bytes."""
        fd = self._open(name)
        try:
            return os.fstat(fd).st_size
        finally:
            os.close(fd)


class Tar:
    """A tar archive that is not compressed and that can be read at any place."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self._fd = fd
        self._members = members.scan(fd, path)

    def _find(self, name: str) -> members.Member:
        found = members.resolve(self._members, name)
        if found is None:
            raise _missing(self.path, name, "there is no such file in it")
        return found

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return members.resolve(self._members, name) is not None

    def chunks(self, name: str) -> Iterator[bytes]:
        """Its bytes."""
        found = self._find(name)
        at, end = found.offset, found.offset + found.size
        while at < end:
            data = os.pread(self._fd, min(CHUNK, end - at), at)
            if not data:
                raise _missing(self.path, name, "the archive was cut while it was read")
            yield data
            at += len(data)

    def size(self, name: str) -> int:
        """Bytes."""
        return self._find(name).size


@contextmanager
def opened(path: str, store: Store, fd: int | None = None) -> Iterator[Source]:
    """A folder or an archive; one that is compressed or a pipe is copied beside the store first.

    `fd`: read this descriptor, `path` names it in errors. Raises ImageError.
    """
    if fd is None and os.path.isdir(path):
        folder = Folder(path)
        try:
            yield folder
        finally:
            folder.close()
        return
    try:
        own = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if fd is None else os.dup(fd)
    except OSError as error:
        raise ImageError(f"open `{shown(path)}`: {error.strerror}: name an archive") from None
    with open(own, "rb", buffering=0) as file:
        begin = os.pread(own, 2, 0) if file.seekable() else b""
        if file.seekable() and begin != GZIP:
            yield Tar(path, own)
            return
        with tempfile.TemporaryFile(dir=store.places.partial("")) as spool:
            try:
                for data in _plain(iter(lambda: file.read(CHUNK), b""), path):
                    spool.write(data)
                spool.flush()
            except OSError as error:
                raise ImageError(
                    f"copy `{shown(path)}`: {error.strerror}: free space at `{store.root}`"
                ) from error
            yield Tar(path, spool.fileno())


def _plain(data: Iterator[bytes], path: str) -> Iterator[bytes]:
    """The bytes, decompressed if they are gzip's."""
    first = next(data, b"")
    if not first.startswith(GZIP):
        yield first
        yield from data
        return
    unzip = zlib.decompressobj(31)
    try:
        yield unzip.decompress(first)
        for piece in data:
            yield unzip.decompress(piece)
    except zlib.error as error:
        raise ImageError(f"read archive `{shown(path)}`: {error}: save the image again") from None


def _missing(path: str, name: str, why: str | None) -> ImageError:
    return ImageError(
        f"read `{shown(name)}` of `{shown(path)}`: {why}: it is no whole image; save it again"
    )
