"""Writing tar archives: one member as bytes, always the same for the same facts.

A plain ustar header where all fits, an extended header before it (with its records in the order of
their keys) where not. Owners have no names and times are whole seconds, so nothing tells of the
machine or the hour. Source: POSIX.1-2017 pax.
"""

from __future__ import annotations

import struct

from sandbox_kernel.image.layers import tar

_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_USTAR = b"ustar\x0000"
_LARGEST_ID = 0o7777777
_LARGEST_SIZE = 0o77777777777
_SECOND = 1_000_000_000

END = bytes(2 * tar.BLOCK)
"""After the last member."""


def encode(member: tar.Member) -> bytes:
    """The headers of a member. Its data and `padding` follow. Sparse ones are written whole."""
    seconds = member.mtime // _SECOND
    records: dict[bytes, bytes] = {}
    if len(member.path) > 100:
        records[b"path"] = member.path
    if len(member.link) > 100:
        records[b"linkpath"] = member.link
    for key, value, largest in (
        (b"uid", member.uid, _LARGEST_ID),
        (b"gid", member.gid, _LARGEST_ID),
        (b"size", member.size, _LARGEST_SIZE),
        (b"mtime", seconds, _LARGEST_SIZE),
    ):
        if not 0 <= value <= largest:
            records[key] = b"%d" % value
    for name, data in member.xattrs.items():
        records[b"SCHILY.xattr." + name] = data
    extended = b""
    if records:
        body = b"".join(_record(key, records[key]) for key in sorted(records))
        extended = _block(b"pax", b"x", 0o644, 0, 0, len(body), 0, b"") + body + padding(len(body))
    return extended + _block(
        member.path[:100],
        member.kind,
        member.mode,
        member.uid if b"uid" not in records else 0,
        member.gid if b"gid" not in records else 0,
        member.size if b"size" not in records else 0,
        seconds if b"mtime" not in records else 0,
        member.link[:100],
    )


def padding(size: int) -> bytes:
    """What fills up the last block of data of this many bytes."""
    return bytes(-size % tar.BLOCK)


def _record(key: bytes, value: bytes) -> bytes:
    """`LENGTH KEY=VALUE\\n`, whose length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _block(
    path: bytes, kind: bytes, mode: int, uid: int, gid: int, size: int, mtime: int, link: bytes
) -> bytes:
    block = _HEADER.pack(
        path,
        b"%07o\0" % mode,
        b"%07o\0" % uid,
        b"%07o\0" % gid,
        b"%011o\0" % size,
        b"%011o\0" % mtime,
        b" " * 8,
        kind,
        link,
        _USTAR,
        b"",
        b"",
        b"%07o\0" % 0,
        b"%07o\0" % 0,
        b"",
    )
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]
