"""Archives that harm who trusts them, by what they try: corpus C 45 to 48, and E 64 by ADD.

`CASES` are whole ones, each with the words of the reader of layers that refuses it; `None`: it is
taken, without what it must not bring. Bombs are made by a program of their own, `command_of_bomb`,
since they are larger than what a test may hold.
"""

from __future__ import annotations

import lzma
import os
import sys
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from backports import zstd
from layer_archives import archive, directory, extended, member, packed, record, symlink

from sandbox_kernel.image.layers.compression import Compression
from sandbox_kernel.image.layers.limits import DEFAULT, Limits

USUAL = DEFAULT
COMPRESSED: tuple[Compression, ...] = "gzip", "zstd"


class Hostile(NamedTuple):
    """An archive as it comes, and why the reader of layers refuses it."""

    data: bytes
    refusal: str | None
    compression: Compression = "none"
    limits: Limits | None = None
    """Smaller ones than usual, under which a test finds out in short time."""


# -- 45: whiteouts -------------------------------------------------------------------------------

WHITEOUTS_OF_NOTHING = (b".wh.", b".wh..", b".wh...", b"d/.wh...", b"d/.wh.")
WHITEOUTS = [
    *(
        Hostile(archive(directory(b"d"), member(name)), "names nothing")
        for name in WHITEOUTS_OF_NOTHING
    ),
    Hostile(archive(member(b".wh../..")), "leads out"),
    Hostile(archive(member(b".wh.x", b"data")), "no empty file"),
    Hostile(archive(symlink(b".wh.x", b"../outside")), "no empty file"),
]
WHITEOUTS_OF_ITS_OWN = archive(
    member(b"own", b"kept"),
    member(b".wh.own"),
    member(b"dir/file", b"kept"),
    member(b".wh.dir"),
    member(b".wh.gone"),
    member(b".wh.never"),
    member(b"sub/.wh..wh..opq"),
    member(b".wh..wh.plnk"),
)

# -- 46: devices, special bits, attributes -------------------------------------------------------

NODES = [
    member(b"node", kind=kind, device=device)
    for kind in (b"3", b"4")
    for device in ((1, 3), (8, 0), (0, 0))
]
DEVICES = archive(*NODES, member(b"file"))
DROPPED_ATTRIBUTES = (
    b"trusted.overlay.opaque",
    b"trusted.secret",
    b"security.selinux",
    b"security.ima",
    b"user.overlay.opaque",
    b"user.overlay.redirect",
    b"user.overlay.metacopy",
    b"system.nfs4_acl",
    b"no-namespace",
)
_NAMED = extended(*((b"SCHILY.xattr." + key, b"y") for key in (*DROPPED_ATTRIBUTES, b"user.kept")))
ATTRIBUTES = archive(_NAMED, directory(b"d"), _NAMED, member(b"f"))

# -- 47: bombs -----------------------------------------------------------------------------------

SMALL = Limits(plain=1 << 24, members=1000, ratio=50, ratio_from=1 << 20, header=1 << 16)


