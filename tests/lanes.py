"""Runs the tests that use the machine, in two lanes at once: `python tests/lanes.py [OPTION...]`.

The options are pytest's. Tests wait for processes, kernels and registries for half of their time,
so two lanes take little more than one. Each has a mount namespace with a runtime folder of its own,
so that neither has the launchers of the other, stops its warm holder, or counts what it has as
left. What needs the one ordinary user of the tests is in the first; what measures time or the
processors comes afterwards, alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDERS = ("tests/integration", "tests/hostile", "tests/cgroup2", "tests/browser")
PYTEST = (sys.executable, "-m", "pytest")
RUNTIME_FOLDER = "/run/sandbox-kernel"
OF_THE_ORDINARY_USER = ("ordinary_user", "delegated_user")
FIRST_TOO = ("tests/cgroup2/test_in_machine.py",)
"""Further files of the first lane, so that both take about the same time."""
ALONE = (
    "tests/hostile/test_b_exhaustion.py",
    "tests/integration/test_cgroups_v1.py",
    "tests/integration/test_killed_at_any_time.py",
    "tests/integration/test_limits.py",
    "tests/integration/test_many_at_once.py",
)
"""Files whose tests use all processors, or measure them, or need answers in time."""


def main(options: list[str]) -> int:
    """The status: 0 when every test of every lane passed."""
    if os.geteuid() != 0:  # a mount namespace is root's, and others run fewer of the tests
        return subprocess.run([*PYTEST, *FOLDERS, *options], check=False).returncode
    files = sorted(
        str(path.relative_to(REPOSITORY))
        for folder in FOLDERS
        for path in (REPOSITORY / folder).glob("test_*.py")
    )
    alone = [file for file in files if file in ALONE]
    first = [file for file in files if file not in alone and _is_in_first(file)]
    second = [file for file in files if file not in (*alone, *first)]
    with tempfile.TemporaryFile("w+") as said:
        beside = subprocess.Popen(_command(second, options), stdout=said, stderr=said)
        statuses = [_run(first, options), beside.wait()]
        said.seek(0)
        print(said.read(), end="", flush=True)
    statuses.append(_run(alone, options))
    return max(statuses, key=abs)


def _is_in_first(file: str) -> bool:
    text = (REPOSITORY / file).read_text()
    return file in FIRST_TOO or any(name in text for name in OF_THE_ORDINARY_USER)


def _run(files: list[str], options: list[str]) -> int:
    return subprocess.run(_command(files, options), check=False).returncode


def _command(files: list[str], options: list[str]) -> list[str]:
    """The argv of one lane: pytest in a mount namespace of its own."""
    mount = f"mount -t tmpfs -o mode=700 lane {RUNTIME_FOLDER}"
    own = f'mkdir -p {RUNTIME_FOLDER} && {mount} && exec "$@"'
    enter = ("/usr/bin/unshare", "--mount", "/bin/sh", "-c", own, "lane")
    return [*enter, *PYTEST, *files, *options]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
