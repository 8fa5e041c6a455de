"""Layers made by hand, for tests: tar headers byte by byte, whatever they say, and whole archives.

`bare` unpacks with the parser and the placer alone, in this process and with nothing around them;
`confined` as everybody does. A tree that one of them may not harm is looked at with `snapshot`.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import stat
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from backports import zstd

from sandbox_kernel.errors import ImageError
from sandbox_kernel.image import layers
from sandbox_kernel.image.layers import placing, tar
from sandbox_kernel.image.layers.compression import Compression, Plain
from sandbox_kernel.image.layers.limits import DEFAULT, Limits

END = bytes(1024)


def member(
    name: bytes,
    data: bytes = b"",
    *,
    kind: bytes = b"0",
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    size: int | None = None,
    mtime: int = 1_000_000_000,
    link: bytes = b"",
    magic: bytes = b"ustar\x0000",
    prefix: bytes = b"",
    device: tuple[int, int] = (0, 0),
    fields: Mapping[int, bytes] | None = None,
    checksum: bytes | None = None,
) -> bytes:
    """One header with its data. `fields`: offset in the header -> bytes that stand there."""
    said = len(data) if size is None else size
    block = bytearray(512)
    for at, text in (
        (0, name[:100]),
        (100, b"%07o\0" % mode),
        (108, b"%07o\0" % uid),
        (116, b"%07o\0" % gid),
        (124, b"%011o\0" % said if said < 1 << 33 else b"\x80" + said.to_bytes(11, "big")),
        (136, b"%011o\0" % mtime),
        (156, kind),
        (157, link[:100]),
        (257, magic),
        (329, b"%07o\0" % device[0]),
        (337, b"%07o\0" % device[1]),
        (345, prefix),
        *(fields or {}).items(),
    ):
        block[at : at + len(text)] = text
    block[148:156] = b" " * 8
    block[148:156] = checksum or b"%06o\0 " % sum(block)
    return bytes(block) + data + bytes(-len(data) % 512)


def directory(name: bytes, mode: int = 0o755, **more: object) -> bytes:
    """A directory's header."""
    return member(name, kind=b"5", mode=mode, **more)  # type: ignore[arg-type]


def symlink(name: bytes, target: bytes) -> bytes:
    """A symbolic link's header."""
    return member(name, kind=b"2", mode=0o777, link=target)


def hard_link(name: bytes, target: bytes) -> bytes:
    """A hard link's header."""
    return member(name, kind=b"1", link=target)


def record(key: bytes, value: bytes) -> bytes:
    """One record of an extended header."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def extended(*records: tuple[bytes, bytes]) -> bytes:
    """An extended header for the member after it."""
    return member(b"pax", b"".join(record(*pair) for pair in records), kind=b"x")


def long_name(name: bytes, kind: bytes = b"L") -> bytes:
    """GNU's header for a long name (b"K": a long link target)."""
    return member(b"././@LongLink", name + b"\0", kind=kind, magic=b"ustar  \0")


def archive(*members: bytes) -> bytes:
    """A whole archive."""
    return b"".join(members) + END


def packed(data: bytes, compression: Compression) -> bytes:
    """An archive as a blob."""
    if compression == "gzip":
        return gzip.compress(data, 1, mtime=0)
    return zstd.compress(data) if compression == "zstd" else data


def diff_id(data: bytes) -> str:
    """The digest of plain bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def confined(
    data: bytes,
    root: Path,
    *,
    compression: Compression = "none",
    parents: Sequence[Path] | None = (),
    limits: Limits = DEFAULT,
    said: str | None = None,
) -> layers.LayerFacts:
    """Unpack bytes as everybody does."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        return layers.apply(
            file.fileno(),
            compression,
            str(root),
            diff_id=said,
            parents=None if parents is None else [str(parent) for parent in parents],
            limits=limits,
        )


def bare(
    data: bytes,
    root: Path,
    *,
    compression: Compression = "none",
    parents: Sequence[Path] | None = (),
    limits: Limits = DEFAULT,
    said: str | None = None,
) -> layers.LayerFacts:
    """The same, with no wall: what the parser and the placer let through would reach the host."""
    at = 0

    def read() -> bytes:
        nonlocal at
        piece = data[at : at + 65536]
        at += len(piece)
        return piece

    flags = os.O_RDONLY | os.O_DIRECTORY
    below = [os.open(parent, flags) for parent in reversed(parents or ())]
    top = os.open(root, flags)
    mask = os.umask(0)
    try:
        plain = Plain(read, compression, limits)
        reader = tar.Reader(plain.next, limits)
        placer = placing.Placer(top, parents=None if parents is None else tuple(below), ids=65536)
        try:
            while (found := reader.member()) is not None:
                placer.put(found, reader.data())
        finally:
            placer.finish()
        if said is not None and plain.diff_id != said:
            raise ImageError("wrong digest")
        return placer.facts(plain.diff_id, plain.size)
    finally:
        os.umask(mask)
        for descriptor in (top, *below):
            os.close(descriptor)


def snapshot(folder: Path) -> dict[str, tuple[object, ...]]:
    """All below a folder: what a change of any of it would change here."""
    found: dict[str, tuple[object, ...]] = {}
    for above, folders, files in os.walk(folder):
        for name in (*folders, *files, "."):
            path = os.path.join(above, name)
            status = os.lstat(path)
            content: object = None
            if stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(status.st_mode):
                content = Path(path).read_bytes()
            found[path] = (
                status.st_mode,
                status.st_uid,
                status.st_gid,
                status.st_mtime_ns,
                content,
            )
    return found
