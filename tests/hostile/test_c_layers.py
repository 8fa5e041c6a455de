"""Corpus entries C 43 to 48: hostile layers, against the bare parser and the confined process.

Each test unpacks beside a folder `outside` that is compared before and after.
"""

from __future__ import annotations

import errno
import gzip
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from backports import zstd
from layer_archives import (
    archive,
    bare,
    confined,
    diff_id,
    directory,
    extended,
    hard_link,
    long_name,
    member,
    packed,
    record,
    snapshot,
    symlink,
)

from sandbox_kernel.errors import ImageError
from sandbox_kernel.image import layers
from sandbox_kernel.image.layers import LayerFacts
from sandbox_kernel.image.layers.compression import Compression
from sandbox_kernel.image.layers.limits import Limits

everybody = pytest.mark.everybody  # where another user could make a difference
Unpack = Callable[..., LayerFacts]
AS_ROOT = os.geteuid() == 0
COMPRESSED: tuple[Compression, ...] = "gzip", "zstd"


@pytest.fixture(params=[bare, confined] if AS_ROOT else [confined], ids=lambda way: way.__name__)
def unpack(request: pytest.FixtureRequest) -> Unpack:
    way: Unpack = request.param
    return way


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """An empty folder for the layer, with a host around it that must not change."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "canary").write_text("canary\n")
    (outside / "folder").mkdir()
    (tmp_path / "passwd").write_text("root\n")
    made = tmp_path / "store" / "layer"
    made.mkdir(parents=True)
    before = snapshot(outside), (tmp_path / "passwd").read_text(), sorted(os.listdir(tmp_path))
    try:
        yield made
        now = snapshot(outside), (tmp_path / "passwd").read_text(), sorted(os.listdir(tmp_path))
        assert now == before
        assert os.listdir(tmp_path / "store") == ["layer"]
    finally:
        layers.remove_tree(str(made))


# -- 43: names -----------------------------------------------------------------------------------

REFUSED_NAMES = (b"../x", b"a/../../x", b"a/../x", b"..", b"/../../outside/canary", b"")


@pytest.mark.cve("CVE-2007-4559", "CVE-2021-21272", "CVE-2025-4435")
def test_c43_a_name_that_leads_out_is_refused(unpack: Unpack, root: Path) -> None:
    for name in REFUSED_NAMES:
        with pytest.raises(ImageError, match="member"):
            unpack(archive(member(name, b"evil")), root)
    for name in (*REFUSED_NAMES, b"a\0b"):
        with pytest.raises(ImageError, match="member"):
            unpack(archive(extended((b"path", name)), member(b"innocent", b"evil")), root)

    assert os.listdir(root) in ([], ["a"])


def test_c43_an_absolute_name_is_one_below_the_layer(unpack: Unpack, root: Path) -> None:
    names = b"/etc/a", b"//etc//b", b"./etc/./c", b"etc/d"
    unpack(archive(*(member(name, b"kept") for name in names)), root)

    assert sorted(os.listdir(root / "etc")) == ["a", "b", "c", "d"]


@pytest.mark.cve("CVE-2021-29136")
def test_c43_the_root_stays_a_directory(unpack: Unpack, root: Path) -> None:
    """CVE-2021-29136."""
    for name, kind in ((b".", b"0"), (b"/", b"2"), (b"./", b"1"), (b"././/", b"3"), (b"/.", b"6")):
        with pytest.raises(ImageError, match="root"):
            unpack(archive(member(name, kind=kind, link=b"../outside")), root)

    assert root.is_dir()


def test_c43_a_name_that_no_path_can_have_is_refused(unpack: Unpack, root: Path) -> None:
    for name in (b"x" * 256, b"d/" * 2048 + b"x", b"y" * 300 + b"/x"):
        with pytest.raises(ImageError, match=r"too long|longer than"):
            unpack(archive(long_name(name), member(b"short", b"")), root)


def test_c43_a_name_need_not_be_utf_8(unpack: Unpack, root: Path) -> None:
    unpack(archive(member(b"caf\xe9/\xff\n", b"kept")), root)

    assert os.listdir(os.fsencode(root / "caf\udce9")) == [b"\xff\n"]


# -- 44: links -----------------------------------------------------------------------------------


@everybody
@pytest.mark.cve("CVE-2025-4517", "CVE-2025-4330")
def test_c44_writing_through_a_link_stays_in_the_layer(unpack: Unpack, root: Path) -> None:
    for name, target in ((b"1", b"../../outside"), (b"2", b"/outside"), (b"3", b"../" * 9)):
        layer = archive(symlink(b"to" + name, target), member(b"to%s/x%s" % (name, name), b"evil"))
        unpack(layer, root)

    assert sorted(os.listdir(root)) == ["outside", "to1", "to2", "to3", "x3"]
    assert sorted(os.listdir(root / "outside")) == ["x1", "x2"]


def test_c44_a_link_in_the_way_of_a_file_is_replaced(unpack: Unpack, root: Path) -> None:
    layer = archive(symlink(b"x", b"../../outside/canary"), member(b"x", b"evil"))
    unpack(layer, root)

    assert (root / "x").read_bytes() == b"evil"
    assert not (root / "x").is_symlink()


def test_c44_a_hard_link_to_what_the_layer_does_not_have_is_refused(
    unpack: Unpack, root: Path
) -> None:
    for target in (b"../../outside/canary", b"/outside/canary", b"outside/canary", b"", b"gone"):
        with pytest.raises(ImageError):
            unpack(archive(hard_link(b"x", target)), root)


@everybody
@pytest.mark.cve("CVE-2024-12718")
def test_c44_a_hard_link_through_a_link_stays_in_the_layer(unpack: Unpack, root: Path) -> None:
    with pytest.raises(ImageError, match="not there"):
        unpack(archive(symlink(b"out", b"../../outside"), hard_link(b"x", b"out/canary")), root)


def test_c44_a_hard_link_to_a_link_is_that_link(unpack: Unpack, root: Path) -> None:
    unpack(archive(symlink(b"a", b"../../outside/canary"), hard_link(b"b", b"a")), root)

    assert (root / "b").is_symlink()
    assert os.lstat(root / "a").st_ino == os.lstat(root / "b").st_ino


def test_c44_a_hard_link_to_a_directory_or_to_itself_makes_nothing(
    unpack: Unpack, root: Path
) -> None:
    with pytest.raises(ImageError, match="directory"):
        unpack(archive(directory(b"d"), hard_link(b"x", b"d")), root)
    unpack(archive(member(b"same", b"kept"), hard_link(b"same", b"same")), root)

    assert (root / "same").read_bytes() == b"kept"


@pytest.mark.cve("CVE-2025-4138")
def test_c44_a_chain_of_links_ends(unpack: Unpack, root: Path) -> None:
    """Each link doubles the way; written out it would be longer than any path."""
    links = [symlink(b"l0", b".")]
    links += [symlink(b"l%d" % i, b"l%d/l%d/." % (i - 1, i - 1)) for i in range(1, 60)]
    with pytest.raises(ImageError, match="too many links"):
        unpack(archive(*links, member(b"l59/x", b"")), root)
    loop = archive(symlink(b"a", b"b"), symlink(b"b", b"a"), member(b"a/x", b""))
    with pytest.raises(ImageError, match="too many links"):
        unpack(loop, root)


# -- 45: whiteouts -------------------------------------------------------------------------------


def test_c45_a_whiteout_of_what_can_not_be_hidden_is_refused(unpack: Unpack, root: Path) -> None:
    for name in (b".wh.", b".wh..", b".wh...", b"d/.wh...", b"d/.wh."):
        with pytest.raises(ImageError, match="names nothing"):
            unpack(archive(directory(b"d"), member(name)), root, parents=None)
    with pytest.raises(ImageError, match="leads out"):
        unpack(archive(member(b".wh../..")), root, parents=None)
    with pytest.raises(ImageError, match="no empty file"):
        unpack(archive(member(b".wh.x", b"data")), root, parents=None)
    with pytest.raises(ImageError, match="no empty file"):
        unpack(archive(symlink(b".wh.x", b"../outside")), root, parents=None)


@everybody
def test_c45_a_whiteout_removes_nothing_of_its_own_layer_nor_below(
    unpack: Unpack, root: Path, tmp_path: Path
) -> None:
    with lower_layer(tmp_path) as lower:
        before = snapshot(lower) if AS_ROOT else None
        layer = archive(
            member(b"own", b"kept"),
            member(b".wh.own"),
            member(b"dir/file", b"kept"),
            member(b".wh.dir"),
            member(b".wh.gone"),
            member(b".wh.never"),
            member(b"sub/.wh..wh..opq"),
            member(b".wh..wh.plnk"),
        )
        facts = unpack(layer, root, parents=[lower])

        assert (root / "own").read_bytes() == b"kept"
        assert (root / "dir/file").read_bytes() == b"kept"
        assert os.getxattr(root / "dir", "user.overlay.opaque") == b"y"
        assert os.getxattr(root / "sub", "user.overlay.opaque") == b"y"
        assert is_whiteout(root / "gone")
        assert sorted(os.listdir(root)) == ["dir", "gone", "own", "sub"]
        assert facts.whiteouts == 2
        assert before is None or snapshot(lower) == before


@everybody
def test_c45_an_opaque_root_hides_each_name_below_it(
    unpack: Unpack, root: Path, tmp_path: Path
) -> None:
    with lower_layer(tmp_path) as lower:
        layer = archive(member(b".wh..wh..opq"), member(b"new"), member(b"sub/file"))
        unpack(layer, root, parents=[lower])

        assert is_whiteout(root / "gone")
        assert is_whiteout(root / "link")
        assert (root / "new").is_file()
        assert os.getxattr(root / "sub", "user.overlay.opaque") == b"y"


@everybody
def test_c45_a_whiteout_through_a_link_of_a_lower_layer_stays_in_the_image(
    unpack: Unpack, root: Path, tmp_path: Path
) -> None:
    """`link` leads to /sub in the image, and would lead to a folder of the host elsewhere."""
    with lower_layer(tmp_path) as lower:
        unpack(archive(member(b"link/.wh.file"), member(b"link/.wh.canary")), root, parents=[lower])

        assert sorted(os.listdir(root)) == ["sub"]
        assert sorted(os.listdir(root / "sub")) == ["file"]
        assert is_whiteout(root / "sub/file")


class lower_layer:
    """A layer with `gone`, `sub/file` and `link` -> /sub, for a while."""

    def __init__(self, tmp_path: Path) -> None:
        self._path = tmp_path / "store" / "lower"

    def __enter__(self) -> Path:
        self._path.mkdir()
        confined(
            archive(
                member(b"gone", b"lower"), member(b"sub/file", b"lower"), symlink(b"link", b"/sub")
            ),
            self._path,
        )
        return self._path

    def __exit__(self, *_: object) -> None:
        layers.remove_tree(str(self._path))


def is_whiteout(path: Path) -> bool:
    status = os.lstat(path)
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


# -- 46: devices, special bits, attributes -------------------------------------------------------


@everybody
def test_c46_no_device_node_is_made(unpack: Unpack, root: Path) -> None:
    nodes = [
        member(b"node", kind=kind, device=device)
        for kind in (b"3", b"4")
        for device in ((1, 3), (8, 0), (0, 0))
    ]
    facts = unpack(archive(*nodes, member(b"file")), root)

    assert os.listdir(root) == ["file"]
    assert facts.dropped_count == 6
    assert "node" in facts.dropped[0]


@everybody
def test_c46_a_device_still_hides_what_has_its_name_below(
    unpack: Unpack, root: Path, tmp_path: Path
) -> None:
    with lower_layer(tmp_path) as lower:
        unpack(archive(member(b"gone", kind=b"3", device=(1, 3))), root, parents=[lower])

        assert is_whiteout(root / "gone")


@everybody
def test_c46_fifos_and_special_bits_are_kept_for_the_image(unpack: Unpack, root: Path) -> None:
    unpack(archive(member(b"pipe", kind=b"6"), member(b"su", b"#!", mode=0o4755)), root)

    assert stat.S_ISFIFO(os.lstat(root / "pipe").st_mode)
    assert stat.S_IMODE(os.lstat(root / "su").st_mode) == 0o4755


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


@everybody
def test_c46_attributes_that_mean_something_to_the_host_are_dropped(
    unpack: Unpack, root: Path
) -> None:
    keys = *DROPPED_ATTRIBUTES, b"user.kept"
    named = extended(*((b"SCHILY.xattr." + key, b"y") for key in keys))
    facts = unpack(archive(named, directory(b"d"), named, member(b"f")), root)

    for name in ("d", "f"):
        assert os.listxattr(root / name) == ["user.kept"]
    assert facts.dropped_count == 2 * len(DROPPED_ATTRIBUTES)


@everybody
def test_c46_file_capabilities_count_only_where_the_image_is_root(
    unpack: Unpack, root: Path
) -> None:
    """VFS_CAP_REVISION_2 with CAP_SYS_ADMIN; in containers no layer is mounted without nosuid."""
    value = bytes.fromhex("0100000200002000" + "00" * 12)
    named = extended((b"SCHILY.xattr.security.capability", value))
    unpack(archive(named, member(b"f", b"#!", mode=0o755)), root)

    revision = os.getxattr(root / "f", "security.capability")[3]
    assert revision == (2 if AS_ROOT else 3), "an ordinary user's are bound to his own namespace"


@everybody
def test_c46_a_wrong_attribute_is_dropped_and_said(unpack: Unpack, root: Path) -> None:
    named = extended((b"SCHILY.xattr.security.capability", b"junk"))
    facts = unpack(archive(named, member(b"f")), root)

    assert facts.dropped_count == 1
    assert os.strerror(errno.EINVAL) in facts.dropped[0]


# -- 47: bombs -----------------------------------------------------------------------------------

SMALL = Limits(plain=1 << 24, members=1000, ratio=50, ratio_from=1 << 20, header=1 << 16)


def test_c47_more_than_the_limits_allow_is_refused(unpack: Unpack, root: Path) -> None:
    many = archive(*(member(b"f%d" % i) for i in range(1001)))
    with pytest.raises(ImageError, match="more than 1000 members"):
        unpack(many, root, limits=SMALL)
    large = archive(member(b"large", bytes(1 << 24)))
    with pytest.raises(ImageError, match=r"unpacks to more than|larger than"):
        unpack(large, root, limits=SMALL)
    for compression in COMPRESSED:
        with pytest.raises(ImageError, match="bomb"):
            unpack(
                packed(archive(member(b"zeros", bytes(1 << 23))), compression),
                root,
                compression=compression,
                limits=SMALL,
            )


def test_c47_empty_streams_end(unpack: Unpack, root: Path) -> None:
    data = archive(member(b"f"))
    for compression in COMPRESSED:
        nothing = packed(b"", compression)
        with pytest.raises(ImageError, match="empty"):
            unpack(nothing * 2000 + packed(data, compression), root, compression=compression)


def test_c47_a_zstd_window_larger_than_the_cap_is_refused(unpack: Unpack, root: Path) -> None:
    options = {zstd.CompressionParameter.window_log: 30}
    stream = zstd.ZstdCompressor(options=options)
    blob = stream.compress(archive(member(b"f", b"data"))) + stream.flush()
    with pytest.raises(ImageError, match="zstd"):
        unpack(blob, root, compression="zstd")


@pytest.mark.parametrize("size", [(1 << 63) - 1, 1 << 62])
def test_c47_a_sparse_file_of_exbibytes_is_refused(unpack: Unpack, root: Path, size: int) -> None:
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
    for layer in (old, new):
        with pytest.raises(ImageError, match="larger than"):
            unpack(archive(layer), root)


def test_c47_a_map_of_a_sparse_file_that_lies_is_refused(unpack: Unpack, root: Path) -> None:
    def sparse(real: bytes, text: bytes, data: bytes = b"") -> bytes:
        return archive(
            extended(
                (b"GNU.sparse.major", b"1"),
                (b"GNU.sparse.minor", b"0"),
                (b"GNU.sparse.realsize", real),
            ),
            member(b"x", text.ljust(-(-len(text) // 512) * 512, b"\0") + data),
        )

    for layer in (
        sparse(b"100", b"1\n90\n20\n", b"x" * 20),  # beyond the end
        sparse(b"100", b"2\n50\n10\n0\n10\n", b"x" * 20),  # not in order
        sparse(b"100", b"1\n0\n20\n", b"x" * 10),  # more than there is
        sparse(b"100", b"1\n-5\n20\n", b"x" * 20),
        sparse(b"100", b"999999999\n"),
        sparse(b"100", b"x" * 2000),
        sparse(b"", b"0\n"),
        archive(extended((b"GNU.sparse.offset", b"5")), member(b"x")),
    ):
        with pytest.raises(ImageError, match=r"sparse|GNU|number|cut off"):
            unpack(layer, root)


def test_c47_an_extended_header_has_a_size_and_a_number_of_records(
    unpack: Unpack, root: Path
) -> None:
    with pytest.raises(ImageError, match="extended header of"):
        unpack(archive(member(b"pax", kind=b"x", size=1 << 30)), root)
    with pytest.raises(ImageError, match="extended header of"):
        unpack(archive(member(b"name", kind=b"L", size=1 << 30)), root)
    with pytest.raises(ImageError, match="more than 4096 records"):
        many = record(b"a", b"") * 100_000
        unpack(archive(member(b"pax", many, kind=b"x"), member(b"f")), root)


@everybody
def test_c47_depth_costs_no_more_than_names(unpack: Unpack, root: Path) -> None:
    """As deep as a name can be; removed again by the fixture."""
    unpack(archive(extended((b"path", b"d/" * 2000)) + directory(b"x")), root)

    assert os.listdir(root) == ["d"]


BOMBS = {
    "gzip": "gzip.compress(member(b'zeros', size=400 << 20) + bytes(400 << 20), 1)",
    "zstd": "zstd.compress(member(b'zeros', size=400 << 20) + bytes(400 << 20))",
    "many directories": "gzip.compress(b''.join(member(b'd%d/' % i) for i in range(8000)), 1)",
    "one header": "gzip.compress(member(b'p', kind=b'x', size=1 << 30) + bytes(400 << 20), 1)",
}
MAKE = """
import gzip, sys
from backports import zstd
from layer_archives import member
sys.stdout.buffer.write({bomb})
"""
MEASURE = """
import resource, sys
from sandbox_kernel.errors import ImageError
from sandbox_kernel.image import layers
try:
    layers.apply(0, sys.argv[1], sys.argv[2])
