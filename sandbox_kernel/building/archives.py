"""Archives that ADD unpacks: read by the strict reader of layers, written as records.

No file is made here: the records go to a container, where the rules of `placing` hold for them as
for everything else (corpus C and E 64). A name with `..` is refused there. Devices are left out:
nobody in a container can make one, and each gets its own. Of extended attributes only those go on
that belong to an image.
"""

from __future__ import annotations

import bz2
import hashlib
import lzma
import os
from collections.abc import Callable, Iterator

from sandbox_kernel.building.addresses import BLOCK
from sandbox_kernel.errors import ImageError, StepFailed
from sandbox_kernel.image.layers import compression, limits, tar
from sandbox_kernel.runtime import gathering, transfer

PIECE = 1 << 18
_UNREADABLE = (ImageError, OSError, lzma.LZMAError, EOFError)
_KINDS = {tar.DIRECTORY: "folder", tar.REGULAR: "file", tar.SYMLINK: "link", tar.LINK: "hard"}


def digest(file: int) -> str:
    """Of a whole file."""
    hashed = hashlib.sha256()
    for data in _pieces(file):
        hashed.update(data)
    return hashed.hexdigest()


def first_block(file: int, compressed: str) -> bytes:
    """The first block of a file without its compression; less when it has less, or is damaged."""
    pieces = _pieces(file)
    block = b""
    try:
        for data in _plain(lambda: next(pieces, b""), compressed):
            block += data[: BLOCK - len(block)]
            if len(block) == BLOCK:
                break
    except _UNREADABLE:
        return b""
    return block


def write(file: int, compressed: str, sink: int, shown: str, *, expected: str) -> int:
    """What is in an archive, as records; how many devices were left out. Raises StepFailed."""
    left_out = 0
    hashed = hashlib.sha256()

    def read() -> Iterator[bytes]:
        for data in _pieces(file):
            hashed.update(data)
            yield data

    pieces = read()
    plain = _plain(lambda: next(pieces, b""), compressed)
    reader = tar.Reader(lambda: next(plain, b""), limits.DEFAULT)
    try:
        while (member := reader.member()) is not None:
            if member.kind in _KINDS:
                _write_member(reader, member, sink)
            else:
                left_out += 1
        for _ in pieces:
            pass  # what follows the archive counts for the digest
    except _UNREADABLE as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise StepFailed("unpack", shown, str(error)) from error
    if hashed.hexdigest() != expected:
        raise StepFailed("unpack", shown, "it was changed while the build looked at it: try again")
    return left_out


def _pieces(file: int) -> Iterator[bytes]:
    at = 0
    while data := os.pread(file, PIECE, at):
        at += len(data)
        yield data


def _plain(read: Callable[[], bytes], compressed: str) -> Iterator[bytes]:
    if compressed in ("none", "gzip", "zstd"):
        yield from compression.plain(read, compressed, limits.DEFAULT)  # type: ignore[arg-type]
        return
    bomb = limits.DEFAULT
    taken = given = 0

    def made() -> bz2.BZ2Decompressor | lzma.LZMADecompressor:
        if compressed == "bzip2":
            return bz2.BZ2Decompressor()
        return lzma.LZMADecompressor(memlimit=2 << bomb.window)  # `xz -9` asks for half of it

    current = made()
    empty, before = 0, 0
    data = read()
    while data or not current.needs_input:
        taken += len(data)
        plain = current.decompress(data, PIECE)
        given += len(plain)
        if given > bomb.plain or (given > bomb.ratio_from and given > bomb.ratio * taken):
            raise ImageError(f"it unpacks to more than {given} bytes: it looks like a bomb")
        if plain:
            yield plain
        if current.eof:
            data = current.unused_data.lstrip(b"\0") or read()
            if not data:
                return
            empty, before = 0 if given > before else empty + 1, given
            if empty > bomb.empty_streams:
                raise ImageError(
                    f"more than {bomb.empty_streams} empty {compressed} streams follow"
                )
            current = made()
        else:
            data = read() if current.needs_input else b""
    raise ImageError("its archive is cut off")


def _write_member(reader: tar.Reader, member: tar.Member, sink: int) -> None:
    kind = _KINDS[member.kind]
    path = _path(member.path)
    if not path:  # the folder itself
        return
    record = {
        "kind": kind,
        "path": path,
        "mode": member.mode,
        "uid": member.uid,
        "gid": member.gid,
        "mtime": member.mtime,
    }
    if kind in ("link", "hard"):
        target = os.fsdecode(member.link)
        record["target"] = _path(member.link) if kind == "hard" else target
    if kind in ("file", "folder"):
        record["attributes"] = _attributes(member)
    transfer.write_record(sink, record)
    if kind != "file":
        return
    at = 0
    spans = member.sparse if member.sparse is not None else ((0, member.size),)
    data = reader.data()
    held = memoryview(b"")
    for offset, length in spans:
        _zeros(sink, offset - at)
        left = length
        while left:
            held = held or next(data)
            piece = held[:left]
            transfer.write_piece(sink, bytes(piece))
            held = held[len(piece) :]
            left -= len(piece)
        at = offset + length
    _zeros(sink, member.size - at)
    transfer.write_piece(sink, b"")


def _attributes(member: tar.Member) -> dict[str, str]:
    """Those that COPY keeps, too; `placing` asks again."""
    named = ((os.fsdecode(name), value) for name, value in member.xattrs.items())
    return {name: value.hex() for name, value in named if gathering.is_kept(name)}


def _zeros(sink: int, count: int) -> None:
    while count > 0:
        transfer.write_piece(sink, bytes(min(count, transfer.PIECE)))
        count -= transfer.PIECE


def _path(name: bytes) -> str:
    return "/".join(part for part in os.fsdecode(name).split("/") if part not in ("", "."))
