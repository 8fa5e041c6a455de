"""Runs the tests that use the machine, in lanes at once: `python tests/lanes.py [OPTION...]`.

The options are pytest's. Tests wait for processes, kernels and registries for half of their time,
so three lanes take little more than one. Each has a mount namespace with a runtime folder of its
own, so that none has the launchers of another, stops its warm holder, or counts what it has as
left. What needs the one ordinary user of the tests is in one lane; what measures the processors
comes afterwards, alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDERS = ("tests/integration", "tests/hostile", "tests/cgroup2", "tests/browser")
PYTEST = (sys.executable, "-m", "pytest")
RUNTIME_FOLDER = "/run/sandbox-kernel"
OF_THE_ORDINARY_USER = ("ordinary_user", "delegated_user")
ALONE = ("tests/hostile/test_b_exhaustion.py", "tests/integration/test_cgroups_v1.py")
"""Files whose tests use all processors, or measure them."""
TOGETHER = (
    "tests/cgroup2/",
    "tests/browser/",
    "tests/hostile/test_a_escape.py",
    "tests/integration/test_killed_at_any_time.py",
    "tests/integration/test_many_at_once.py",
)
"""One more lane, so that all take about the same time."""


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
    of_the_user = [file for file in files if file not in alone and _needs_the_user(file)]
    left = [file for file in files if file not in (*alone, *of_the_user)]
    together = [file for file in left if file.startswith(TOGETHER)]
    rest = [file for file in left if file not in together]
    with ExitStack() as stack:
        beside = []
        for lane in (together, rest):
            said = stack.enter_context(tempfile.TemporaryFile("w+"))
            beside.append(
                (subprocess.Popen(_command(lane, options), stdout=said, stderr=said), said)
            )
        statuses = [_run(of_the_user, options)]
        for process, said in beside:
            statuses.append(process.wait())
            said.seek(0)
            print(said.read(), end="", flush=True)
    statuses.append(_run(alone, options))
    return max(statuses, key=abs)


def _needs_the_user(file: str) -> bool:
    return any(name in (REPOSITORY / file).read_text() for name in OF_THE_ORDINARY_USER)


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
