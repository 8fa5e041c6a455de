"""What a disk may do: be full, take less than it is given, keep what is removed, lose the power.

A container's output is kept by its launcher, in memory and bounded: no disk that is full can cut
it. The log that is on a disk is the record (see `audit`).
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import injected
import pytest
from commands import COMMAND, command, output_of
from made_images import small

from sandbox_kernel import audit, image, policy, settings
from sandbox_kernel.container import Container
from sandbox_kernel.errors import ImageError, SandboxError
from sandbox_kernel.image import archives
from sandbox_kernel.image.store import Store
from sandbox_kernel.linux import mounts
from sandbox_kernel.runtime import client

MS_REMOUNT = 32
RUNTIME = "/run/sandbox-kernel"
SECONDS = injected.SECONDS

everybody = pytest.mark.everybody


@pytest.fixture
def archive(store: Store, tmp_path: Path) -> Path:
    """An image in a file; it is in the store too."""
    path = tmp_path / "app.tar"
    with open(path, "wb") as file:
        archives.save(store, [(small(store, "app:1"), "app:1")], "oci", file)
    return path


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk that is too small for an image of 4 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    resize(place, 0, "3m")
    client.end_shared()  # one that runs has the mounts of its beginning
    try:
        yield place
    finally:
        mounts.detach(str(place))


def resize(place: Path, flags: int, size: str) -> None:
    mounts.mount("small", str(place), "tmpfs", flags, f"size={size},mode=0700")


# -- 5: a full disk --------------------------------------------------------------------------------


@pytest.mark.root
@pytest.mark.fault(5)
def test_a_commit_to_a_full_disk_is_one_line_and_goes_on_with_free_space(
    archive: Path, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SANDBOX_KERNEL_IMAGES", str(disk))
    there = Store.open()
    output_of("load", "-i", str(archive))
    before = there.names()
    with Container.create(policy.plan(settings.PROGRAM, image="app:1")) as held:
        output_of("cp", str(big(archive.parent)), f"{held.id}:/big")
        said = command("commit", held.id, "kept:1")
        assert said.returncode == 125
        assert "No space left on device" in said.stderr
        assert len(said.stderr.splitlines()) == 1
        assert there.names() == before
        assert there.check() == []
        resize(disk, MS_REMOUNT, "16m")
        output_of("commit", held.id, "kept:1")
    assert there.check() == []
    assert Path(image.resolve("kept:1").layers[-1], "big").stat().st_size == 4 << 20


def big(folder: Path) -> Path:
    """A file that nothing makes smaller."""
    path = folder / "big"
    path.write_bytes(os.urandom(4 << 20))
    return path


@pytest.mark.root
@pytest.mark.fault(5)
def test_a_runtime_folder_that_is_full_at_any_write_of_state_is_told_and_nothing_is_left() -> None:
    """Its files are small: it is their number that is out, before each of them in turn."""
    run = " ".join([*COMMAND, "run", "host", "echo"])
    script = f"""
        mount -t tmpfs -o mode=700,nr_inodes=2 none {RUNTIME}
        for inodes in 2 3 4 5 6 7; do
            mount -o remount,nr_inodes=$inodes {RUNTIME}
            {run} it runs && exit 1
            for look in $(seq 100); do  # its launcher ends with it, which may take a moment
                left=$(find {RUNTIME}/launchers -mindepth 1)
                test -z "$left" && break
                sleep 0.1
            done
            printf %s "$left"
        done
        mount -o remount,nr_inodes=100 {RUNTIME}
        exec {run} it runs
    """
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        capture_output=True, text=True, check=False, timeout=2 * SECONDS,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "it runs\n"), done
    lines = done.stderr.splitlines()
    assert len(lines) == 6
    for line in lines:
        assert re.fullmatch(r"sandbox-kernel: run: .* `.+`: No space left on device", line), line


@pytest.mark.root
@pytest.mark.fault(5)
def test_a_record_on_a_full_disk_starts_nothing_and_keeps_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(audit.FOLDER_VARIABLE, str(tmp_path))
    folder = Path(audit.place()).parent
    folder.mkdir(parents=True, mode=0o700)
    folder.chmod(0o700)
    mounts.mount("small", str(folder), "tmpfs", 0, "size=64k,mode=0700")
    try:
        plan = policy.plan(settings.PROGRAM, audit="on")
        begun = audit.begin(plan, by="a test", argv=("true",))
        assert begun is not None
        (folder / "filler").write_bytes(bytes(15 << 12))
        with pytest.raises(SandboxError, match=r"write the record .*No space left on device"):
            for _ in range(100):  # until the page that the file has is full
                audit.begin(plan, by="a test", argv=("true",))
        there = len(list(audit.lines()))
        (folder / "filler").unlink()
        begun.end(status=0)
        found = list(audit.lines())
        assert len(found) == there + 1
        assert found[-1]["status"] == 0
    finally:
        mounts.detach(str(folder))


# -- 7: writes that take less ----------------------------------------------------------------------

SHORT = r"""
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>
static size_t half(int fd, size_t size) {
    struct statfs disk;
    struct stat file;
    char link[64], name[4096] = "";
    if (size < 2 || fstat(fd, &file) || !S_ISREG(file.st_mode) || fstatfs(fd, &disk)) return size;
    if (disk.f_type != 0x01021994 && disk.f_type != 0xEF53) return size; /* tmpfs, ext4 */
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    /* Python itself takes for granted that all of a module is written. */
    if (readlink(link, name, sizeof name - 1) > 0 && strstr(name, ".pyc")) return size;
    return size / 2;
}
ssize_t write(int fd, const void *data, size_t size) {
    return syscall(SYS_write, fd, data, half(fd, size));
}
ssize_t pwrite64(int fd, const void *data, size_t size, off_t at) {
    return syscall(SYS_pwrite64, fd, data, half(fd, size), at);
}
"""


@pytest.mark.root
@pytest.mark.fault(7)
def test_writes_that_take_half_of_what_they_are_given_leave_nothing_out(
    store: Store, archive: Path, tmp_path: Path
) -> None:
    """For real: each write(2) to a file is of half as much, in the launcher and its makers too.

    strace(1) can only have a call say so that was never made, which is no disk but a lie.
    """
    subprocess.run(
        ["gcc", "-xc", "-", "-shared", "-fPIC", "-o", tmp_path / "short.so"],
        input=SHORT, text=True, check=True,
    )  # fmt: skip
    store.prune(named=True)
    (tmp_path / "context").mkdir()
    content = os.urandom(100_000).hex()
    (tmp_path / "context/note").write_text(content)
    (tmp_path / "context/Containerfile").write_text('FROM app:1\nCOPY note /\nRUN ["/bin/says"]\n')
    run = " ".join(COMMAND)
    script = f"""
        cp -a /etc {tmp_path}/etc && mount --bind {tmp_path}/etc /etc
        echo {tmp_path}/short.so > /etc/ld.so.preload
        {run} load -i {archive} && {run} build -t built:1 {tmp_path}/context &&
            {run} run built:1 says cat /note && {run} run host cat /etc/hosts
    """
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        capture_output=True, text=True, check=False, timeout=2 * SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert content in done.stdout
    assert "127.0.0.1\tlocalhost\n::1\t" in done.stdout
    assert store.check() == []


# -- 18: the power goes ----------------------------------------------------------------------------

AS_LEFT = {"empty": 0, "zeros": None, "cut": 100}
"""What a file system may have of a file that was not flushed: its name, or its size as well."""


def as_left(path: Path, kind: str) -> None:
    data = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(bytes(len(data)) if kind == "zeros" else data[: AS_LEFT[kind]])


@everybody
@pytest.mark.fault(18)
@pytest.mark.parametrize("kind", AS_LEFT)
def test_what_a_power_cut_left_of_blobs_and_of_the_list_is_found_and_mended(
    store: Store, archive: Path, kind: str
) -> None:
    """With its names, which are in the list."""
    made, other = store.find("app:1"), small(store, "other:1", note=b"other\n")
    for what, digest in {
        "blob": made.manifest.layers[-1].digest,
        "image": made.digest,
        "config": made.manifest.config.digest,
    }.items():
        as_left(Path(store.places.blob(digest)), kind)
        found = store.check()
        assert {digest, made.digest} & {each.subject for each in found}, what
        mended = command("image", "repair")
        assert mended.returncode == 0, mended
        output_of("load", "-i", str(archive))
        assert store.check() == []
        assert store.find("app:1").digest == made.digest
    for path in (store.places.index, store.places.partial("index.previous")):
        names = store.names()
        as_left(Path(path), kind)
        command("images")
        store.repair()
        assert store.check() == []
        assert store.names().items() <= names.items()
        assert store.find(other.digest).digest == other.digest


@everybody
@pytest.mark.fault(18)
def test_the_rest_of_a_blob_is_not_added_to_a_beginning_that_the_power_cut_spoilt(
    store: Store, archive: Path
) -> None:
    digest = store.find("app:1").manifest.layers[-1].digest
    data = store.read(digest)
    store.prune(named=True)
    with store.writer(digest, len(data)) as writer:
        writer.write(data[: len(data) // 2])
    begun = store.partial(digest)
    assert begun is not None
    as_left(Path(begun.path), "zeros")
    with (
        pytest.raises(ImageError, match="nothing of it is kept"),
        store.writer(digest, len(data)) as writer,
    ):
        writer.write(data[writer.offset :])
        writer.commit()
    output_of("load", "-i", str(archive))
    assert store.read(digest) == data


@everybody
@pytest.mark.fault(18)
def test_a_name_is_given_to_what_has_reached_the_disk_and_then_flushed_itself(
    store: Store, archive: Path, tmp_path: Path
) -> None:
    """The order of calls: whichever of them are lost, the store is as before or as after."""
    store.prune(named=True)
    calls = "write,fsync,rename,renameat,renameat2,link,linkat"
    log = tmp_path / "log"
    words = [injected.STRACE, "-f", "-qq", "-y", "-o", log, "-e", f"trace={calls}"]
    subprocess.run(
        [*words, *COMMAND, "load", "-i", archive],
        capture_output=True, check=True, timeout=SECONDS,
    )  # fmt: skip
    unflushed: set[str] = set()
    named: list[str] = []
    for line in log.read_text().splitlines():
        if written := re.search(rf"write\(\d+<({store.root}/[^>]*)>", line):
            unflushed.add(written[1])
        elif flushed := re.search(r"fsync\(\d+<([^>]*)>", line):
            unflushed.discard(flushed[1])
        elif given := re.search(rf'(?:rename|link)\w*\(.*"({store.root}[^"]*)".*"([^"]*)"', line):
            source, name = given.groups()
            if "/layers/" not in name and "/partial/" not in name:
                assert source not in unflushed, line
                assert os.path.dirname(name) not in unflushed or "blobs" in name, line
                if name == store.places.index:
                    assert not any("blobs" in folder for folder in unflushed), line
                unflushed.add(os.path.dirname(name))
                named.append(os.path.dirname(name))
    assert len(named) >= 4
    assert unflushed & set(named) == set()


# -- 22: what can't be removed ---------------------------------------------------------------------


@pytest.mark.root
@pytest.mark.fault(22)
@pytest.mark.parametrize("what", ["a file of a layer", "a folder of a layer", "a blob"])
def test_what_can_t_be_removed_is_named_the_rest_goes_and_a_later_try_does_it(
    store: Store, what: str
) -> None:
    made = small(store, "app:1")
    tops = [Path(path) for path in image.resolve("app:1").layers]
    stays = Path(store.places.blob(made.manifest.config.digest))
    if "layer" in what:
        (note,) = (path for path in (top / "etc/note" for top in tops) if path.exists())
        stays = note if what.startswith("a file") else note.parent
    subprocess.run(["chattr", "+i", stays], check=True)
    try:
        said = command("rmi", "app:1")
        assert said.returncode == 125
        (line,) = said.stderr.splitlines()
        assert "Operation not permitted" in line
        assert "sandbox-kernel prune" in line
        assert stays.name in line or what == "a folder of a layer"
        left = [path for path in Path(store.root).rglob("*") if path.name == stays.name]
        assert len(left) == 1
        assert store.images() == []
        blobs = [path for path in Path(store.root, "blobs").rglob("*") if path.is_file()]
        assert blobs == ([stays] if what == "a blob" else [])
        assert os.listdir(f"{store.root}/layers") == []
        assert store.check() == []
        assert command("prune").returncode == 125
    finally:
        subprocess.run(["chattr", "-R", "-f", "-i", store.root], check=False)
    output_of("prune")
    assert not [path for path in Path(store.root).rglob("*") if path.name == stays.name]
    assert set(os.listdir(f"{store.root}/partial")) <= {"index.previous"}
