"""Runs the corpus of attacks and prints what came of it: `make hostile [COLUMNS="root-v1 ..."]`.

A row is an entry of the corpus, a column who ran it on which control groups: `root-v1` and
`user-v1` on this machine, `root-v2` and `user-v2` in a machine of user-mode Linux. A cell is the
number of tests that passed, or the name of one that did not. What can't be judged in a column
stands below the table with its reason, and is counted apart: it is never a pass. The status is 1 if
a test failed.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as xml
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "cgroup2"), str(HERE.parent)]

import corpus  # noqa: E402 - beside this file
import lanes  # noqa: E402
import machine  # noqa: E402
import ordinary_user  # noqa: E402

from sandbox_kernel.runtime.cgroups import delegation  # noqa: E402

COLUMNS = ("root-v1", "user-v1", "root-v2", "user-v2")
SECONDS = 1800.0
QUIET = ("-q", "-p", "no:cacheprovider", "--tb=short")
ROOTS_ALONE = "looks at it with root's eyes: it has no test marked `everybody`"
LEFT_OUT = (
    ("", "/unit/", ("user-v1", "root-v2", "user-v2"), "no part of it depends on who runs it"),
    ("", "/browser/", ("user-v1", "root-v2", "user-v2"), "the page is the same whoever runs it"),
    ("test_c_", "", ("root-v2", "user-v2"), "images know nothing of control groups"),
    ("test_d_", "", ("root-v2", "user-v2"), "registries know nothing of control groups"),
    ("test_registry", "", ("root-v2", "user-v2"), "registries know nothing of control groups"),
    ("test_e_", "", ("root-v2", "user-v2"), "builds know nothing of control groups"),
    ("test_h_network", "", ("root-v2", "user-v2"), "its networks are rules outside of the groups"),
)
"""Which files are not run in which columns, and why."""


class Outcome(NamedTuple):
    """What became of one test function in one column."""

    passed: int
    failed: tuple[str, ...]
    skipped: tuple[str, ...]


def left_out(file: str, column: str) -> str:
    """Why a file is not run in a column; empty if it is."""
    for name, folder, columns, why in LEFT_OUT:
        if column in columns and name in Path(file).name and folder in file:
            return why
    return ""


def files(column: str) -> list[str]:
    """The files with tests of the corpus that are run in a column."""
    found = sorted({test.file for test in corpus.all_tests() if test.entries})
    return [file for file in found if not left_out(file, column)]


def root_v1(report: Path) -> None:
    """On this machine, in a mount namespace of its own."""
    subprocess.run(lanes._command(files("root-v1"), [*QUIET, f"--junitxml={report}"]), check=False)


def user_v1(report: Path) -> None:
    """The ordinary user of the tests, with control groups of his own."""
    with contextlib.contextmanager(ordinary_user.made)() as user, user.control_groups():
        made = user.home / "report-of-the-corpus"
        words = [*files("user-v1"), *QUIET, f"--junitxml={made}"]
        words = ["python", "-m", "pytest", *words]
        print(user.run(words, cwd=user.place, timeout=SECONDS).stdout)
        if made.exists():
            report.write_bytes(made.read_bytes())
            made.unlink()


def root_v2(report: Path) -> None:
    """In the machine with cgroup v2."""
    words = [sys.executable, "-B", "-m", "pytest", *files("root-v2"), *QUIET, "--timeout=300"]
    _in_machine(shlex.join([*words, "--junitxml=/run/machine/report"]), report)


def user_v2(report: Path) -> None:
    """The ordinary user in that machine, to whom root hands over a subtree there."""
    with contextlib.contextmanager(ordinary_user.made)() as user:
        place = shlex.quote(str(user.place))
        lines = [
            f"mkdir -p {place} && mount -t hostfs -o {place} none {place}",
            *delegation.commands(user.name, systemd=False),
            f"mkdir -p {user.home} /tmp/home-of-user && chown {user.uid} /tmp/home-of-user",
        ]
        words = [user.python, "-B", "-m", "pytest", *files("user-v2"), *QUIET, "--timeout=300"]
        words += ["--junitxml=/tmp/home-of-user/report"]
        environment = ["/usr/bin/env", "HOME=/tmp/home-of-user", "LANG=C.UTF-8"]
        environment += [f"PATH={user.place}/environment/bin:/usr/bin:/bin"]
        environment += ["SANDBOX_KERNEL_TEST_MACHINE=cgroup2"]
        run = shlex.join(user.command([*environment, *words]))
        script = "\n".join([*lines, f"cd {place}", f"{run}; status=$?"])
        _in_machine(f"{script}\ncp /tmp/home-of-user/report /run/machine/report", report)


def _in_machine(script: str, report: Path) -> None:
    outcome = machine.run(["/bin/sh", "-c", script], seconds=SECONDS, keep=("report",))
    print(outcome.output)
    if not outcome.files["report"]:
        print(outcome.why)
    report.write_bytes(outcome.files["report"])


RUN: Mapping[str, Callable[[Path], None]] = {
    "root-v1": root_v1,
    "user-v1": user_v1,
    "root-v2": root_v2,
    "user-v2": user_v2,
}


def outcomes(report: Path) -> dict[str, Outcome]:
    """Name of a test function -> what its cases did."""
    found: dict[str, Outcome] = {}
    if not report.exists() or not report.stat().st_size:
        return found
    for case in xml.parse(report).iter("testcase"):
        name = re.sub(r"\[.*", "", case.get("name", ""), flags=re.DOTALL)
        known = found.get(name, Outcome(0, (), ()))
        bad = case.find("failure") is not None or case.find("error") is not None
        left = case.find("skipped")
        found[name] = Outcome(
            known.passed + (not bad and left is None),
            known.failed + ((case.get("name", name),) if bad else ()),
            known.skipped + ((left.get("message", ""),) if left is not None else ()),
        )
    return found


class Cell(NamedTuple):
    """One cell of the table: what it shows, and why it is not judged if it isn't."""

    text: str
    failed: bool = False
    reason: str = ""


