"""Promises about unpacking and packing: owners, other programs' archives, walls, and removal."""

from __future__ import annotations

import hashlib
import io
import os
import select
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import made_images
import pytest
import registries
from layer_archives import archive, confined, diff_id, directory, member, packed, snapshot, symlink
from ordinary_user import OrdinaryUser

from sandbox_kernel.errors import HostLacks, ImageError
from sandbox_kernel.image import layers, reference
from sandbox_kernel.image.registry import push
from sandbox_kernel.image.store import Store
from sandbox_kernel.linux import inotify, mounts, processes

everybody = pytest.mark.everybody
AS_ROOT = os.geteuid() == 0

OWNED = archive(
    directory(b"d", 0o2750, uid=3, gid=4),
    member(b"d/f", b"data", mode=0o4711, uid=1000, gid=1000),
    member(b"secret", b"data", mode=0o600, uid=65535, gid=65535),
    symlink(b"l", b"d/f"),
)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    made = tmp_path / "layer"
    made.mkdir()
    yield made
    layers.remove_tree(str(made))


@everybody
def test_owners_are_the_images_and_come_back_when_packed(root: Path, tmp_path: Path) -> None:
    facts = confined(OWNED, root, said=diff_id(OWNED))

    assert facts.flattened_count == 0
    assert facts.notice() is None
    if AS_ROOT:
        assert (root / "d/f").stat().st_uid == 1000
        assert stat.S_IMODE((root / "d").stat().st_mode) == 0o2750
    else:
        assert (root / "secret").stat().st_uid not in (0, 65535, os.getuid())
    out = tmp_path / "out.tar.gz"
    with out.open("wb") as file:
        made = layers.pack(str(root), file.fileno())
    owners = {name.decode(): (uid, gid, mode) for name, uid, gid, mode in listed(out)}
    assert owners == {
        "./": (0, 0, 0o755),
        "d/": (3, 4, 0o2750),
        "d/f": (1000, 1000, 0o4711),
        "l": (0, 0, 0o777),
        "secret": (65535, 65535, 0o600),
    }
    assert made.size == out.stat().st_size


def listed(blob: Path) -> list[tuple[bytes, int, int, int]]:
    import gzip

    from sandbox_kernel.image.layers import limits, tar

    source = io.BytesIO(gzip.decompress(blob.read_bytes()))
    reader = tar.Reader(lambda: source.read(4096), limits.DEFAULT)
    found = []
    while (one := reader.member()) is not None:
        found.append((one.path, one.uid, one.gid, one.mode))
    return found


@everybody
def test_the_same_tree_is_the_same_layer_and_unpacks_to_itself(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "900000000")
    confined(OWNED, root)
    outs = io.BytesIO(), io.BytesIO()
    first, second = (layers.pack(str(root), out) for out in outs)
    again = tmp_path / "again"
    again.mkdir()
    try:
        facts = layers.apply(
            io.BytesIO(outs[0].getvalue()), "gzip", str(again), diff_id=first.diff_id, parents=()
        )
        third = layers.pack(str(again), io.BytesIO())
    finally:
        layers.remove_tree(str(again))

    assert outs[0].getvalue() == outs[1].getvalue()
    assert first == second == third
    assert first.digest == "sha256:" + hashlib.sha256(outs[0].getvalue()).hexdigest()
    assert facts.members == first.members


NOBODY_KNOWN = ("--reuid", "54321", "--regid", "54321", "--clear-groups", "--reset-env", "--")
"""A user who has no name, so no range of ids either."""


