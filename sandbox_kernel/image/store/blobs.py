"""Blobs: bytes under their digest, written so that only what has that digest gets the name."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from sandbox_kernel.errors import ImageError
from sandbox_kernel.image import digest as digests
from sandbox_kernel.image.digest import Digest
from sandbox_kernel.image.store import locks
from sandbox_kernel.image.store.places import Places, flush_folder

if TYPE_CHECKING:
    from hashlib import _Hash

CHUNK = 1 << 20


class Partial(NamedTuple):
    """The beginning of a blob that was not finished."""

    path: str
    size: int


class BlobWriter:
    """Writes one blob, in a `with` block; see `Store.writer`.

    `present`: somebody has finished this blob, there is nothing to write. `offset`: how many bytes
    are there from an earlier try; what is written goes on from there.
    """

    def __init__(self, places: Places, expected: Digest | None, size: int | None) -> None:
        self.places = places
        self.expected = expected
        self.size = size
        self.offset = 0
        self.present = False
        self._lock: locks.Lock | None = None
        self._content: locks.Lock | None = None
        self._fd = -1
        self._hash: _Hash = digests.hasher(expected)
        name = blob_name(expected) if expected else f"new-{os.getpid()}-{os.urandom(8).hex()}"
        self._path = places.partial(name)

    def __enter__(self) -> BlobWriter:
        self._content = locks.hold(self.places.lock("content"), shared=True)
        try:
            if self.expected is not None:
                self._lock = locks.hold(self.places.lock(blob_name(self.expected)), passing=True)
                if os.path.exists(self.places.blob(self.expected)):
                    self.present = True
                    return self
            self._open()
        except OSError as error:
            self._close()
            raise self._failed("open", error) from error
        except BaseException:
            self._close()
            raise
        return self

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(self._path, flags, 0o600)
        while data := os.read(self._fd, CHUNK):
            self._hash.update(data)
            self.offset += len(data)
        if self.size is not None and self.offset > self.size:
            self.restart()

    def restart(self) -> None:
        """Forget what is there: the bytes that come begin at 0."""
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._hash = digests.hasher(self.expected)
        self.offset = 0

    def write(self, data: bytes | memoryview) -> None:
        """The next bytes. Raises ImageError when there are more than expected, or no space."""
        if self.size is not None and self.offset + len(data) > self.size:
            self._drop()
            raise ImageError(
                f"write blob `{self.expected or 'new'}`: more than the {self.size} bytes that it "
                "has by its description came: get the image from its maker again"
            )
        self._hash.update(data)
        rest = memoryview(data)
        try:
            while rest:
                written = os.write(self._fd, rest)
                self.offset += written
                rest = rest[written:]
        except OSError as error:
            raise self._failed("write", error) from error

    def commit(self) -> Digest:
        """All bytes came: checks size and digest, flushes, and gives the blob its name.

        Raises ImageError, after which nothing is kept, when they are wrong.
        """
        if self.present:
            assert self.expected is not None
            return self.expected
        if self.size is not None and self.offset != self.size:
            raise ImageError(
                f"write blob `{self.expected or 'new'}`: it ended after {self.offset} of "
                f"{self.size} bytes: try again, it goes on from there"
            )
        found = digests.from_hasher(self._hash)
        if self.expected is not None and found != self.expected:
            self._drop()
            raise ImageError(
                f"write blob `{self.expected}`: what came has the digest `{found}`: it was changed "
                "on its way or at its place; nothing of it is kept: try again or another place"
            )
        try:
            os.fsync(self._fd)
            os.rename(self._path, self.places.blob(found))
            flush_folder(os.path.dirname(self.places.blob(found)))
        except OSError as error:
            raise self._failed("write", error) from error
        self.present = True
        return found

    def __exit__(self, *_: object) -> None:
        # The beginning of a blob whose digest is known is kept: a later try goes on from there.
        if not self.present and self.expected is None:
            self._drop()
        self._close()

    def _drop(self) -> None:
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        for lock in (self._lock, self._content):
            if lock is not None:
                lock.release()
        self._lock = self._content = None

    def _failed(self, verb: str, error: OSError) -> ImageError:
        return ImageError(
            f"{verb} blob `{self.expected or 'new'}`: {error.strerror}: free space or mend the "
            f"store at `{self.places.root}`, then try again"
        )


def blob_name(digest: Digest) -> str:
    """The name of a blob's lock and of its beginning."""
    return digest.replace(":", "-")


def partial(places: Places, digest: Digest) -> Partial | None:
    """The beginning of a blob that an earlier try left, if there is one."""
    path = places.partial(blob_name(digest))
    try:
        return Partial(path, os.stat(path).st_size)
    except FileNotFoundError:
        return None


def open_blob(places: Places, digest: Digest) -> int:
    """A descriptor for reading. Raises ImageError when it is not there."""
    try:
        return os.open(places.blob(digest), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise ImageError(
            f"read blob `{digest}`: the image store has none such: pull or load the image again"
        ) from None
    except OSError as error:
        raise ImageError(
            f"read blob `{digest}`: {error.strerror}: run `sandbox-kernel image check`"
        ) from error


def read(places: Places, digest: Digest, cap: int) -> bytes:
    """The whole blob, checked against its digest; `cap`: the most bytes. Raises ImageError."""
    fd = open_blob(places, digest)
    with open(fd, "rb", buffering=0) as file:
        size = os.fstat(fd).st_size
        if size > cap:
            raise ImageError(f"read blob `{digest}`: it has {size} bytes, more than {cap}")
        data = file.read(size)
    hashed = digests.hasher(digest)
    hashed.update(data)
    if digests.from_hasher(hashed) != digest:
        raise ImageError(
            f"read blob `{digest}`: its bytes have changed on the disk: run "
            "`sandbox-kernel image repair`, then pull or load the image again"
        )
    return data
