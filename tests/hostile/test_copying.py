"""Corpus entry A 22: what a hostile container can try when its files are copied out.

CVE-2018-15664, CVE-2019-14271 and their like. The side in the container is no stronger than the
container's own programs; the side on the host believes nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import races

from sandbox_kernel import errors, policy
from sandbox_kernel.container import Container, ProcessSpec, copying
from sandbox_kernel.runtime import transfer

pytestmark = pytest.mark.everybody

MOST = {"most_bytes": 1 << 20, "most_files": 200}


@pytest.fixture
def held() -> Iterator[Container]:
    with Container.create(policy.plan(memory="256m")) as made:
        yield made


def start(held: Container, script: str):
    return held.run(ProcessSpec(argv=("/bin/sh", "-c", script)))


def do(held: Container, script: str) -> None:
    process = start(held, script)
    assert process.wait(200).status == 0
    process.close()


def regular_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if not path.is_symlink() and path.is_file()]


def test_a22_links_lead_into_the_container_or_stay_links(held, canaries, tmp_path):
    secret = canaries.file
    do(held, f"mkdir w; ln -s {secret} w/file; ln -s {secret.parent} w/folder; ln -s / w/root; "
             f"ln -s {secret.parent} up; ln -s /proc/1/root w/init")  # fmt: skip
    out = tmp_path / "out"
    copying.copy_out(held, "/home/sandbox/w", str(out), **MOST)
    assert regular_files(out) == []
    for path in (f"/home/sandbox/up/{secret.name}", f"/proc/1/root{secret}", str(secret)):
        with pytest.raises(errors.StepFailed):
            copying.copy_out(held, path, str(tmp_path / "stolen"), **MOST)
    assert not (tmp_path / "stolen").exists()


def test_a22_a_folder_that_becomes_a_link_in_a_loop_leads_nowhere(held, canaries, tmp_path):
    secret = canaries.file.parent
    do(held, "mkdir -p w/sub; echo inside >w/sub/f")
    swapping = start(
        held,
        f"while :; do mv w/sub w/s; ln -s {secret} w/sub; rm w/sub; mv w/s w/sub; done",
    )
    try:
        for number in races.turns(least=30):
            out = tmp_path / str(number)
            copying.copy_out(held, "/home/sandbox/w", str(out), **MOST)
            assert {path.read_text() for path in regular_files(out)} <= {"inside\n"}
            shutil.rmtree(out, ignore_errors=True)  # or a minute of them fills the disk
    finally:
        swapping.kill()
        swapping.close()


def test_a22_an_endless_file_a_sparse_one_and_very_many_end_at_the_bound(held, tmp_path):
    do(held, "truncate -s 1T sparse; mkdir many; cd many; i=0; "
             "while [ $i -lt 300 ]; do : >$i; i=$((i+1)); done")  # fmt: skip
    with pytest.raises(errors.CopyRefused, match="--max-bytes"):
        copying.copy_out(held, "/home/sandbox/sparse", str(tmp_path / "sparse"), **MOST)
    with pytest.raises(errors.CopyRefused, match="--max-files"):
        copying.copy_out(held, "/home/sandbox/many", str(tmp_path / "many"), **MOST)
    assert not (tmp_path / "sparse").exists()
    assert len(list((tmp_path / "many").iterdir())) <= 200
    # devices and fifos are never opened, so none of them can hold the copy up
    do(held, "mkdir odd; mkfifo odd/fifo")
    skipped = copying.copy_out(held, "/home/sandbox/odd", str(tmp_path / "odd"), **MOST)
    assert skipped == [("fifo", "it is no file, folder or link")]
    assert copying.copy_out(held, "/dev/zero", str(tmp_path / "zero"), **MOST) == [
        ("zero", "it is no file, folder or link")
    ]


def test_a22_a_deep_tree_and_odd_names_come_as_they_are_or_are_passed_over(held, tmp_path):
    do(held, "mkdir w; cd w; printf x >'a\nb'; printf y >'-rf'; i=0; "
             "while [ $i -lt 600 ]; do mkdir d; cd d; i=$((i+1)); done")  # fmt: skip
    out = tmp_path / "out"
    most = {**MOST, "most_files": 1000}
    ((path, why),) = copying.copy_out(held, "/home/sandbox/w", str(out), **most)
    assert why == "it lies too deep"
    assert path.count("/") > 240
    assert (out / "a\nb").read_text() == "x"
    assert (out / "-rf").read_text() == "y"


def test_a22_a_link_planted_on_the_host_is_not_written_through(held, tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "f").write_text("old")
    out = tmp_path / "out"
    out.mkdir()
    (out / "w").mkdir()
    (out / "w" / "sub").symlink_to(victim)
    (out / "w" / "plain").symlink_to(victim / "f")
    do(held, "mkdir -p w/sub; echo evil >w/sub/f; echo evil >w/plain")
    with pytest.raises(errors.StepFailed):
        copying.copy_out(held, "/home/sandbox/w", str(out), **MOST)
    assert (victim / "f").read_text() == "old"
    assert sorted(os.listdir(victim)) == ["f"]


@pytest.mark.parametrize(
    "path", ["../f", "/f", "a/../../f", ".", "..", "a//b", "\0", 7, None, "/".join("a" * 600)]
)
def test_a22_a_lying_stream_is_refused_before_anything_is_written(tmp_path, path):
    def say(sink: int) -> None:
        for record in ({"path": "", "kind": "folder"}, {"path": path, "kind": "file"}):
            data = json.dumps(record).encode()
            os.write(sink, len(data).to_bytes(4, "big") + data)
        os.write(sink, (3).to_bytes(4, "big") + b"bad" + bytes(4))
        os.close(sink)

    read, write = os.pipe()
    saying = threading.Thread(target=say, args=(write,))
    saying.start()
    parent = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    before = sorted(os.listdir(tmp_path.parent))
    try:
        with pytest.raises(errors.StepFailed):
            transfer.Unpacking(read, **MOST).into(parent, "out")
    finally:
        saying.join()
        os.close(parent)
        os.close(read)
    assert list((tmp_path / "out").iterdir()) == []
    assert sorted(os.listdir(tmp_path.parent)) == before


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\0\0\0\x02[]", b"\0\0\0\x04oops", b""])
def test_a22_a_broken_stream_ends_in_one_line(tmp_path, data):
    read, write = os.pipe()
    os.write(write, data)
    os.close(write)
    parent = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with pytest.raises(errors.StepFailed, match="the stream of files"):
            transfer.Unpacking(read, **MOST).into(parent, "out")
    finally:
        os.close(parent)
        os.close(read)
    assert not (tmp_path / "out").exists()
