"""Files that a cell is given and files that are brought out: by the API and the command."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import command

import sandbox_kernel
from sandbox_kernel import aio, errors

pytestmark = pytest.mark.everybody

PLOTS = """
import os
os.makedirs("plots/.cache")
for name in ("a.png", "b.png", "c.txt", ".cache/d.png", ".e.png"):
    open("plots/" + name, "w").write(name)
"""


@pytest.fixture(autouse=True)
def _no_descriptor_left() -> Iterator[None]:
    sandbox_kernel.run("pass").check()
    descriptors = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) <= descriptors


def test_files_lie_in_the_working_folder_and_come_out_by_pattern(tmp_path: Path) -> None:
    source = tmp_path / "numbers"
    source.write_bytes(bytes(range(256)) * 5000)
    code = (
        f"{PLOTS}\n"
        "print(open('data.csv').read(), len(open('deep/er/numbers', 'rb').read()))\n"
        "open('deep/er/sum.bin', 'wb').write(open('deep/er/numbers', 'rb').read()[::-1])"
    )
    result = sandbox_kernel.run(
        code,
        files={"data.csv": b"1,2", "deep/er/numbers": source},
        files_out=["plots/*.png", "**/*.bin"],
        check=True,
    )
    assert result.stdout == "1,2 1280000\n"
    assert set(result.files) == {"plots/a.png", "plots/b.png", "deep/er/sum.bin"}
    assert result.files["plots/a.png"] == b"a.png"
    assert result.files["deep/er/sum.bin"] == source.read_bytes()[::-1]
    assert sandbox_kernel.run("import os; os.listdir()", check=True).text == "[]"


def test_any_program_and_any_ending_give_their_files() -> None:
    result = sandbox_kernel.run("cat in >out", program="sh", files={"in": b"x"}, files_out=["out"])
    assert result.check().files == {"out": b"x"}
    for end, problem in (
        ("1 / 0", errors.CellRaised),
        ("while True: pass", errors.TimedOut),
        ("import os; os.kill(os.getpid(), 9)", errors.Killed),
    ):
        code = f"open('log', 'w').write('so far')\n{end}"
        result = sandbox_kernel.run(code, files_out="*", timeout="2s")
        assert isinstance(result.exception, problem)
        assert result.files == {"log": b"so far"}


def test_a_container_that_ran_out_of_memory_says_that_its_files_are_gone() -> None:
    code = "open('log', 'w').write('so far')\nx = bytearray(1 << 30)"
    result = sandbox_kernel.run(code, files_out=["*"], memory="64m")
    assert isinstance(result.exception, errors.OutOfMemory)
    assert result.files == {} or result.files == {"log": b"so far"}


def test_a_sandbox_keeps_its_files_and_gives_them_when_asked() -> None:
    with sandbox_kernel.Sandbox() as sandbox:
        sandbox.run("pass", files={"a": b"1", "b/c": b"2"}, check=True)
        sandbox.run("open('a', 'a').write('+')", files={"b/c": b"3"}, check=True)
        assert sandbox.run("pass", files_out=["**"], check=True).files == {"a": b"1+", "b/c": b"3"}


@pytest.mark.whoever
def test_the_same_is_awaited() -> None:
    result = asyncio.run(
        aio.run("open('b', 'w').write(open('a').read())", files={"a": b"1"}, files_out=["b"])
    )
    assert result.check().files == {"b": b"1"}


def test_links_and_what_is_no_file_are_passed_over_and_named(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    code = f"""
import os
os.symlink({str(secret)!r}, "link")
os.symlink("/etc", "folder")
os.symlink("/", "root")
os.mkfifo("pipe")
open("fine\\n\\udcff", "w")
os.mkdir("closed"); os.chmod("closed", 0)
"""
    result = sandbox_kernel.run(
        code, files_out=["*", "*/*", "root/**", "folder/passwd"], check=True
    )
    assert set(result.files) == {"fine\n\udcff"}
    assert "`link` was not brought out: it is a link" in result.notices
    assert any("`pipe` was not brought out" in line for line in result.notices)


def test_a_link_in_the_image_or_left_by_a_cell_leads_no_file_elsewhere() -> None:
    with sandbox_kernel.Sandbox() as sandbox:
        sandbox.run(
            "import os; os.symlink('/tmp', 'out'); os.symlink('/tmp/x', 'file')", check=True
        )
        with pytest.raises(errors.StepFailed, match="`out`"):
            sandbox.run("pass", files={"out/a": b"1"})
        sandbox.run("pass", files={"file": b"1"}, check=True)
        assert sandbox.run("import os; os.listdir('/tmp')").text == "[]"


@pytest.mark.whoever
def test_more_than_the_bound_is_an_error_that_names_the_file() -> None:
    code = "open('big', 'wb').truncate(1 << 40)"
    result = sandbox_kernel.run(code, files_out=["big"], memory="64m")
    assert isinstance(result.exception, errors.CopyRefused)
    assert "big" in str(result.exception)
    code = "for n in range(10_001): open(str(n), 'w')"
    result = sandbox_kernel.run(code, files_out=["*"])
    assert isinstance(result.exception, errors.CopyRefused)


def test_files_that_do_not_fit_or_can_not_be_read_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(errors.SandboxError, match="space"):
        sandbox_kernel.run("pass", files={"big": bytes(20 << 20)}, storage_size="10m")
    with pytest.raises(errors.InvalidOption, match="files that are there"):
        sandbox_kernel.run("pass", files={"a": tmp_path / "absent"})
    vanishing = tmp_path / "pipe"
    vanishing.write_text("x")
    request = sandbox_kernel.engine.cell_request("pass", files={"a": vanishing})
    vanishing.unlink()
    with pytest.raises(errors.StepFailed, match="pipe"):
        sandbox_kernel.engine.start(sandbox_kernel.policy.plan("program"), request)


def test_the_command_brings_files_into_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    script = "mkdir a; echo 1 >a/x.csv; echo 2 >y.csv; ln -s /etc/passwd l.csv; exit 3"
    done = command("run", "--files-out", "**/*.csv,none", "host", "sh", "-c", script)
    assert done.returncode == 3
    assert (tmp_path / "a/x.csv").read_text() == "1\n"
    assert (tmp_path / "y.csv").read_text() == "2\n"
    assert sorted(os.listdir()) == ["a", "y.csv"]
    assert "not brought out: `l.csv`: it is a link" in done.stderr
    for words, said in (
        (("--files-out", "../x"), "without `..`"),
        (("--files-out", "x", "--detach"), "not with `--detach`"),
    ):
        done = command("run", *words, "host", "true")
        assert done.returncode == 125
        assert said in done.stderr
    assert "no file meets `none`" in command("run", "--files-out", "none", "host", "true").stderr
