"""A cell that a template rehearses, in an interpreter of its own: it runs, and leaves nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import builtins, json, linecache, os, sys
from sandbox_kernel.inside import cell, display, hooks, values

{before}
hooks.prepare()
ran = []
run = cell.Cell.run
cell.Cell.run = lambda self: ran.append((run(self), self.namespace.get("total"))) or ran[-1][0]

def state():
    return [
        sorted(os.listdir("/proc/self/fd")), dict(os.environ), sorted(vars(builtins)),
        sys.argv, id(sys.modules["__main__"]), id(sys.stdout), display.current,
        "<cell>" in linecache.cache,
    ]

before = state()
cell.rehearse()
print(json.dumps([state() == before, ran]))
"""


@pytest.mark.parametrize("before", ["", "del os.memfd_create"])
def test_a_rehearsed_cell_runs_and_leaves_nothing_behind(before: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(before=before)],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2], timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[true, [[0, 2]]]\n"
