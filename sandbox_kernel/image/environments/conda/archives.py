"""Archives of conda packages, taken apart: every file gets a number, so that no name is a path yet.

A `.conda` is a zip that holds two archives of tar and zstd, what to install and what is said of it;
a `.tar.bz2` is one archive with both (conda-package-handling; CEP 35 gives names). Tar is read by
the strict reader of layers. A package's own owners, attributes and special modes are left out;
devices, pipes and what leads out of the package are refused.
"""

from __future__ import annotations

import bz2
import contextlib
import errno
import hashlib
import os
import struct
import zipfile
from collections.abc import Callable, Iterator
from typing import IO, NamedTuple

from sandbox_kernel.errors import ImageError, shown
from sandbox_kernel.image.environments.conda.lock import Package
from sandbox_kernel.image.layers import names, tar
from sandbox_kernel.image.layers.compression import PIECE, plain
from sandbox_kernel.image.layers.limits import Limits

LIMITS = Limits(plain=16 << 30, members=1_000_000, window=27)
MOST_PARTS = 16
"""Files in the zip of a `.conda`; it has three."""
MOST_INFORMATION = 64 << 20
INFORMATION = "info/"
INDEX, PATHS, LINK = "info/index.json", "info/paths.json", "info/link.json"
_READ = (INDEX, PATHS, LINK)
_KINDS = {
    tar.CHARACTER: "a device",
    tar.BLOCK_DEVICE: "a device",
    tar.FIFO: "a pipe",
}


class Member(NamedTuple):
    """A file, by the path that it was put at, or a symbolic link, by where it leads."""

    source: str
    target: str
    executable: bool
    mtime: int


class Content(NamedTuple):
    """`information`: the documents of INDEX, PATHS and LINK that are there. `members` by path."""

    information: dict[str, bytes]
    members: dict[str, Member]


def unpack(archive: str, package: Package, stage: str) -> Content:
    """Put the files of an archive into an empty folder, if it has the hash of the lock.

    Raises ImageError for an archive that is not as it must be.
    """
    with open(archive, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != package.sha256:
            raise ImageError(f"its sha256 is {found}, the lock says {package.sha256}")
        file.seek(0)
        taken = _Taken(stage)
        for piece in _streams(file, package.file):
            taken.take(tar.Reader(piece, LIMITS))
    return Content(taken.information, taken.members)


def path_of(name: bytes | str) -> str:
    """A name in a package as a path below its prefix. Raises ImageError."""
    raw = name.encode("utf-8", "surrogatepass") if isinstance(name, str) else name
    if raw.startswith(b"/"):
        raise ImageError(f"`{names.display(raw)}` is an absolute path")
    parts = names.parts(raw)
    if not parts:
        raise ImageError(f"`{names.display(raw)}` names no file")
    if any(part.startswith(names.WHITEOUT) for part in parts):
        raise ImageError(f"`{names.display(raw)}` would hide a file, once it is a layer's")
    try:
        return b"/".join(parts).decode()
    except UnicodeDecodeError as error:
        raise ImageError(f"`{names.display(raw)}` is not UTF-8") from error


def _streams(file: IO[bytes], name: str) -> Iterator[Callable[[], bytes]]:
    """For each archive of tar: a function that gives its next bytes."""
    if name.endswith(".tar.bz2"):
        with bz2.open(file) as packed:
            yield lambda: _bytes(packed)
        return
    with _reading_zip():
        parts = zipfile.ZipFile(file)
    with parts:
        listed = parts.infolist()
        if len(listed) > MOST_PARTS:
            raise ImageError(f"it has more than {MOST_PARTS} parts")
        for kind in ("info-", "pkg-"):
            found = [part for part in listed if part.filename.startswith(kind)]
            if len(found) != 1 or not found[0].filename.endswith(".tar.zst"):
                raise ImageError(f"it has not one part `{kind}*.tar.zst`")
            if found[0].compress_type != zipfile.ZIP_STORED or found[0].flag_bits & 1:
                raise ImageError(f"its part `{shown(found[0].filename)}` is not simply stored")
            with _reading_zip():
                stored = parts.open(found[0])
            with stored:
                yield _unpacked(stored)


@contextlib.contextmanager
def _reading_zip() -> Iterator[None]:
    """What `zipfile` says to bytes that are no zip, in all the ways in which it says it."""
    try:
        yield
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, struct.error) as error:
        raise ImageError(f"its archive is damaged: {shown(error)}") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # of a place before the file's begin, lseek(2)
            raise
        raise ImageError(f"its archive is damaged: {shown(error)}") from error


def _bytes(packed: bz2.BZ2File) -> bytes:
    try:
        return packed.read(PIECE)
    except (OSError, EOFError) as error:
        raise ImageError(f"its bzip2 data is damaged: {shown(error)}") from error


def _unpacked(stored: IO[bytes]) -> Callable[[], bytes]:
    def more() -> bytes:
        with _reading_zip():
            return stored.read(PIECE)

    pieces = plain(more, "zstd", LIMITS)
    return lambda: next(pieces, b"")


class _Taken:
    """What was taken out of a package's archives so far."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._count = 0
        self._bytes = 0
        self.information: dict[str, bytes] = {}
        self.members: dict[str, Member] = {}

    def take(self, reader: tar.Reader) -> None:
        while (member := reader.member()) is not None:
            if member.kind == tar.DIRECTORY:
                continue  # folders are made for what lies in them
            path = path_of(member.path)
            if member.kind in _KINDS:
                raise ImageError(f"`{shown(path)}` is {_KINDS[member.kind]}")
            if member.sparse is not None:
                raise ImageError(f"`{shown(path)}` is a file with holes")
            self._bytes += member.size
            if self._bytes > LIMITS.plain:
                raise ImageError(f"it unpacks to more than {LIMITS.plain} bytes")
            if path in self.members or path in self.information:
                raise ImageError(f"`{shown(path)}` is there twice")
            if path in _READ:
                self.information[path] = self._read(member, reader, path)
            elif not path.startswith(INFORMATION):
                self.members[path] = self._put(member, reader, path)

    def _read(self, member: tar.Member, reader: tar.Reader, path: str) -> bytes:
        if member.kind != tar.REGULAR or member.size > MOST_INFORMATION:
            raise ImageError(f"`{path}` is no file of at most {MOST_INFORMATION} bytes")
        return b"".join(map(bytes, reader.data()))

    def _put(self, member: tar.Member, reader: tar.Reader, path: str) -> Member:
        executable = bool(member.mode & 0o111)
        if member.kind == tar.SYMLINK:
            try:
                return Member("", member.link.decode(), False, member.mtime)
            except UnicodeDecodeError as error:
                raise ImageError(f"link `{shown(path)}` does not lead to UTF-8") from error
        self._count += 1
        place = os.path.join(self._stage, str(self._count))
        if member.kind == tar.LINK:
            other = self.members.get(path_of(member.link))
            if other is None or not other.source:
                raise ImageError(f"`{shown(path)}` is a hard link to no file before it")
            os.link(other.source, place)
            return other._replace(source=place)
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb", buffering=0) as file:
            for piece in reader.data():
                view = piece
                while view:
                    view = view[file.write(view) :]
        return Member(place, "", executable, member.mtime)