def cell(tests: list[corpus.Test], column: str, found: Mapping[str, Outcome]) -> Cell:
    """What an entry's tests did in a column."""
    ran = [found[test.name] for test in tests if test.name in found]
    failed = [name for one in ran for name in one.failed]
    if failed:
        return Cell(f"FAILED {failed[0]}", failed=True)
    passed = sum(one.passed for one in ran)
    if passed:
        return Cell(f"ok {passed}")
    skipped = [why for one in ran for why in one.skipped]
    if skipped:
        return Cell("-", reason=skipped[0])
    reasons = [left_out(test.file, column) for test in tests]
    if all(reasons):
        return Cell("-", reason=reasons[0])
    if column.startswith("user"):
        return Cell("-", reason=ROOTS_ALONE)
    return Cell("NOT RUN", failed=True)


def table(columns: list[str], found: Mapping[str, Mapping[str, Outcome]]) -> tuple[str, bool]:
    """The lines to print, and whether something failed."""
    by_entry = corpus.by_entry()
    lines = ["", "entry  " + "".join(name.ljust(12) for name in columns)]
    reasons: dict[tuple[str, str], list[int]] = {}
    counts = {name: [0, 0, 0] for name in columns}  # passed, failed, not judged
    for group, entries in corpus.GROUPS.items():
        lines.append(group)
        for entry in entries:
            cells = [cell(by_entry[entry], name, found[name]) for name in columns]
            for name, one in zip(columns, cells, strict=True):
                counts[name][1 if one.failed else 2 if one.reason else 0] += 1
                if one.reason:
                    reasons.setdefault((name, one.reason), []).append(entry)
            lines.append(f"{entry:>5}  " + "".join(one.text.ljust(12) for one in cells).rstrip())
    lines += [
        f"{name}: {p} passed, {f} failed, {n} not judged" for name, (p, f, n) in counts.items()
    ]
    for (name, reason), entries in reasons.items():
        lines.append(f"not judged in {name}: {', '.join(map(str, entries))}: {reason}")
    return "\n".join(lines), any(failed for _, failed, _ in counts.values())


def main(columns: list[str]) -> int:
    """Runs the columns one after another and prints the table."""
    unknown = [name for name in columns if name not in RUN]
    if unknown:
        print(f"{', '.join(unknown)}: no such column: {', '.join(COLUMNS)}")
        return 2
    with _folder() as folder:
        found = {}
        for name in columns or COLUMNS:
            report = folder / name
            RUN[name](report)
            found[name] = outcomes(report)
        text, failed = table(list(columns or COLUMNS), found)
    print(text)
    return int(failed)


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sandbox-kernel-hostile-", dir="/var/tmp") as name:
        yield Path(name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