def test_a_user_without_ranges_is_told_which_ids_were_flattened(
    ordinary_user: OrdinaryUser,
) -> None:
    code = """
import io, os, sys, tempfile
from sandbox_kernel.image import layers
with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
    os.mkdir(f"{place}/layer")
    facts = layers.apply(io.BytesIO(sys.stdin.buffer.read()), "none", f"{place}/layer")
    print({os.lstat(f"{place}/layer/{name}").st_uid for name in ("d", "d/f", "secret")})
    print(oct(os.lstat(f"{place}/layer/d/f").st_mode))
    print(facts.notice())
"""
    done = subprocess.run(
        ["/usr/bin/setpriv", *NOBODY_KNOWN, ordinary_user.python, "-c", code],
        input=OWNED, capture_output=True, check=False, cwd="/",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    uids, mode, notice = done.stdout.decode().splitlines()
    assert (uids, mode) == ("{54321}", "0o104711")
    assert "4 other ids (3, 4, 1000, 65535)" in notice
    assert "usermod --add-subuids" in notice


def test_pull_and_run_tell_a_user_without_ranges_what_was_mapped(
    ordinary_user: OrdinaryUser, store: Store, tmp_path: Path
) -> None:
    program = made_images.layer({"bin": None, "bin/says": made_images.program()})
    made = made_images.put(store, "owned:1", [program, OWNED])
    with tempfile.TemporaryDirectory(prefix="sandbox-kernel-", dir="/var/tmp") as place:
        os.chown(place, 54321, 54321)

        def command(*words: str) -> subprocess.CompletedProcess[str]:
            given = [f"SANDBOX_KERNEL_IMAGES={place}/images", f"XDG_CONFIG_HOME={place}"]
            module = [ordinary_user.python, "-m", "sandbox_kernel.cli.main", *words]
            done = subprocess.run(
                ["/usr/bin/setpriv", *NOBODY_KNOWN, "/usr/bin/env", *given, f"HOME={place}",
                 *module],
                capture_output=True, text=True, check=False, cwd="/",
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            return done

        with registries.registry(tmp_path / "registry") as served:
            name = f"{served.authority}/team/owned:1"
            push(store, made, reference.registry(name))
            pulled = command("pull", name)
        ran = command("run", name, "/bin/says")

    assert pulled.stdout.strip().endswith(f"@{made.digest}")
    assert ran.stdout == "it runs\n"
    for done in (pulled, ran):
        assert done.stderr.count("4 other ids (3, 4, 1000, 65535)") == 1, done.stderr
        assert "usermod --add-subuids" in done.stderr


@pytest.mark.parametrize("form", ["v7", "ustar", "oldgnu", "gnu", "pax"])
def test_what_tar_writes_is_unpacked_as_tar_does(root: Path, tmp_path: Path, form: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "folder").mkdir(0o750)
    (source / "folder/file").write_bytes(b"data" * 999)
    os.link(source / "folder/file", source / "hard")
    (source / "link").symlink_to("folder/file")
    (source / "empty").touch(0o600)
    os.utime(source / "empty", ns=(0, 1_600_000_000_000_000_000))
    if form not in ("v7", "ustar"):
        deep = source / ("n" * 120) / ("m" * 120)
        deep.mkdir(parents=True)
        (deep / "名字").write_text("x")
        with (source / "sparse").open("wb") as file:
            for piece in range(40):
                file.seek(piece << 20)
                file.write(b"piece%d" % piece)
            file.truncate(100 << 20)
    options = ["--sparse"] if form not in ("v7", "ustar") else []
    made = subprocess.run(
        ["tar", f"--format={form}", *options, "--owner=0", "--group=0", "-cf", "-", "."],
        cwd=source, capture_output=True, check=True,
    ).stdout  # fmt: skip
    confined(made, root, said=diff_id(made))

    def facts(folder: Path) -> dict[str, object]:
        mine = {
            path.removeprefix(str(folder)): (mode, mtime // 1_000_000_000, content)
            for path, (mode, _, _, mtime, content) in snapshot(folder).items()
        }
        return {path: told for path, told in mine.items() if path != "/."}

    assert facts(root) == facts(source)
    assert (root / "hard").stat().st_ino == (root / "folder/file").stat().st_ino
    if options:
        assert (root / "sparse").stat().st_blocks * 512 < 2 << 20


def test_a_layer_is_unpacked_while_it_comes(root: Path) -> None:
    """What came so far is on disk before the rest comes."""
    reading, writing = os.pipe()
    made = archive(member(b"first", b"1" * 300_000), member(b"last", b"2"))
    found: list[object] = []
    thread = threading.Thread(
        target=lambda: found.append(layers.apply(reading, "none", str(root), parents=()))
    )
    watch = inotify.watch_created(str(root))
    thread.start()
    try:
        with open(writing, "wb", closefd=False) as rest:
            rest.write(made[:200_000])
        seen, _, _ = select.select([watch], [], [], 20)
        assert found == []
        with open(writing, "wb", closefd=False) as rest:
            rest.write(made[200_000:])
    finally:
        os.close(writing)
        thread.join(30)
        os.close(reading)
        os.close(watch)
    assert seen
    assert sorted(os.listdir(root)) == ["first", "last"]


def test_a_source_that_fails_leaves_the_process_no_more(root: Path) -> None:
    class Broken:
        def read(self, _: int) -> bytes:
            raise ConnectionResetError("the registry went away")

    with pytest.raises(ConnectionResetError):
        layers.apply(Broken(), "gzip", str(root))
    with pytest.raises(ImageError, match="is said to be gzip"):
        layers.apply(io.BytesIO(b"x" * 10_000_000), "gzip", str(root))


@pytest.mark.fault(5)
@everybody
def test_a_full_disk_is_said(tmp_path: Path) -> None:
    """In a mount namespace of its own, where a small tmpfs is the disk."""
    code = """
import io, os, sys
from sandbox_kernel.errors import HostLacks
from sandbox_kernel.image import layers
from layer_archives import archive, member
made = archive(member(b"f", bytes(4 << 20)))
os.mkdir(f"{sys.argv[1]}/layer")
try:
    layers.apply(io.BytesIO(made), "none", f"{sys.argv[1]}/layer")
except HostLacks as error:
    print(error)
"""
    mount = f'mount -t tmpfs -o size=1m tmpfs {tmp_path} && exec "$@"'
    names = ["--mount"] if AS_ROOT else ["--mount", "--user", "--map-root-user"]
    done = subprocess.run(
        ["/usr/bin/unshare", *names, "sh", "-c", mount, "sh", sys.executable, "-c", code, tmp_path],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "No space left on device" in done.stdout, done.stderr


# -- removal ---------------------------------------------------------------------------------------


@everybody
def test_a_tree_is_removed_with_what_other_ids_own_and_links_are_not_followed(
    tmp_path: Path,
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "canary").write_text("canary")
    root = tmp_path / "layer"
    root.mkdir()
    confined(
        archive(
            directory(b"closed", 0, uid=5, gid=5),
            member(b"closed/f", b"x", mode=0, uid=6),
            symlink(b"out", str(outside).encode()),
            symlink(b"closed/out", b"../../outside"),
        ),
        root,
    )
    assert layers.remove_tree(str(root)) is True
    assert layers.remove_tree(str(root)) is False
    assert (outside / "canary").read_text() == "canary"
    assert os.listdir(tmp_path) == ["outside"]


@pytest.mark.fault(22)
@pytest.mark.root
def test_a_tree_in_which_something_is_mounted_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "layer/mounted").mkdir(parents=True)
    mounts.mount("tmpfs", str(tmp_path / "layer/mounted"), "tmpfs", 0, "size=64k")
    try:
        (tmp_path / "layer/mounted/canary").write_text("canary")
        with pytest.raises(HostLacks):
            layers.remove_tree(str(tmp_path / "layer"))
        assert (tmp_path / "layer/mounted/canary").read_text() == "canary"
    finally:
        mounts.detach(str(tmp_path / "layer/mounted"))
    assert layers.remove_tree(str(tmp_path / "layer"))


# -- the walls -------------------------------------------------------------------------------------

INSIDE = """
import ctypes, errno, json, os, socket, sys
from sandbox_kernel.image.layers import worker, confinement

def attempt(function, *arguments):
    try:
        function(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"

def look(channel, order, descriptors):
    root, _, ids = worker._confine(channel, order, descriptors)
    return {
        "root": os.listdir("/"),
        "above": os.listdir("/../.."),
        "host": attempt(os.open, "/etc/passwd", os.O_RDONLY),
        "socket": attempt(socket.socket),
        "fork": attempt(os.fork),
        "exec": attempt(os.execv, "/bin/true", ["true"]),
        "chroot": attempt(os.chroot, "."),
        "setuid": attempt(os.setuid, 1),
        "kill": attempt(os.kill, 1, 9),
        "mknod": attempt(os.mknod, "node", 0o20600, os.makedev(1, 3)),
        "ids": ids,
    }

worker._VERBS["apply"] = look
worker.main()
"""


@everybody
def test_the_process_that_unpacks_sees_its_directory_and_can_do_nothing_else(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real process with its real walls; instead of unpacking it looks around."""
    from sandbox_kernel.image.layers import process

    start = process._PROGRAM.rpartition("from sandbox_kernel")[0]
    monkeypatch.setattr(process, "_PROGRAM", start + INSIDE)
    (root / "own").touch()
    order = {"directory": str(root), "below": None}
    with process.start("apply", order) as worker:
        seen = worker.answer("look around")

    assert seen.pop("ids") == 65536
    assert seen.pop("root") == seen.pop("above") == ["own"]
    assert seen.pop("host") == "ENOENT"
    assert set(seen.values()) == {"EPERM"}, seen


@everybody
def test_a_default_acl_of_the_folder_changes_no_mode(root: Path) -> None:
    """It would be inherited by all that is made below it."""
    entries = [(0x01, 7, 0xFFFFFFFF), (0x04, 5, 0xFFFFFFFF), (0x20, 0, 0xFFFFFFFF)]
    value = (2).to_bytes(4, "little") + b"".join(
        tag.to_bytes(2, "little") + bits.to_bytes(2, "little") + who.to_bytes(4, "little")
        for tag, bits, who in entries
    )
    os.setxattr(root, "system.posix_acl_default", value)
    confined(archive(member(b"f", b"x", mode=0o644), directory(b"d", 0o755)), root)

    assert stat.S_IMODE((root / "f").stat().st_mode) == 0o644
    assert stat.S_IMODE((root / "d").stat().st_mode) == 0o755


def test_zstd_and_plain_layers_too(root: Path) -> None:
    for compression in ("zstd", "none"):
        with tempfile.TemporaryFile() as file:
            file.write(packed(OWNED, compression))  # type: ignore[arg-type]
            file.seek(0)
            facts = layers.apply(
                file.fileno(),
                compression,
                str(root),
                diff_id=diff_id(OWNED),  # type: ignore[arg-type]
            )
        assert facts.files == 2


@everybody
def test_what_needs_the_layers_below_is_told_at_once_or_in_the_end(root: Path) -> None:
    made = archive(member(b"etc/hosts", b"x"), member(b"last", b"x"))
    early = layers.apply(io.BytesIO(made), "none", str(root), alone=True)
    assert (early.depends, early.members) == (("directory `etc`",), 1)
    layers.remove_tree(str(root))
    root.mkdir()
    whole = confined(made, root, parents=None)
    assert (whole.depends, whole.members) == (("directory `etc`",), 2)
    assert confined(made, root, parents=()).depends == ()


@everybody
def test_when_who_asked_is_killed_the_process_that_unpacks_ends(root: Path) -> None:
    code = """
import os, sys
from sandbox_kernel.image import layers
layers.apply(0, "none", sys.argv[1], parents=())
"""
    started = archive(member(b"first", b"1" * 300_000))[:200_000]
    watch = inotify.watch_created(str(root))
    asks = subprocess.Popen(
        [sys.executable, "-c", code, root], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    with asks:
        assert asks.stdin is not None
        asks.stdin.write(started)
        asks.stdin.flush()
        assert select.select([watch], [], [], 20)[0]
        (child,) = Path(f"/proc/{asks.pid}/task/{asks.pid}/children").read_text().split()
        ended = processes.pidfd_open(int(child))
        try:
            asks.kill()
            assert select.select([ended], [], [], 20)[0], "its input is still open"
        finally:
            os.close(ended)
            os.close(watch)
