"""The tar reader, the placer and the writer with any input: kept if it is right, else refused.

The placer runs with nothing around it, so that what it lets through would reach the folder beside.
"""

from __future__ import annotations

import gzip
import io
import os
import random
import struct
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from layer_archives import archive, bare, directory, hard_link, member, snapshot, symlink

from sandbox_kernel.errors import ImageError
from sandbox_kernel.image.layers import compressing, compression, names, tar, writing
from sandbox_kernel.image.layers.limits import DEFAULT, Limits

QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SMALL = Limits(plain=1 << 20, members=500, header=1 << 14)


def members(data: bytes, piece: int = 700, limits: Limits = DEFAULT) -> Iterator[tar.Member]:
    """All of an archive that comes in pieces; the data is read to see that it is there."""
    source = io.BytesIO(data)
    reader = tar.Reader(lambda: source.read(piece), limits)
    while (found := reader.member()) is not None:
        stored = sum(len(part) for part in reader.data())
        assert found.sparse is not None or stored == found.size
        yield found


# -- what is right ---------------------------------------------------------------------------------

parts = st.binary(min_size=1, max_size=120).filter(
    lambda part: part not in (b".", b"..") and not {0, 0x2F} & set(part)
)
paths = st.lists(parts, min_size=1, max_size=4).map(b"/".join)
ids = st.one_of(st.integers(0, 70000), st.integers(0, 1 << 40))
xattrs = st.dictionaries(
    st.sampled_from([b"user.a", b"user.b", b"security.capability"]), st.binary(max_size=40)
)


@st.composite
def right_members(draw: st.DrawFn) -> tar.Member:
    kind = draw(st.sampled_from([tar.REGULAR, tar.DIRECTORY, tar.SYMLINK, tar.LINK, tar.FIFO]))
    path = draw(paths)
    return tar.Member(
        path=path + b"/" if kind == tar.DIRECTORY else path,
        kind=kind,
        mode=draw(st.integers(0, 0o7777)),
        uid=draw(ids),
        gid=draw(ids),
        size=0,
        mtime=draw(st.integers(-(1 << 39), 1 << 39)) * 1_000_000_000,
        link=draw(paths) if kind in (tar.SYMLINK, tar.LINK) else b"",
        xattrs=draw(xattrs),
        sparse=None,
    )


@QUICK
@given(st.lists(right_members(), max_size=5), st.integers(1, 2000))
def test_what_we_write_we_read(wanted: list[tar.Member], piece: int) -> None:
    data = b"".join(map(writing.encode, wanted)) + writing.END

    assert list(members(data, piece)) == wanted