except ImageError:
    pass
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""


@pytest.mark.parametrize("bomb", BOMBS)
def test_c47_memory_stays_small_whatever_comes(root: Path, bomb: str) -> None:
    """The peak of the one child that a small program had."""
    tests = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    make = [sys.executable, "-c", MAKE.format(bomb=BOMBS[bomb])]
    kind = "zstd" if bomb == "zstd" else "gzip"
    measure = [sys.executable, "-c", MEASURE, kind, str(root)]
    with subprocess.Popen(make, env=tests, stdout=subprocess.PIPE) as made:
        done = subprocess.run(measure, stdin=made.stdout, capture_output=True, check=True)

    assert int(done.stdout) < 64 << 20
    written = sum(file.stat().st_size for file in root.iterdir() if file.is_file())
    assert written <= 400 << 20


# -- 48: framing ---------------------------------------------------------------------------------

GOOD = archive(directory(b"d"), member(b"d/f", b"data" * 1000), symlink(b"l", b"d/f"))


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_c48_what_is_cut_off_anywhere_is_an_error(
    unpack: Unpack, root: Path, compression: Compression
) -> None:
    blob = packed(GOOD, compression)
    cuts = sorted({*range(0, len(blob) - 1024, max(1, len(blob) // 7)), len(blob) - 1025})
    if compression != "none":
        cuts = sorted({*range(0, len(blob), max(1, len(blob) // 7)), len(blob) - 1})
    for cut in cuts:
        with pytest.raises(ImageError):
            unpack(blob[:cut], root, compression=compression, said=diff_id(GOOD))


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_c48_what_follows_the_end_is_an_error(unpack: Unpack, root: Path, compression: str) -> None:
    blob = packed(GOOD, compression)
    for more in (b"x", b"garbage" * 100, b"\x1f\x8b"):
        with pytest.raises(ImageError):
            unpack(blob + more, root, compression=compression)


def test_c48_several_streams_are_one_archive(unpack: Unpack, root: Path) -> None:
    """eStargz and zstd:chunked are made so."""
    pieces = [GOOD[at : at + 700] for at in range(0, len(GOOD), 700)]
    facts = unpack(b"".join(map(gzip.compress, pieces)), root, compression="gzip")
    skippable = b"\x50\x2a\x4d\x18\x04\0\0\0toc."
    chunked = b"".join(map(zstd.compress, pieces)) + skippable
    again = unpack(chunked, root, compression="zstd")

    assert facts.diff_id == again.diff_id == diff_id(GOOD)
    assert (root / "d/f").read_bytes() == b"data" * 1000


def test_c48_another_compression_than_was_said_is_an_error(unpack: Unpack, root: Path) -> None:
    kinds: tuple[Compression, ...] = "none", "gzip", "zstd"
    for said in kinds:
        for real in kinds:
            if said == real:
                unpack(packed(GOOD, real), root, compression=said)
                continue
            with pytest.raises(ImageError, match="is said to be"):
                unpack(packed(GOOD, real), root, compression=said)


def test_c48_a_flipped_bit_is_an_error(unpack: Unpack, root: Path) -> None:
    for compression in COMPRESSED:
        blob = bytearray(packed(GOOD, compression))
        blob[len(blob) // 2] ^= 0x10
        with pytest.raises(ImageError):
            unpack(bytes(blob), root, compression=compression, said=diff_id(GOOD))


def test_c48_a_wrong_diff_id_is_named(root: Path) -> None:
    with pytest.raises(ImageError, match=f"{diff_id(GOOD)}.*{diff_id(b'')}"):
        confined(GOOD, root, said=diff_id(b""))


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


def test_c48_a_header_that_is_not_as_it_must_be_is_refused(unpack: Unpack, root: Path) -> None:
    for what, header in HEADERS.items():
        try:
            unpack(archive(header), root)
        except ImageError:
            continue
        pytest.fail(f"not refused: {what}")
