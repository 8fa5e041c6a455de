"""`diff` and `cp`: what changed in a container's files, and copying them in and out."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import command, detached, output_of

from sandbox_kernel import container, errors, policy
from sandbox_kernel.container import Container, ProcessSpec, changes, copying

pytestmark = pytest.mark.everybody

MOST = {"most_bytes": 1 << 20, "most_files": 100}


@pytest.fixture
def held() -> Iterator[Container]:
    with Container.create(policy.plan()) as made:
        yield made


def do(held: Container, script: str) -> str:
    read, write = os.pipe()
    process = held.run(ProcessSpec(argv=("/bin/sh", "-c", script), descriptors={1: write}))
    os.close(write)
    with os.fdopen(read) as output:
        said = output.read()
    assert process.wait(30).status == 0
    process.close()
    return said


def test_diff_of_the_host_image_lists_what_was_added(held: Container) -> None:
    assert changes.changes(held) == []
    do(held, "mkdir -p w/x; echo hi >w/f; echo t >/tmp/t; mkdir /new")
    assert [tuple(change) for change in changes.changes(held)] == [
        ("A", "/home/sandbox/w"),
        ("A", "/home/sandbox/w/f"),
        ("A", "/home/sandbox/w/x"),
        ("A", "/new"),
        ("A", "/tmp/t"),
    ]


def test_diff_over_layers_lists_added_changed_and_deleted(tmp_path: Path) -> None:
    root = tmp_path / "image"
    programs = [Path(shutil.which(name) or name) for name in ("sh", "rm", "mkdir")]
    for program in programs:
        copy_with_libraries(program, root)
    for path in ("etc/conf", "etc/gone", "old/deep/file", "old/kept"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)
    for path in [tmp_path, *tmp_path.parents[:2]]:
        path.chmod(path.stat().st_mode | 0o055)
    plan = policy.plan("program", image=f"dir:{root}", env="PATH=/bin", workdir="/")
    with Container.create(plan) as made:
        do(made, "echo new >/etc/conf; rm /etc/gone; rm -r /old; mkdir /old; echo z >/old/z")
        found = [tuple(change) for change in changes.changes(made)]
    assert [change for change in found if not change[1].startswith(("/proc", "/sys", "/dev"))] == [
        ("C", "/etc"),
        ("C", "/etc/conf"),
        ("D", "/etc/gone"),
        ("C", "/old"),
        ("D", "/old/deep"),
        ("D", "/old/kept"),
        ("A", "/old/z"),
    ]


def copy_with_libraries(program: Path, root: Path) -> None:
    needed = subprocess.run(["/usr/bin/ldd", program], capture_output=True, text=True, check=True)
    libraries = [word for word in needed.stdout.split() if word.startswith("/")]
    for source, target in [(program, f"/bin/{program.name}"), *((lib, lib) for lib in libraries)]:
        place = root / str(target).lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, place)


def test_a_folder_is_copied_out_and_in_again(held: Container, tmp_path: Path) -> None:
    do(
        held,
        "mkdir -p w/x; printf 'one' >w/f; chmod 4750 w/f; ln -s /etc/passwd w/link; mkfifo w/p",
    )
    skipped = copying.copy_out(held, "/home/sandbox/w", str(tmp_path / "out"), **MOST)
    out = tmp_path / "out"
    assert (out / "f").read_text() == "one"
    assert (out / "f").stat().st_mode & 0o7777 == 0o750
    assert (out / "f").stat().st_uid == os.getuid()
    assert os.readlink(out / "link") == "/etc/passwd"
    assert (out / "x").is_dir()
    assert skipped == [("p", "it is no file, folder or link")]
    assert sorted(os.listdir(out)) == ["f", "link", "x"]

    (out / "\udcff name").write_bytes(b"\0\xff" * 1000)
    copying.copy_in(str(out), held, "/tmp", **MOST)
    assert (
        do(held, "cat /tmp/out/f; ls /tmp/out | wc -l; cat /tmp/out/*name | wc -c")
        == "one4\n2000\n"
    )
    assert do(held, "stat -c %u /tmp/out/f") == "0\n"


def test_a_copy_takes_the_name_that_it_is_given_or_goes_into_the_folder(
    held: Container, tmp_path: Path
) -> None:
    source = tmp_path / "file"
    source.write_text("text")
    copying.copy_in(str(source), held, "/tmp", **MOST)
    copying.copy_in(str(source), held, "/tmp/other", **MOST)
    assert do(held, "cat /tmp/file /tmp/other") == "texttext"
    copying.copy_out(held, "/tmp/other", str(tmp_path), **MOST)
    (tmp_path / "there").write_text("old")
    copying.copy_out(held, "/tmp/other", str(tmp_path / "there"), **MOST)
    assert (tmp_path / "other").read_text() == (tmp_path / "there").read_text() == "text"


def test_what_is_not_there_is_one_line(held: Container, tmp_path: Path) -> None:
    with pytest.raises(errors.StepFailed, match="copy `/nowhere`: No such file"):
        copying.copy_out(held, "/nowhere", str(tmp_path), **MOST)
    with pytest.raises(errors.StepFailed, match="/absent"):
        copying.copy_in(str(tmp_path / "absent"), held, "/tmp", **MOST)
    with pytest.raises(errors.StepFailed, match="Read-only"):
        (tmp_path / "f").write_text("")
        copying.copy_in(str(tmp_path / "f"), held, "/usr/f", **MOST)


def test_the_command_copies_by_container_and_path(tmp_path: Path) -> None:
    with detached("sh", "-c", "echo made >made; sleep 60 & echo ready; wait") as made:
        next(iter(container.find(made).logs(follow=True)))
        output_of("cp", f"{made}:/home/sandbox/made", str(tmp_path / "made"))
        assert (tmp_path / "made").read_text() == "made\n"
        output_of("cp", str(tmp_path / "made"), f"{made}:/tmp/in")
        assert output_of("exec", made, "cat", "/tmp/in") == "made\n"
        assert output_of("diff", made) == "A /home/sandbox/made\nA /tmp/in\n"
        both = command("cp", str(tmp_path / "made"), str(tmp_path / "more"))
        assert both.returncode == 125
        assert "CONTAINER:PATH" in both.stderr