def _sparse(real: bytes, text: bytes, data: bytes = b"") -> bytes:
    return archive(
        extended(
            (b"GNU.sparse.major", b"1"),
            (b"GNU.sparse.minor", b"0"),
            (b"GNU.sparse.realsize", real),
        ),
        member(b"x", text.ljust(-(-len(text) // 512) * 512, b"\0") + data),
    )


def exbibytes(size: int) -> tuple[bytes, bytes]:
    """A sparse file of that size, as old GNU tar writes it and as PAX does."""
    old = member(
        b"sparse",
        kind=b"S",
        magic=b"ustar  \0",
        fields={386: b"00000000000\0" * 2, 483: b"\x80" + size.to_bytes(11, "big")},
    )
    new = extended(
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.name", b"sparse"),
        (b"GNU.sparse.realsize", b"%d" % size),
    ) + member(b"x", b"0\n".ljust(512, b"\0"))
    return archive(old), archive(new)


SPARSE_SIZES = ((1 << 63) - 1, 1 << 62)
LYING_MAPS = (
    _sparse(b"100", b"1\n90\n20\n", b"x" * 20),  # beyond the end
    _sparse(b"100", b"2\n50\n10\n0\n10\n", b"x" * 20),  # not in order
    _sparse(b"100", b"1\n0\n20\n", b"x" * 10),  # more than there is
    _sparse(b"100", b"1\n-5\n20\n", b"x" * 20),
    _sparse(b"100", b"999999999\n"),
    _sparse(b"100", b"x" * 2000),
    _sparse(b"", b"0\n"),
    archive(extended((b"GNU.sparse.offset", b"5")), member(b"x")),
)
EXTENDED_HEADERS = [
    Hostile(archive(member(b"pax", kind=b"x", size=1 << 30)), "extended header of"),
    Hostile(archive(member(b"name", kind=b"L", size=1 << 30)), "extended header of"),
    Hostile(
        archive(member(b"pax", record(b"a", b"") * 100_000, kind=b"x"), member(b"f")),
        "more than 4096 records",
    ),
]


def _many() -> Iterator[Hostile]:
    many = archive(*(member(b"f%d" % i) for i in range(1001)))
    yield Hostile(many, "more than 1000 members", limits=SMALL)
    large = archive(member(b"large", bytes(1 << 24)))
    yield Hostile(large, r"unpacks to more than|larger than", limits=SMALL)
    for compression in COMPRESSED:
        zeros = packed(archive(member(b"zeros", bytes(1 << 23))), compression)
        yield Hostile(zeros, "bomb", compression, SMALL)


def _empty_streams() -> Iterator[Hostile]:
    for compression in COMPRESSED:
        nothing = packed(b"", compression)
        data = nothing * 2000 + packed(archive(member(b"f")), compression)
        yield Hostile(data, "empty", compression)


def _wide_window() -> Hostile:
    stream = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 30})
    data = stream.compress(archive(member(b"f", b"data"))) + stream.flush()
    return Hostile(data, "zstd", "zstd")


def wide_xz() -> bytes:
    """A small archive whose reader needs 4 GiB, if it believes the header of its block.

    The .xz file format, sections 2.1.1, 3.1 and 5.3.1.
    """
    data = bytearray(lzma.compress(archive(member(b"f", b"data"))))
    begin, end = 12, 12 + 4 * (data[12] + 1)
    assert data[begin + 2] == 0x21  # LZMA2
    data[begin + 4] = 40  # of its dictionary: 4 GiB - 1
    data[end - 4 : end] = zlib.crc32(data[begin : end - 4]).to_bytes(4, "little")
    return bytes(data)


BOMBS = {
    "gzip": "gzip.compress(member(b'zeros', size=400 << 20) + bytes(400 << 20), 1)",
    "zstd": "zstd.compress(member(b'zeros', size=400 << 20) + bytes(400 << 20))",
    "many directories": "gzip.compress(b''.join(member(b'd%d/' % i) for i in range(8000)), 1)",
    "one header": "gzip.compress(member(b'p', kind=b'x', size=1 << 30) + bytes(400 << 20), 1)",
}
_MAKE = """
import gzip, sys
from backports import zstd
from layer_archives import member
sys.stdout.buffer.write({bomb})
"""


def command_of_bomb(name: str) -> tuple[list[str], Mapping[str, str]]:
    """A program that writes the bomb, and its environment."""
    tests = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    return [sys.executable, "-c", _MAKE.format(bomb=BOMBS[name])], tests


# -- 48: framing ---------------------------------------------------------------------------------

GOOD = archive(directory(b"d"), member(b"d/f", b"data" * 1000), symlink(b"l", b"d/f"))
FOLLOWING = (b"x", b"garbage" * 100, b"\x1f\x8b")


def cuts_of_good(compression: Compression) -> Iterator[bytes]:
    """`GOOD`, cut off at places all over it."""
    blob = packed(GOOD, compression)
    cuts = {*range(0, len(blob) - 1024, max(1, len(blob) // 7)), len(blob) - 1025}
    if compression != "none":
        cuts = {*range(0, len(blob), max(1, len(blob) // 7)), len(blob) - 1}
    for cut in sorted(cuts):
        yield blob[:cut]


def flipped(compression: Compression) -> bytes:
    """`GOOD` with one wrong bit."""
    blob = bytearray(packed(GOOD, compression))
    blob[len(blob) // 2] ^= 0x10
    return bytes(blob)


HEADERS = {
    "checksum": member(b"f", checksum=b"000000\0 "),
    "size no number": member(b"f", fields={124: b"1z"}),
    "size with a sign": member(b"f", fields={124: b"-0000000001\0"}),
    "size negative": member(b"f", fields={124: b"\xff" * 12}),
    "size of 2^90": member(b"f", fields={124: b"\xbf" * 12}),
    "owner no number": member(b"f", fields={108: b"root\0\0\0\0"}),
    "unknown type": member(b"f", kind=b"V"),
    "unknown magic": member(b"f", magic=b"jarfile0"),
    "extended header for nothing": member(b"pax", record(b"path", b"x"), kind=b"x"),
    "two extended headers": extended((b"path", b"x")) + extended((b"path", b"y")) + member(b"f"),
    "record with no length": member(b"pax", b"path=x\n", kind=b"x") + member(b"f"),
    "record too long": member(b"pax", b"99 path=x\n", kind=b"x") + member(b"f"),
    "record of no length": member(b"pax", b"0 path=x\n", kind=b"x") + member(b"f"),
    "record cut off": member(b"pax", b"9 path=xy", kind=b"x") + member(b"f"),
    "uid no number": extended((b"uid", b"0x10")) + member(b"f"),
    "negative size": extended((b"size", b"-1")) + member(b"f"),
    "time no number": extended((b"mtime", b"now")) + member(b"f"),
    "time out of range": extended((b"mtime", b"9" * 18)) + member(b"f"),
    "character set": extended((b"hdrcharset", b"EBCDIC")) + member(b"f"),
    "link to nothing": member(b"l", kind=b"2"),
    "id above the container's": member(b"f", uid=70000),
}


def _framing() -> Iterator[Hostile]:
    for compression in ("none", *COMPRESSED):
        for cut in cuts_of_good(compression):
            yield Hostile(cut, "", compression)
        for more in FOLLOWING:
            yield Hostile(packed(GOOD, compression) + more, "", compression)
    for compression in COMPRESSED:
        yield Hostile(flipped(compression), "", compression)


CASES: dict[str, list[Hostile]] = {
    "45 whiteouts": WHITEOUTS,
    "45 whiteouts of its own": [Hostile(WHITEOUTS_OF_ITS_OWN, None)],
    "46 devices": [Hostile(DEVICES, None)],
    "46 attributes": [Hostile(ATTRIBUTES, None)],
    "47 more than the limits allow": [*_many()],
    "47 empty streams": [*_empty_streams()],
    "47 a wide window": [_wide_window()],
    "47 exbibytes": [
        Hostile(data, "larger than") for size in SPARSE_SIZES for data in exbibytes(size)
    ],
    "47 lying maps": [Hostile(data, r"sparse|GNU|number|cut off") for data in LYING_MAPS],
    "47 extended headers": EXTENDED_HEADERS,
    "48 framing": [*_framing()],
    "48 headers": [Hostile(archive(header), "") for header in HEADERS.values()],
}