@QUICK
@given(st.lists(right_members(), max_size=5))
def test_what_we_write_pythons_tarfile_reads(wanted: list[tar.Member]) -> None:
    data = b"".join(map(writing.encode, wanted)) + writing.END
    with tarfile.open(fileobj=io.BytesIO(data), errors="surrogateescape") as read:
        found = [
            (os.fsencode(one.name), one.mode, one.uid, one.gid, os.fsencode(one.linkname))
            for one in read
        ]
    assert found == [
        (one.path.rstrip(b"/"), one.mode, one.uid, one.gid, one.link) for one in wanted
    ]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_pythons_tarfile_writes_we_read(form: int) -> None:
    made = io.BytesIO()
    wanted = []
    with tarfile.open(fileobj=made, mode="w", format=form) as written:
        for number, length in enumerate((10, 99, 100, 101, 150, 250)):
            if form == tarfile.USTAR_FORMAT and length > 150:
                continue
            name = f"{'d' * (length - 20)}/{'f' * 19}" if length > 20 else "f" * length
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.uid, info.gid = number, 1000 + number, number, 0o7777777
            written.addfile(info, io.BytesIO(b"x" * number))
            wanted.append((name.encode(), number, 1000 + number, number, 0o7777777))
    found = [
        (one.path, one.size, one.mtime // 1_000_000_000, one.uid, one.gid)
        for one in members(made.getvalue())
    ]
    assert found == wanted


# -- what is wrong ---------------------------------------------------------------------------------


def only_refused(data: bytes) -> None:
    """It is read, or refused with our own error; nothing else, and it ends."""
    try:
        for _ in members(data, limits=SMALL):
            pass
    except ImageError:
        pass


@QUICK
@given(st.binary(max_size=3000))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    only_refused(data)


SEED = archive(
    directory(b"d"),
    member(b"pax", b"20 path=d/some-name\n27 SCHILY.xattr.user.x=val\n", kind=b"x"),
    member(b"x", b"data" * 200),
    member(b"././@LongLink", b"n" * 150 + b"\0", kind=b"L", magic=b"ustar  \0"),
    member(b"n", b"x"),
    symlink(b"l", b"d"),
    hard_link(b"h", b"x"),
    member(b"s", b"12345678", kind=b"S", magic=b"ustar  \0", fields={386: b"00000000000\0" * 2}),
)


@QUICK
@given(st.lists(st.tuples(st.integers(0, len(SEED) - 1), st.integers(0, 255)), max_size=6))
def test_any_changed_bytes_are_read_or_refused(changes: list[tuple[int, int]]) -> None:
    data = bytearray(SEED)
    for at, value in changes:
        data[at] = value
        block = at - at % 512
        if data[block + 257 : block + 262] == b"ustar":
            data[block + 148 : block + 156] = b" " * 8
            data[block + 148 : block + 156] = b"%06o\0 " % sum(data[block : block + 512])
    only_refused(bytes(data))


@QUICK
@given(st.binary(max_size=400))
def test_any_records_are_read_or_refused(records: bytes) -> None:
    only_refused(archive(member(b"pax", records, kind=b"x"), member(b"f", b"x")))


# -- wherever names lead ---------------------------------------------------------------------------

words = st.sampled_from(
    [b"a", b"b", b"..", b".", b"", b".wh.a", b".wh..wh..opq", b"up", b"outside", b"canary"]
)
ways = st.lists(words, min_size=1, max_size=4).map(b"/".join)
hostile_members = st.one_of(
    st.builds(lambda name: member(name, b"evil"), ways),
    st.builds(member, ways),
    st.builds(directory, ways, st.sampled_from([0o755, 0])),
    st.builds(symlink, ways, st.one_of(ways, st.just(b"../outside"), st.just(b"/"))),
    st.builds(hard_link, ways, ways),
    st.builds(lambda name: member(name, kind=b"3", device=(0, 0)), ways),
)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can unpack without a user namespace")
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(hostile_members, max_size=12), min_size=1, max_size=2))
def test_no_layer_reaches_what_is_beside_it(made: list[list[bytes]]) -> None:
    with TemporaryDirectory() as place:
        outside = Path(place, "outside")
        outside.mkdir()
        (outside / "canary").write_text("canary")
        before = snapshot(outside)
        below: list[Path] = []
        for number, each in enumerate(made):
            layer = Path(place, str(number))
            layer.mkdir()
            trees = [snapshot(lower) for lower in below]
            try:
                bare(archive(*each), layer, parents=below)
            except ImageError:
                pass
            assert [snapshot(lower) for lower in below] == trees
            below.append(layer)
        assert snapshot(outside) == before
        assert sorted(os.listdir(place)) == sorted(["outside", *map(str, range(len(made)))])


def test_parts_of_names() -> None:
    assert names.parts(b"/a//./b/") == [b"a", b"b"]
    assert names.parts(b"./") == []
    assert names.link_parts(b"../a/./b") == [b"..", b"a", b"b"]


# -- compressing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (5 << 20) + 7])
def test_gzip_is_the_same_on_any_number_of_processors(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = random.Random(size).randbytes(size // 2) + bytes(size - size // 2)
    made = []
    for processors in (1, 4):
        monkeypatch.setattr(os, "cpu_count", lambda count=processors: count)
        out: list[bytes] = []
        packed = compressing.Gzip(out.append)
        for at in range(0, len(data), 100_003):
            packed.write(data[at : at + 100_003])
        packed.close()
        made.append((b"".join(out), packed.digest, packed.diff_id, packed.size))
    assert made[0] == made[1]
    assert gzip.decompress(made[0][0]) == data


def gzip_member(data: bytes, flags: int) -> bytes:
    """One member with these optional fields in its header; RFC 1952."""
    header = b"\x1f\x8b\x08" + bytes([flags]) + b"\0\0\0\0\0\3"
    if flags & 4:
        header += b"\x06\0SG\x02\x0000"
    header += b"name\0" * bool(flags & 8) + b"comment\0" * bool(flags & 16)
    if flags & 2:
        header += (zlib.crc32(header) & 0xFFFF).to_bytes(2, "little")
    packed = zlib.compressobj(6, zlib.DEFLATED, -15)
    body = packed.compress(data) + packed.flush()
    return header + body + struct.pack("<II", zlib.crc32(data), len(data))


def inflated(blob: bytes, piece: int) -> bytes:
    source = io.BytesIO(blob)
    return b"".join(compression.plain(lambda: source.read(piece), "gzip", DEFAULT))


@pytest.mark.parametrize("piece", [1, 7, 100_000])
def test_every_header_of_gzip_is_read_however_it_comes(piece: int) -> None:
    for flags in range(32):
        assert inflated(gzip_member(b"data" * 500, flags) * 2, piece) == b"data" * 1000


def test_gzip_that_is_cut_or_changed_anywhere_is_refused() -> None:
    whole = gzip_member(b"data", 31)
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 1
        for blob in (whole[: at or 1], bytes(changed)):
            with pytest.raises(ImageError):
                inflated(blob, 100_000)
