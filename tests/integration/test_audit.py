"""Promises of the record: what ran and what was refused, by whichever way, and nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import kernels
import pytest

import sandbox_kernel
from sandbox_kernel import audit, errors, policy

COMMAND = str(Path(sys.executable).with_name("sandbox-kernel"))
SECRET = "this text is in the cell"


@pytest.fixture
def configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home with a record that is on."""
    file = tmp_path / ".config/sandbox-kernel/config.toml"
    file.parent.mkdir(parents=True)
    file.write_text('audit = "on"\n')
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    return file


def digest_of(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *words], capture_output=True, text=True, check=False)


def test_every_way_to_run_something_is_in_the_record(configuration: Path) -> None:
    code = f"print({SECRET!r})"
    sandbox_kernel.run(code, memory="128m", env={"TOKEN": "secret-value"})
    with sandbox_kernel.Sandbox() as sandbox:
        sandbox.run("raise ValueError")
    assert command("run", "host", "/bin/sh", "-c", "exit 3").returncode == 3
    with kernels.started() as kernel:
        kernel.run(code)
        kernel.run("1 / 0")
    with kernels.cells_started() as kernel:
        kernel.run(code)
        kernel.run("%sandbox mode carry")
        kernel.run(code)
    plain = subprocess.run(
        [sys.executable, "-m", "IPython", "--quick", "-c",
         "%load_ext sandbox_kernel\nget_ipython().run_cell_magic('container', '', '6 * 7')"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "42" in plain.stdout, plain.stderr

    runs = list(audit.runs())
    assert [(run["by"], run["ended"]["error"], run["ended"]["status"]) for run in runs] == [
        ("program", None, 0),
        ("program", "ValueError", 1),
        ("command line", None, 3),
        ("kernel", None, None),
        ("kernel", "ZeroDivisionError", None),
        ("cells", None, 0),
        ("cells", None, 0),
        ("magic", None, 0),
    ]
    first = runs[0]
    assert first["cell"] == digest_of(code)
    assert first["plan"]["options"]["memory"] == 128 << 20
    assert first["plan"]["options"]["env"] == ["TOKEN"]
    assert first["ended"]["limits"]["memory"] == 128 << 20
    assert first["ended"]["usage"]["memory_peak_bytes"] > 0
    assert first["user"] and first["digest"] and first["ended"]["container"]
    assert runs[3]["cell"] == runs[5]["cell"] == digest_of(code)

    path = Path(audit.place())
    text = path.read_text()
    assert SECRET not in text
    assert "secret-value" not in text
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700

    shown = command("audit")
    assert shown.returncode == 0
    assert digest_of(code)[:12] in shown.stdout
    told = [json.loads(line) for line in command("audit", "--format", "json").stdout.splitlines()]
    assert [run["by"] for run in told] == [run["by"] for run in runs]
    assert len(command("audit", "--last", "2", "--format", "json").stdout.splitlines()) == 2


def test_what_is_refused_is_in_the_record_and_off_writes_nothing(configuration: Path) -> None:
    assert command("run", "--memory", "1", "host", "true").returncode == 125
    with pytest.raises(errors.InvalidOption):
        sandbox_kernel.run("pass", memory="no size")
    with kernels.cells_started() as kernel:
        kernel.run("%sandbox --network host\n1")
    found = [(run["kind"], run["by"], run["error"]) for run in audit.runs()]
    assert found == [
        ("refused", "command line", "InvalidOption"),
        ("refused", "program", "InvalidOption"),
        ("refused", "cells", "NotAllowed"),
    ]
    size = Path(audit.place()).stat().st_size
    configuration.write_text("")
    sandbox_kernel.run("pass")
    assert Path(audit.place()).stat().st_size == size
    assert "nothing is written down now" in command("audit").stdout


def test_the_record_says_of_which_notebook_a_run_is_and_is_asked_by_that(
    configuration: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [f"{configuration.parent}/{name}.ipynb" for name in ("tea", "coffee")]
    for number, path in enumerate(paths):
        monkeypatch.setenv("JPY_SESSION_NAME", path)  # as a server says it to a kernel
        with kernels.cells_started() as kernel:
            kernel.run(f"print({number})")
            kernel.run("%sandbox --network host\n1")
    monkeypatch.delenv("JPY_SESSION_NAME")
    sandbox_kernel.run("pass")

    def asked(*words: str) -> list[tuple[str, str | None]]:
        done = command("audit", "--format", "json", *words)
        assert done.returncode == 0, done.stderr
        runs = [json.loads(line) for line in done.stdout.splitlines()]
        return [(run["kind"], run["notebook"]) for run in runs]

    of_tea, of_coffee = ([("start", path), ("refused", path)] for path in paths)
    assert asked() == [*of_tea, *of_coffee, ("start", None)]
    assert asked("--notebook", "tea.ipynb") == of_tea
    assert asked("--notebook", "no such") == []
    assert asked("--refused") == [of_tea[1], of_coffee[1]]
    assert asked("--refused", "--notebook", "coffee") == [of_coffee[1]]
    assert command("audit", "--refused", "--notebook", "coffee").stdout.count("refused: ") == 1


def test_nobody_but_the_user_turns_it_off(configuration: Path) -> None:
    Path("sandbox.toml").write_text('audit = "off"\n')
    with pytest.raises(errors.NotAllowed, match="audit"):
        sandbox_kernel.run("pass")
    Path("sandbox.toml").unlink()
    with pytest.raises(errors.NotAllowed, match="audit"):
        policy.plan("magic", audit="off")


def test_the_content_of_cells_only_for_who_asks_for_it(configuration: Path) -> None:
    configuration.write_text('audit = "content"\n')
    sandbox_kernel.run(f"print({SECRET!r})")
    assert SECRET in next(iter(audit.runs()))["content"]


def test_what_can_not_be_written_down_does_not_run(configuration: Path) -> None:
    folder = Path(audit.place()).parent
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    with pytest.raises(errors.StepFailed, match="0700"):
        sandbox_kernel.run("pass")
    folder.chmod(0o700)
    Path(audit.place()).symlink_to("/dev/null")
    with pytest.raises(errors.StepFailed):
        sandbox_kernel.run("pass")
    with kernels.started() as kernel:
        reply, _ = kernel.run("print(1)")
    assert reply["content"]["ename"] == "StepFailed"


@pytest.fixture
def few_small_files(configuration: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "MOST_BYTES", 4000)
    monkeypatch.setattr(audit, "MOST_FILES", 3)


def write(number: int) -> None:
    """The two lines of one run."""
    entry = audit.begin(policy.plan("program"), by="program", code=str(number))
    assert entry is not None
    entry.end(status=0)


def test_a_full_file_is_put_aside_and_half_a_line_spoils_no_other(few_small_files: None) -> None:
    for number in range(30):
        write(number)
        if number == 28:
            with open(audit.place(), "ab") as file:
                file.write(b'{"kind": "start", "run": "half')  # of one who was killed
    names = sorted(os.listdir(Path(audit.place()).parent))
    assert len([name for name in names if name.startswith("audit-")]) == 2
    assert all((Path(audit.place()).parent / name).stat().st_size <= 4000 for name in names)
    last = list(audit.runs())[-1]
    assert last["cell"] == digest_of("29")
    assert last["ended"]["status"] == 0


@pytest.mark.fault(12)
def test_the_oldest_lines_go_first_although_the_clock_went_back_by_a_year(
    few_small_files: None,
) -> None:
    """The files that are there then have names of a time to come."""
    for number in range(30):
        write(number)
    folder = Path(audit.place()).parent
    for aside in folder.glob("audit-*.jsonl"):
        moment = int(aside.stem.removeprefix("audit-")) + 365 * 86400 * 10**9
        aside.rename(folder / f"audit-{moment:020d}.jsonl")
    before = [run["cell"] for run in audit.runs()]
    for number in range(30, 60):
        write(number)

    cells = [run["cell"] for run in audit.runs()]
    newest = [digest_of(str(number)) for number in range(60)]
    assert cells == newest[-len(cells) :]
    assert len(cells) >= len(before) - 5, "as many are kept as before"
