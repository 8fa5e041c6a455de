"""Runs the tests that use the machine, in four lanes at once: `python tests/lanes.py [OPTION...]`.

The options are pytest's. Tests wait for processes, kernels and registries for more than half of
their time, so four lanes keep two processors busy. Each has a mount namespace with a runtime folder
of its own, so that none has the launchers of another, stops its warm holder, or counts what it has
as left. What needs the one ordinary user of the tests is in one lane, and so is what needs the one
browser; what measures time or the processors comes afterwards, alone.

A disk makes a test wait each time that it removes a folder or flushes a file, and they make and
remove very many. So the four lanes have temporary folders in memory, where there is enough of it;
what is alone has the machine's own, and so has whoever runs a file of tests by itself.

More processes than processors make everything slow, and what a test waits for may come later than
anybody would wait. So tests that failed in a lane, if they are few, run once more when the lanes
are done, with the machine to themselves. Only that counts, and both are printed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import ordinary_user
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDERS = ("tests/integration", "tests/hostile", "tests/cgroup2", "tests/browser")
PYTEST = (sys.executable, "-m", "pytest")
RUNTIME_FOLDER = "/run/sandbox-kernel"
TEMPORARY_FOLDERS = ("/tmp", "/var/tmp")
MEMORY_FOR_THEM = 6 << 30
"""Available: much more than they ever hold, so that no test ever lacks memory for it."""
OF_THE_ORDINARY_USER = re.compile(r'\b(ordinary|delegated)_user[:,"]')
"""How a test asks for him: as an argument, or by name."""
BESIDE: dict[str, tuple[str, ...]] = {
    "browser": (
        "tests/browser/",
        "tests/hostile/test_e",
        "tests/integration/test_c",
        "tests/integration/test_faults",
    ),
    "machines": (
        "tests/cgroup2/",
        "tests/hostile/test_c",
        "tests/integration/test_b",
        "tests/integration/test_environments",
        "tests/integration/test_k",
        "tests/integration/test_notebook",
        "tests/integration/test_walls",
    ),
    "others": ("",),
}
"""Lanes beside that of the ordinary user, and what their files begin with. The first that fits has
it; they are such that all take about the same time."""
ALONE = (
    "tests/hostile/test_b_exhaustion.py",
    "tests/integration/test_cgroups_v1.py",
    "tests/integration/test_killed_at_any_time.py",
    "tests/integration/test_limits.py",
    "tests/integration/test_many_at_once.py",
)
"""Files whose tests use all processors, or measure them, or need answers in time."""
MOST_TO_REPEAT = 5
"""More failures than that are no accident."""


def main(options: list[str]) -> int:
    """The status: 0 when every test of every lane passed."""
    if os.geteuid() != 0:  # a mount namespace is root's, and others run fewer of the tests
        return subprocess.run([*PYTEST, *FOLDERS, *options], check=False).returncode
    lanes: dict[str, list[str]] = {name: [] for name in ("ordinary user", *BESIDE, "alone")}
    for folder in FOLDERS:
        for path in sorted((REPOSITORY / folder).glob("test_*.py")):
            lanes[_lane(path)].append(str(path.relative_to(REPOSITORY)))
    with contextlib.ExitStack() as opened:
        cache = Path(opened.enter_context(tempfile.TemporaryDirectory(dir="/run")))
        caches = {name: ["-o", f"cache_dir={cache / name}"] for name in lanes if name != "alone"}
        in_memory = _can_be_in_memory()
        beside = []
        for name in BESIDE:
            said = opened.enter_context(tempfile.TemporaryFile("w+"))
            command = _command(lanes[name], [*options, *caches[name]], in_memory=in_memory)
            beside.append((subprocess.Popen(command, stdout=said, stderr=said), said))
        user = opened.enter_context(contextlib.contextmanager(ordinary_user.made)())
        os.environ[ordinary_user.PLACE] = str(user.place)
        of_his = [*options, *caches["ordinary user"]]
        statuses = [_run(lanes["ordinary user"], of_his, in_memory=in_memory)]
        for process, said in beside:
            statuses.append(process.wait())
            said.seek(0)
            print(said.read(), end="", flush=True)
        failed = [test for name in caches for test in failed_of(cache / name)]
        of_those_alone = _run(lanes["alone"], options)
        del os.environ[ordinary_user.PLACE]  # he goes now, and a test that is repeated makes him
    if set(statuses) <= {0, pytest.ExitCode.TESTS_FAILED} and 0 < len(failed) <= MOST_TO_REPEAT:
        print("Once more, alone, since they failed beside others:", *failed, sep="\n  ", flush=True)
        statuses = [_run(failed, options)]
    return max([*statuses, of_those_alone], key=abs)


def failed_of(cache: Path) -> list[str]:
    """What failed in the run of pytest that had this cache folder."""
    file = cache / "v/cache/lastfailed"  # of pytest's own plugin, not there when nothing failed
    return sorted(json.loads(file.read_text())) if file.exists() else []


def _lane(path: Path) -> str:
    name = str(path.relative_to(REPOSITORY))
    if name in ALONE:
        return "alone"
    if OF_THE_ORDINARY_USER.search(path.read_text()):
        return "ordinary user"
    return next(lane for lane, beginnings in BESIDE.items() if name.startswith(beginnings))


def _can_be_in_memory() -> bool:
    """Whether temporary folders may be a tmpfs: nothing that is needed lies there, and it fits.

    Layers and images have attributes of users, which tmpfs knows since Linux 6.6.
    """
    needed = (REPOSITORY, Path(sys.prefix).resolve(), Path(sys.executable).resolve())
    if any(path.is_relative_to(folder) for path in needed for folder in TEMPORARY_FOLDERS):
        return False
    try:
        with tempfile.NamedTemporaryFile(dir="/dev/shm") as tried:
            os.setxattr(tried.fileno(), "user.tried", b"1")
    except OSError:
        return False
    fields = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    available = next(int(words[1]) << 10 for words in fields if words[0] == "MemAvailable:")
    return available >= MEMORY_FOR_THEM


def _run(files: list[str], options: list[str], *, in_memory: bool = False) -> int:
    return subprocess.run(_command(files, options, in_memory=in_memory), check=False).returncode


def _command(files: list[str], options: list[str], *, in_memory: bool = False) -> list[str]:
    """The argv of one lane: pytest in a mount namespace of its own."""
    mounts = [f"mkdir -p {RUNTIME_FOLDER}", f"mount -t tmpfs -o mode=700 lane {RUNTIME_FOLDER}"]
    if in_memory:
        mounts += [f"mount -t tmpfs -o mode=1777 lane {folder}" for folder in TEMPORARY_FOLDERS]
    enter = ("/usr/bin/unshare", "--mount", "/bin/sh", "-c")
    return [*enter, " && ".join([*mounts, 'exec "$@"']), "lane", *PYTEST, *files, *options]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
