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
from hostile_archives import (
    ATTRIBUTES,
    BOMBS,
    CASES,
    COMPRESSED,
    DEVICES,
    DROPPED_ATTRIBUTES,
    FOLLOWING,
    GOOD,
    HEADERS,
    WHITEOUTS_OF_ITS_OWN,
    Hostile,
    command_of_bomb,
    cuts_of_good,
    flipped,
)  # fmt: skip
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
    snapshot,
    symlink,
)

from sandbox_kernel.errors import ImageError
from sandbox_kernel.image import layers
from sandbox_kernel.image.layers import LayerFacts
from sandbox_kernel.image.layers.compression import Compression

everybody = pytest.mark.everybody  # where another user could make a difference
Unpack = Callable[..., LayerFacts]
AS_ROOT = os.geteuid() == 0


@pytest.fixture(params=[bare, confined] if AS_ROOT else [confined], ids=lambda way: way.__name__)
def unpack(request: pytest.FixtureRequest) -> Unpack:
    way: Unpack = request.param
    return way


def refuses(unpack: Unpack, hostile: Hostile, root: Path, **more: object) -> None:
    assert hostile.refusal is not None
    if hostile.limits is not None:
        more["limits"] = hostile.limits
    with pytest.raises(ImageError, match=hostile.refusal):
        unpack(hostile.data, root, compression=hostile.compression, **more)


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
    for hostile in CASES["45 whiteouts"]:
        refuses(unpack, hostile, root, parents=None)


@everybody
def test_c45_a_whiteout_removes_nothing_of_its_own_layer_nor_below(
    unpack: Unpack, root: Path, tmp_path: Path
) -> None:
    with lower_layer(tmp_path) as lower:
        before = snapshot(lower) if AS_ROOT else None
        facts = unpack(WHITEOUTS_OF_ITS_OWN, root, parents=[lower])

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
    facts = unpack(DEVICES, root)

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


@everybody
def test_c46_attributes_that_mean_something_to_the_host_are_dropped(
    unpack: Unpack, root: Path
) -> None:
    facts = unpack(ATTRIBUTES, root)

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


def test_c47_more_than_the_limits_allow_is_refused(unpack: Unpack, root: Path) -> None:
    for hostile in CASES["47 more than the limits allow"]:
        refuses(unpack, hostile, root)


def test_c47_empty_streams_end(unpack: Unpack, root: Path) -> None:
    for hostile in CASES["47 empty streams"]:
        refuses(unpack, hostile, root)


def test_c47_a_zstd_window_larger_than_the_cap_is_refused(unpack: Unpack, root: Path) -> None:
    for hostile in CASES["47 a wide window"]:
        refuses(unpack, hostile, root)


def test_c47_a_sparse_file_of_exbibytes_is_refused(unpack: Unpack, root: Path) -> None:
    for hostile in CASES["47 exbibytes"]:
        refuses(unpack, hostile, root)


def test_c47_a_map_of_a_sparse_file_that_lies_is_refused(unpack: Unpack, root: Path) -> None:
    for hostile in CASES["47 lying maps"]:
        refuses(unpack, hostile, root)


def test_c47_an_extended_header_has_a_size_and_a_number_of_records(
    unpack: Unpack, root: Path
) -> None:
    for hostile in CASES["47 extended headers"]:
        refuses(unpack, hostile, root)


@everybody
def test_c47_depth_costs_no_more_than_names(unpack: Unpack, root: Path) -> None:
    """As deep as a name can be; removed again by the fixture."""
    unpack(archive(extended((b"path", b"d/" * 2000)) + directory(b"x")), root)

    assert os.listdir(root) == ["d"]


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
    make, tests = command_of_bomb(bomb)
    kind = "zstd" if bomb == "zstd" else "gzip"
    measure = [sys.executable, "-c", MEASURE, kind, str(root)]
    with subprocess.Popen(make, env=tests, stdout=subprocess.PIPE) as made:
        done = subprocess.run(measure, stdin=made.stdout, capture_output=True, check=True)

    assert int(done.stdout) < 64 << 20
    written = sum(file.stat().st_size for file in root.iterdir() if file.is_file())
    assert written <= 400 << 20


# -- 48: framing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_c48_what_is_cut_off_anywhere_is_an_error(
    unpack: Unpack, root: Path, compression: Compression
) -> None:
    for cut in cuts_of_good(compression):
        with pytest.raises(ImageError):
            unpack(cut, root, compression=compression, said=diff_id(GOOD))


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_c48_what_follows_the_end_is_an_error(unpack: Unpack, root: Path, compression: str) -> None:
    blob = packed(GOOD, compression)
    for more in FOLLOWING:
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
        blob = flipped(compression)
        with pytest.raises(ImageError):
            unpack(blob, root, compression=compression, said=diff_id(GOOD))


def test_c48_a_wrong_diff_id_is_named(root: Path) -> None:
    with pytest.raises(ImageError, match=f"{diff_id(GOOD)}.*{diff_id(b'')}"):
        confined(GOOD, root, said=diff_id(b""))


def test_c48_a_header_that_is_not_as_it_must_be_is_refused(unpack: Unpack, root: Path) -> None:
    for what, header in HEADERS.items():
        try:
            unpack(archive(header), root)
        except ImageError:
            continue
        pytest.fail(f"not refused: {what}")
