"""`sandbox-kernel doctor`: what it finds is so, and what it prints as a remedy is one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from ordinary_user import OrdinaryUser

from sandbox_kernel.cli import doctor
from sandbox_kernel.runtime import walls

DOCTOR = ["-m", "sandbox_kernel.cli.main", "doctor"]
LIMITS = {"memory", "memory_swap", "cpus", "pids_limit"}


def test_where_containers_can_be_made_nothing_is_bad(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, *DOCTOR, "--format=json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    checks = {check["name"]: check for check in json.loads(done.stdout)}

    assert done.returncode == 0
    assert all(check["state"] != "bad" for check in checks.values())
    assert "at most 8 of a kind, from 4 templates" in checks["ready cells"]["found"]
    assert checks["networks"]["state"] == "good"
    assert set(checks["control groups"]["found"].partition(": ")[2].split(", ")) >= LIMITS


def test_each_runtime_of_others_makes_a_container_or_its_line_says_why_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = walls.found()
    made = {check.name: check for check in doctor._walls()}
    monkeypatch.setattr(walls, "FOLDERS", ("/nowhere",))
    without = {check.name: check for check in doctor._walls()}

    assert set(made) == set(without) == {f"runtime {name}" for name in walls.PACKAGES}
    for name, package in walls.PACKAGES.items():
        here, lacking = made[f"runtime {name}"], without[f"runtime {name}"]
        if name == "crun" and here.means == "`--runtime crun` fails so; others work":
            assert here.found.startswith("crun `run`: ")  # it knows no hybrid of control groups
        else:
            assert here.state == ("weak" if found[name] else "good"), here
        assert lacking.state == "weak"
        assert lacking.means == f"`--runtime {name}` is refused; others work"
        assert package in lacking.mend


def test_a_file_that_is_wrong_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "sandbox.toml").write_text("\nmemory = 'banana'\n")
    done = subprocess.run(
        [sys.executable, *DOCTOR], cwd=tmp_path, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip

    assert done.returncode == 1
    assert "BAD   settings: " in done.stdout
    assert f"{tmp_path}/sandbox.toml:2: memory" in done.stdout


def test_what_it_prints_for_root_hands_limits_over(ordinary_user: OrdinaryUser) -> None:
    """The commands are taken from the page as a person would, and run by root."""

    def checks() -> list[dict[str, str]]:
        done = ordinary_user.run(["python", *DOCTOR, "--format=json"])
        found: list[dict[str, str]] = json.loads(done.stdout)
        return found

    (lacking,) = [check for check in checks() if check["name"].startswith("limits memory")]
    assert "--memory" in lacking["means"]
    first, *lines = lacking["mend"].splitlines()
    assert first.endswith("as root:")
    page = ordinary_user.run(["python", *DOCTOR]).stdout
    assert all(f"             {line}\n" in page for line in lines)

    try:
        for line in lines:
            subprocess.run(["/bin/sh", "-c", line], check=True)
        (groups,) = [check for check in checks() if check["name"] == "control groups"]
        assert set(groups["found"].partition(": ")[2].split(", ")) >= LIMITS
        limited = ordinary_user.run(
            ["python", "-m", "sandbox_kernel.cli.main", "run", "--memory=64m", "host", "true"]
        )
        assert limited.returncode == 0, limited.stderr
    finally:
        for line in lines:
            if line.startswith("mkdir -p "):
                Path(line.removeprefix("mkdir -p ")).rmdir()
