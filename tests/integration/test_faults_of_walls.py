"""A wall that can't be put up, at each call that puts it up: then nothing starts behind it."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

import injected
import pytest

FIRST_AND_FURTHER = """
from sandbox_kernel import errors, policy, settings
from sandbox_kernel.container import Container, ProcessSpec
look = ("grep", "-E", "^(NoNewPrivs|Seccomp):", "/proc/self/status")
spec = ProcessSpec(argv=look, descriptors={1: 1, 2: 2})
plan = policy.plan(settings.PROGRAM, strict=True)
def told(ended):
    print(ended.status, ended.message, flush=True)
with Container.create(plan, process=spec) as first:
    told(first.process.wait(20))
with Container.create(plan) as made:
    told(made.run(spec).wait(20))
"""
WALLED = "NoNewPrivs:\t1\nSeccomp:\t2\n0 \n"
REFUSED = {
    "PR_SET_NO_NEW_PRIVS": "126 set `no_new_privs`: Operation not permitted\n",
    "PR_SET_SECCOMP": "126 install seccomp program of `",
    "landlock_restrict_self": "126 enter `a Landlock domain`: Operation not permitted\n",
    "capset": "126 set capabilities `none`: Operation not permitted\n",
}


@pytest.mark.root  # to trace a program is to take the rights of its helpers for ids
@pytest.mark.fault(21)
def test_a_program_for_which_a_wall_is_refused_never_starts(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", FIRST_AND_FURTHER]
    calls = "prctl,landlock_restrict_self,capset"
    whole = injected.run(argv, calls, log=tmp_path / "log")
    assert whole.stdout == WALLED * 2, whole
    number = number_of_each(tmp_path / "log")
    for wall, said in REFUSED.items():
        call = "prctl" if wall.startswith("PR_") else wall
        done = injected.run(argv, call, f"error=EPERM:when={number[wall]}")
        assert done.stdout.count(said) == 2, (wall, done)
        assert "Seccomp" not in done.stdout
        assert done.stderr == ""


def number_of_each(log: Path) -> dict[str, int]:
    """Of what puts up a wall, how many calls of that name its process had done with it."""
    done: Counter[tuple[str, str]] = Counter()
    found: dict[str, int] = {}
    for line in log.read_text().splitlines():
        match = re.match(r"(\d+) +(\w+)\((\w*)", line)
        if match:
            process, call, first = match.groups()
            done[process, call] += 1
            found.setdefault(first if call == "prctl" else call, done[process, call])
    return found
