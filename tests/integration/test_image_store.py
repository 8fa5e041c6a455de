"""Promises about the store: whole whatever happens, shared by many, never emptied under a user."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import made_images
import pytest
from commands import command, detached, output_of
from made_images import layer, program, put, small

from sandbox_kernel import container, image, policy
from sandbox_kernel.errors import ImageError, SandboxError
from sandbox_kernel.image import archives
from sandbox_kernel.image import digest as digests
from sandbox_kernel.image.layers import remove_tree
from sandbox_kernel.image.store import Store, layers, locks, names
from sandbox_kernel.linux import mounts

everybody = pytest.mark.everybody

IMAGE_OF_4_MIB = {"big": random.Random(7).randbytes(4 << 20)}


def blob_path(store: Store, digest: digests.Digest) -> Path:
    return Path(store.places.blob(digest))


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.chmod(0o600)
    path.write_bytes(data)


@contextmanager
def program_with(store: Store, code: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Python that has the store; killed at the end."""
    folder = str(Path(made_images.__file__).parent)
    text = (
        f"import sys; sys.path.insert(0, {folder!r})\n"
        "from sandbox_kernel.image.store import Store\nfrom sandbox_kernel.image import archives\n"
        "from made_images import layer, put, small\nstore = Store.open()\n" + code
    )
    running = subprocess.Popen(
        [sys.executable, "-c", text, *words], stdout=subprocess.PIPE, stdin=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    with running:
        yield running
        running.kill()


# -- what it is -----------------------------------------------------------------------------------


def test_an_image_is_found_by_every_name_and_by_its_digest(store: Store) -> None:
    made, other = small(store, "app:1"), small(store, "other:1", note=b"other\n")
    store.tag("registry.example/team/app:2", made.descriptor)

    for text in ("app:1", "docker.io/library/app:1", "registry.example/team/app:2", made.digest,
                 made.digest[7:19], f"app:9@{made.digest}"):  # fmt: skip
        assert store.find(text).digest == made.digest
    assert store.find("app:1").names == (
        "docker.io/library/app:1", "registry.example/team/app:2",
    )  # fmt: skip
    with pytest.raises(ImageError, match="has none such"):
        store.find("app:2")
    store.tag(made.digest[7:17], other.descriptor)  # a name goes before the beginning of a digest
    assert store.find(made.digest[7:17]).digest == other.digest
    assert store.find(f"sha256:{made.digest[7:17]}").digest == made.digest


def test_a_digest_that_nobody_has_is_told_with_what_to_write(store: Store) -> None:
    digest = digests.of(b"elsewhere")
    with pytest.raises(ImageError, match=f"had: write `NAME@{digest}`"):
        image.resolve(digest)


def test_a_name_moves_and_the_image_stays(store: Store) -> None:
    first = small(store, "app:1")
    second = small(store, "app:1", note=b"second\n")

    assert store.find("app:1").digest == second.digest
    assert store.find(first.digest).names == ()
    assert store.prune().images == (first.digest,)
    assert store.lookup(first.digest) is None
    assert [found.digest for found in store.images()] == [second.digest]


def test_other_programs_read_the_store(store: Store) -> None:
    made = small(store, "app:1")
    layout = f"oci:{store.root}:docker.io/library/app:1"
    seen = subprocess.run(["skopeo", "inspect", layout], capture_output=True, check=True).stdout
    listed = subprocess.run(
        ["umoci", "ls", "--layout", store.root], capture_output=True, text=True, check=True
    ).stdout

    assert json.loads(seen)["Digest"] == made.digest
    assert listed == "docker.io/library/app:1\n"


def test_what_another_program_puts_there_is_an_image_too(store: Store, tmp_path: Path) -> None:
    made = small(store, "app:1")
    archives.save_layout(store, made, str(tmp_path / "layout"), "app")
    store.prune(named=True)
    subprocess.run(
        ["skopeo", "copy", "-q", f"oci:{tmp_path}/layout:app", f"oci:{store.root}:odd_Name"],
        check=True,
    )

    assert output_of("images").splitlines()[1].startswith(f"odd_Name  {made.digest[7:19]}")
    assert store.find("odd_Name").digest == made.digest
    assert output_of("tag", "odd_Name", "app:2") == ""
    assert output_of("run", "app:2") == "it runs\n"
    assert output_of("rmi", "--force", made.digest[7:19]).endswith(f"deleted: {made.digest}\n")
    assert store.check() == []


@everybody
def test_it_is_its_users_alone(store: Store) -> None:
    small(store)
    assert Path(store.root).stat().st_mode & 0o777 == 0o700
    Path(store.root).chmod(0o755)
    with pytest.raises(ImageError, match="chmod 700"):
        Store.open()
    Path(store.root).chmod(0o700)
    if os.geteuid() == 0:
        os.chown(store.root, 1, -1)
        with pytest.raises(ImageError, match="belongs to user 1"):
            Store.open()
        os.chown(store.root, 0, -1)


def test_two_hundred_images_take_little_more_than_one(store: Store) -> None:
    def quickest(*words: str) -> float:
        """Processor time of the whole command, Python's start included: others may be at work."""
        seconds = []
        for _ in range(5):
            begin = os.times()
            output_of(*words)
            end = os.times()
            seconds.append(end.children_user + end.children_system - begin.children_user
                           - begin.children_system)  # fmt: skip
        return min(seconds)

    commands = (("images",), ("inspect", "app0:1"))
    put(store, "app0:1", [layer({"a": b"0"})])
    alone = [quickest(*words) for words in commands]
    for number in range(1, 200):
        put(store, f"app{number}:1", [layer({"a": b"%d" % number})])

    for words, one in zip(commands, alone, strict=True):
        assert quickest(*words) < 2 * one
    assert len(store.images()) == 200
    assert store.find("app150:1").size > 0


# -- faults ---------------------------------------------------------------------------------------


@everybody
@pytest.mark.fault(13)
def test_the_beginning_of_a_blob_is_kept_and_gone_on_with(store: Store) -> None:
    data = random.Random(1).randbytes(100_000)
    digest = digests.of(data)
    with store.writer(digest, len(data)) as writer:
        writer.write(data[:60_000])
    kept = store.partial(digest)
    assert kept is not None
    assert kept.size == 60_000
    assert not store.has(digest)
    with store.writer(digest, len(data)) as writer:
        assert writer.offset == 60_000
        writer.write(data[60_000:])
        assert writer.commit() == digest
    assert store.read(digest) == data
    assert store.partial(digest) is None


def test_wrong_bytes_are_dropped_and_the_next_try_begins_anew(store: Store) -> None:
    data = random.Random(2).randbytes(1000)
    digest = digests.of(data)
    with pytest.raises(ImageError, match="has the digest"), store.writer(digest, 1000) as writer:
        writer.write(data[:-1] + b"\0\0"[: 1000 - 999])
        writer.commit()
    assert store.partial(digest) is None
    assert not store.has(digest)
    with store.writer(digest, 1000) as writer:
        assert writer.offset == 0
        writer.write(data)
        writer.commit()
    assert store.has(digest)


def test_of_two_that_write_one_blob_the_second_takes_what_the_first_made(store: Store) -> None:
    data = b"x" * 1000
    with program_with(
        store,
        "from sandbox_kernel.image import digest\nd = b'x' * 1000\n"
        "with store.writer(digest.of(d), 1000) as w:\n"
        "    print('held', flush=True); sys.stdin.readline(); w.write(d); w.commit()\n",
    ) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == "held\n"
        assert locks.try_hold(store.places.lock(f"sha256-{digests.of(data)[7:]}")) is None
        other.stdin.write("\n")
        other.stdin.flush()
        with store.writer(digests.of(data), 1000) as writer:
            assert writer.present
            assert writer.commit() == digests.of(data)


@pytest.mark.fault(15)
@everybody
def test_many_processes_load_tag_and_remove_at_once(store: Store, tmp_path: Path) -> None:
    small(store, "app:1")
    with open(tmp_path / "app.tar", "wb") as file:
        archives.save(store, [(store.find("app:1"), "app:1")], "docker", file)
    store.remove("app:1")
    code = (
        "for turn in range(6):\n"
        "    (found,) = archives.load(store, sys.argv[1])\n"
        "    store.tag(f'{sys.argv[2]}:{turn}', found.descriptor)\n"
        "    small(store, f'{sys.argv[2]}-own:{turn}', note=sys.argv[2].encode())\n"
        "    store.tag('shared:1', found.descriptor)\n"
        "    if turn % 2: store.remove(f'{sys.argv[2]}:{turn}')\n"
        "    store.prune(wait=False)\n"
    )
    archive = str(tmp_path / "app.tar")
    running = [program_with(store, code, archive, name) for name in ("a", "b", "c")]
    running.append(program_with(store, "for _ in range(100): store.prune(wait=bool(_ % 2))"))
    processes = [each.__enter__() for each in running]
    for process in processes:
        assert process.wait(60) == 0
    for each in running:
        each.__exit__(None, None, None)

    found = {name.removeprefix("docker.io/library/") for name in store.names()}
    assert {"app:1", "shared:1"} <= found
    assert {f"{n}:{t}" for n in "abc" for t in (0, 2, 4)} <= found
    assert {f"{n}-own:{t}" for n in "abc" for t in range(6)} <= found
    assert not {f"{n}:{t}" for n in "abc" for t in (1, 3, 5)} & found
    assert store.check() == []


@everybody
def test_whoever_is_killed_leaves_the_store_whole(store: Store, tmp_path: Path) -> None:
    put(store, "big:1", [layer(IMAGE_OF_4_MIB)], zipped=False)
    with open(tmp_path / "big.tar", "wb") as file:
        archives.save(store, [(store.find("big:1"), "big:1")], "docker", file)
    store.prune(named=True)
    code = (
        "from sandbox_kernel import image\n"
        "print('begins', flush=True)\n"
        "while True:\n"
        "    archives.load(store, sys.argv[1])\n"
        "    image.resolve('big:1')\n"
        "    store.prune(named=True)\n"
    )
    chance = random.Random(3)
    for _ in range(8):
        with program_with(store, code, str(tmp_path / "big.tar")) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == "begins\n"
            try:
                other.wait(chance.uniform(0.0, 0.25))
            except subprocess.TimeoutExpired:
                os.kill(other.pid, signal.SIGKILL)
        assert [problem for problem in store.check() if problem.kind != "layer"] == []
        (found,) = archives.load(store, str(tmp_path / "big.tar"))
        assert image.resolve("big:1").digest == found.digest
    store.prune(named=True)
    assert os.listdir(f"{store.root}/layers") == []
    assert os.listdir(f"{store.root}/blobs/sha256") == []
    assert set(os.listdir(f"{store.root}/partial")) <= {"index.previous"}


@pytest.mark.root
@pytest.mark.fault(5)
def test_a_full_disk_is_said_and_free_space_is_enough_to_go_on(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, "big:1", [layer(IMAGE_OF_4_MIB)], zipped=False)
    archive = tmp_path / "big.tar"
    with open(archive, "wb") as file:
        archives.save(store, [(store.find("big:1"), "big:1")], "oci", file)
    place = tmp_path / "disk"
    place.mkdir()
    mounts.mount("small", str(place), "tmpfs", 0, "size=3m,mode=0700")
    try:
        monkeypatch.setenv("SANDBOX_KERNEL_IMAGES", str(place))
        small_store = Store.open()
        said = command("load", "-i", str(archive))
        assert said.returncode == 125
        assert "No space left on device: free space" in said.stderr
        assert len(said.stderr.splitlines()) == 1
        assert small_store.images() == []
        assert small_store.check() == []
        mounts.mount("small", str(place), "tmpfs", MS_REMOUNT, "size=6m,mode=0700")
        assert output_of("load", "-i", str(archive)) == "loaded: big:1\n"
        with pytest.raises(SandboxError, match=r"unpack layer .*No space left on device"):
            image.resolve("big:1")  # the blob fits, its layer does not
        assert os.listdir(place / "layers") == []
        mounts.mount("small", str(place), "tmpfs", MS_REMOUNT, "size=16m,mode=0700")
        assert Path(image.resolve("big:1").layers[0], "big").stat().st_size == 4 << 20
        assert small_store.check() == []
    finally:
        mounts.detach(str(place))


MS_REMOUNT = 32


@pytest.mark.fault(17)
def test_a_flipped_bit_is_found_and_only_that_blob_set_aside(store: Store, tmp_path: Path) -> None:
    made, other = small(store, "app:1"), small(store, "other:1", note=b"other\n")
    archive = tmp_path / "app.tar"
    with open(archive, "wb") as file:
        archives.save(store, [(made, "app:1")], "oci", file)
    flip_a_bit(blob_path(store, made.manifest.layers[1].digest))

    checked = command("image", "check")
    assert checked.returncode == 1
    (line,) = checked.stdout.splitlines()
    assert made.manifest.layers[1].digest in line
    assert "(of docker.io/library/app:1)" in line
    (said,) = json.loads(command("image", "check", "--format", "json").stdout)
    assert set(said) == {"kind", "subject", "why", "images", "mended"}
    repaired = command("image", "repair")
    assert repaired.returncode == 0
    assert "pull or load the image again" in repaired.stdout
    with pytest.raises(ImageError, match=r"blob `sha256:.*the image store has none such: pull or"):
        image.resolve("app:1")
    assert image.resolve("other:1").digest == other.digest
    archives.load(store, str(archive))
    assert image.resolve("app:1").digest == made.digest
    assert output_of("image", "check") == "all that is stored is whole\n"


def test_a_broken_manifest_is_one_line_and_repair_takes_it_from_the_list(store: Store) -> None:
    made, other = small(store, "app:1"), small(store, "other:1", note=b"other\n")
    store.tag("app:2", made.descriptor)
    flip_a_bit(blob_path(store, made.digest))
    (broken,) = [problem for problem in store.check() if problem.kind == "image"]
    assert broken.images == ("docker.io/library/app:1", "docker.io/library/app:2")

    said = command("run", "app:1")
    assert said.returncode == 125
    assert "its bytes have changed on the disk" in said.stderr
    assert len(said.stderr.splitlines()) == 1
    assert {problem.kind for problem in store.repair()} == {"image", "blob"}
    assert [found.digest for found in store.images()] == [other.digest]
    assert store.check() == []


@pytest.mark.fault(17)
@pytest.mark.parametrize("content", [b"", b'{"schemaVersion":2,"mani', b"\0" * 300, None])
def test_a_broken_list_is_put_back_as_it_was_before(store: Store, content: bytes | None) -> None:
    made = small(store, "app:1")
    store.tag("app:2", made.descriptor)
    list_file = Path(store.places.index)
    list_file.unlink()
    if content is not None:
        list_file.write_bytes(content)

    if content is None:  # a store without a list is a new one: opening makes an empty list
        with pytest.raises(ImageError, match="image repair"):
            store.images()
    else:
        said = command("images")
        assert said.returncode == 125
        assert "sandbox-kernel image repair" in said.stderr
    (problem,) = store.repair()
    assert problem.kind == "list"
    assert store.names() == {"docker.io/library/app:1": made.digest}
    assert store.check() == []


def test_without_any_list_the_images_are_found_again_by_digest(store: Store) -> None:
    made = small(store, "app:1")
    Path(store.places.index).write_bytes(b"gone")
    Path(store.places.partial("index.previous")).unlink()

    (problem,) = store.repair()
    assert "1 manifests" in problem.mended
    assert store.find(made.digest).names == ()


@everybody
@pytest.mark.fault(9)
@pytest.mark.fault(18)
def test_a_layer_made_before_the_power_went_is_made_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = small(store, "app:1")
    (lower, upper) = (Path(path) for path in image.resolve("app:1").layers)
    Path(upper, "etc/note").write_bytes(b"")  # what an unflushed file may look like afterwards
    facts = Path(upper.parent, "facts")
    facts.write_text(json.dumps({**json.loads(facts.read_text()), "boot": "an earlier one"}))

    assert store.layer(made.diff_ids[1]) is None
    assert output_of("run", "app:1", "says", "cat", "note") == "first\n"
    assert store.layer(made.diff_ids[0]) == str(lower)
    monkeypatch.setattr(layers, "SECONDS_TO_SETTLE", 0.0)
    store.settle([str(upper)])
    settled = json.loads(facts.read_text())
    assert settled["flushed"] is True
    facts.write_text(json.dumps({**settled, "boot": "an earlier one"}))
    assert store.layer(made.diff_ids[1]) is not None


@pytest.mark.fault(12)
@pytest.mark.parametrize(("years", "flushed"), [(-1, True), (0, False), (1, True)])
def test_a_layer_made_at_a_time_a_year_off_is_flushed_all_the_same(
    store: Store, years: int, flushed: bool
) -> None:
    """Or it would be made again at each start of the machine, until that year is over."""
    small(store, "app:1")
    (*_, upper) = (Path(path) for path in image.resolve("app:1").layers)
    facts = Path(upper.parent, "facts")
    made = json.loads(facts.read_text())
    facts.write_text(json.dumps({**made, "made": made["made"] + years * 365 * 86400}))

    store.settle([str(upper)])

    assert json.loads(facts.read_text())["flushed"] is flushed


# -- garbage --------------------------------------------------------------------------------------


@everybody
def test_what_another_image_needs_stays(store: Store) -> None:
    first, second = small(store, "app:1"), small(store, "app:2", note=b"second\n")
    image.resolve("app:1"), image.resolve("app:2")
    store.remove("app:1")

    assert store.has(second.manifest.layers[0].digest)
    assert not store.has(first.manifest.layers[1].digest)
    assert store.layer(first.diff_ids[0]) is not None
    assert store.layer(first.diff_ids[1]) is None
    assert image.resolve("app:2").digest == second.digest


@everybody
def test_a_container_keeps_the_layers_of_its_image(store: Store) -> None:
    put(store, "app:1", [layer({"says": program(), "note": b"there\n"})])
    with container.Container.create(policy.plan(image="app:1")) as held:
        removed = command("rmi", "app:1")
        assert removed.returncode == 0
        assert "1 layers are in use by containers" in removed.stderr
        assert len(os.listdir(f"{store.root}/layers")) == 1
        assert Path(held.image.layers[0], "note").read_bytes() == b"there\n"
        assert "1 layers are in use" in command("prune").stderr
    deadline = time.monotonic() + 10
    while os.listdir(f"{store.root}/layers") and time.monotonic() < deadline:
        store.prune()  # the launcher lets go a moment after it said so
    assert os.listdir(f"{store.root}/layers") == []


def test_a_lease_keeps_layers_and_what_is_added_stays_until_it_is_tagged(store: Store) -> None:
    made = small(store, "app:1")
    image.resolve("app:1")
    with store.use(made):
        done = store.remove("app:1")
        assert done.last
        assert done.collected.in_use == 2
        assert store.layer(made.diff_ids[0]) is not None
    with store.adding():
        digest = store.write(b"new")
        assert store.prune(wait=False).collected.busy
        assert store.has(digest)
    assert store.prune().collected.layers == 2
    assert not store.has(digest)


def test_a_layer_that_went_away_is_an_error_and_not_half_a_container(store: Store) -> None:
    small(store, "app:1")
    found = image.resolve("app:1")
    remove_tree(os.path.dirname(found.layers[1]))
    done = command("run", "app:1")  # another process: it looks, and unpacks it again
    assert done.stdout == "it runs\n"


# -- running --------------------------------------------------------------------------------------


@everybody
def test_a_stored_image_runs_with_what_its_configuration_says(store: Store) -> None:
    small(store, "app:1")

    assert output_of("run", "app:1") == "it runs\n"
    assert output_of("run", "app:1", "/bin/says", "cat", "note") == "first\n"
    assert output_of("run", "app:1", "says", "env", "WORD") == "of the image\n"
    assert output_of("run", "-e", "WORD=mine", "app:1", "says", "env", "WORD") == "mine\n"
    digest = store.find("app:1").digest
    assert output_of("run", digest) == "it runs\n"
    assert output_of("run", digest[7:19]) == "it runs\n"


@everybody
def test_a_detached_container_is_compared_with_the_image_that_it_was_made_of(store: Store) -> None:
    small(store, "app:1")
    with detached("sleep", "60"):
        pass
    made = output_of("run", "--keep", "--name", "kept-app", "app:1")
    try:
        assert made == "it runs\n"
        small(store, "app:1", note=b"second\n")  # the name means another one now
        assert output_of("diff", "kept-app") == ""
        assert json.loads(output_of("inspect", "kept-app"))[0]["image"] == "app:1"
    finally:
        output_of("rm", "--force", "kept-app")


def test_the_verbs_speak_json(store: Store) -> None:
    made = small(store, "app:1")
    assert output_of("tag", "app:1", "localhost:5000/app") == ""
    (row,) = json.loads(output_of("images", "--format", "json"))
    assert row["names"] == ["app:1", "localhost:5000/app:latest"]
    assert row["digest"] == made.digest
    (facts,) = json.loads(output_of("inspect", "app:1"))
    assert facts["config"]["WorkingDir"] == "/etc"
    assert [one["diff_id"] for one in facts["layers"]] == list(made.diff_ids)
    steps = json.loads(output_of("history", "app:1", "--format", "json"))
    assert steps[-1]["created_by"] == "made by hand 2"
    assert [step["digest"] for step in steps if step["digest"]] == [
        part.digest for part in made.manifest.layers[::-1]
    ]
    assert json.loads(output_of("image", "check", "--format", "json")) == []
    refused = command("rmi", made.digest[7:20])
    assert refused.returncode == 125
    assert "--force" in refused.stderr
    (done,) = json.loads(output_of("rmi", "localhost:5000/app", "--format", "json"))
    assert done == {"untagged": ["localhost:5000/app:latest"], "deleted": None, "stuck": []}
    (done,) = json.loads(output_of("rmi", "app:1", "--format", "json"))
    assert done["deleted"] == made.digest
    assert json.loads(output_of("images", "--format", "json")) == []
    assert json.loads(output_of("prune", "--format", "json"))["bytes"] == 0


def test_annotations_of_the_list_are_those_of_the_specification(store: Store) -> None:
    small(store, "app:1")
    (entry,) = json.loads(Path(store.places.index).read_text())["manifests"]
    assert entry["annotations"][names.NAME] == "docker.io/library/app:1"
    assert entry["annotations"][names.CREATED] == "2026-01-02T03:04:05Z"
    assert json.loads(Path(store.root, "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
