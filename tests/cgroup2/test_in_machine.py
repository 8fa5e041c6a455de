"""Boots the machine with cgroup v2 once and runs `inside/` there; `machine.py` says how to add."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import machine
import pytest

INSIDE = Path(__file__).with_name("inside")


@pytest.mark.timeout(1000)
def test_inside_the_machine_with_cgroup_v2(relay_reports: Callable[[bytes], int]) -> None:
    chosen = os.environ.get("MACHINE_TESTS", str(INSIDE)).split()
    quiet = ["-p", "no:cacheprovider", "-q", "--timeout=240", "--durations=8"]
    outcome = machine.run(
        [sys.executable, "-B", "-m", "pytest", *quiet, *chosen],
        seconds=900,
        keep=("reports",),
    )
    tests = relay_reports(outcome.files["reports"])
    assert outcome.status in (0, 1), outcome.why
    assert tests > 0, outcome.why


def test_a_command_that_never_ends_is_ended_with_its_machine() -> None:
    outcome = machine.run(["sleep", "600"], seconds=8)
    assert outcome.status is None
    assert "ended after 8 s" in outcome.why


def test_the_status_and_the_output_of_a_command_come_back() -> None:
    outcome = machine.run(["/bin/sh", "-c", "uname -r; echo 'a b' >&2; exit 7"])
    assert outcome.status == 7, outcome.why
    release, word = outcome.output.splitlines()
    assert release.split(".") > ["6"]
    assert word == "a b"
