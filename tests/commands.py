"""The command as tests run it, and detached containers that are gone at the end of a block."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sandbox_kernel import container

COMMAND = [sys.executable, "-m", "sandbox_kernel.cli.main"]


def command(*words: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *words], input=given, capture_output=True, text=True, timeout=60, check=False
    )


def output_of(*words: str, given: str = "") -> str:
    done = command(*words, given=given)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def detached(*words: str, options: tuple[str, ...] = ()) -> Iterator[str]:
    """The id of a container that runs words; it is gone at the end."""
    made = output_of("run", "--detach", *options, "host", *words).strip()
    try:
        yield made
    finally:
        # its launcher ends with it, a moment after it said so
        folder = container.match(made).folder
        assert output_of("rm", "--force", made) == f"{made}\n"
        deadline = time.monotonic() + 10
        while os.path.exists(folder) and time.monotonic() < deadline:
            time.sleep(0.01)
