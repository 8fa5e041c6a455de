"""What a template does for its kernels before it forks, in an interpreter of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

DATABASE = """
import ctypes, os, sqlite3, sys
from sandbox_kernel.linux.template_memory import _Usage
if {prepares}: from sandbox_kernel.inside import prepared
usage = ctypes.CDLL(None).mallinfo2
usage.restype = _Usage
connection = sqlite3.connect(os.environ["HOME"] + "/file")
connection.execute("create table numbers(one)")
connection.execute("insert into numbers values (5)")
connection.commit()
before = usage().uordblks
again = sqlite3.connect(os.environ["HOME"] + "/file")
print(again.execute("select one from numbers").fetchone()[0], usage().uordblks - before)
"""


def test_a_database_takes_memory_for_the_pages_that_are_read(tmp_path: Path) -> None:
    """IPython's history opens two, of which each would take that of 20 pages."""
    numbers = {}
    for prepares in (False, True):
        (tmp_path / str(prepares)).mkdir()
        done = subprocess.run(
            [sys.executable, "-c", DATABASE.format(prepares=prepares)],
            capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2], timeout=60,
            env={**os.environ, "HOME": str(tmp_path / str(prepares))},
        )  # fmt: skip
        numbers[prepares] = done.stdout.split() or done.stderr
    assert numbers[False][0] == numbers[True][0] == "5", numbers
    assert int(numbers[True][1]) < int(numbers[False][1]) - 50_000
