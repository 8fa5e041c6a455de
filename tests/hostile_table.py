"""Runs the corpus of attacks and prints what came of it: `make hostile [COLUMNS="root-v1 ..."]`.

A row is an entry of the corpus, or a fault of tests/faults.py (`f7`), a column who ran it on which
control groups: `root-v1` and `user-v1` on this machine, `root-v2` and `user-v2` in a machine of
user-mode Linux. A cell is the number of tests that passed, or of those that did not, which are
named below. What can't be judged in a column (`-`), and what is the same code there as in another
one (`same`), stands below the table with its reason. Both are counted apart: neither is a pass.
The status is 1 if a test failed, or was not run.

    python tests/hostile_table.py [--keep FOLDER [--again]] [COLUMN...]

With `--keep` the outcomes stay in that folder, and columns that were run into it before are shown
beside those that are run now, each with its own date. With `--again` only what failed in them is
run once more, for a machine that others use too; the table names what passed only then.
"""

from __future__ import annotations

import contextlib
import json
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "cgroup2"), str(HERE.parent)]

import corpus  # noqa: E402 - beside this file
import faults  # noqa: E402
import lanes  # noqa: E402
import machine  # noqa: E402
import ordinary_user  # noqa: E402
import outcomes  # noqa: E402
import races  # noqa: E402
from corpus import GROUPS  # noqa: E402
from outcomes import Outcome  # noqa: E402

from sandbox_kernel.runtime.cgroups import delegation, mounted  # noqa: E402

COLUMNS = ("root-v1", "user-v1", "root-v2", "user-v2")
SECONDS, SECONDS_IN_MACHINE = 1800.0, 3600.0
OF_MACHINE = mounted.Mounts(v1={}, v2=mounted.Mount("/sys/fs/cgroup", "/", read_only=False))
WITH_THE_ORDINARY_USER = (
    "tests/hostile/test_h_network.py",
    "tests/integration/test_ordinary_user_environment.py",
)
"""Files whose tests root starts for the ordinary user too, since it makes what is around them."""
QUIET = ("-q", "-p", "no:cacheprovider", "--tb=short")
ROOTS_ALONE = "looks at it with root's eyes: it has no test marked `everybody`"
ONLY_ROOT = {
    6: "only root mounts a file system of few inodes, or sets its own number of them",
    8: "only root mounts the poor file systems",
    10: "only root chooses the number of the next process",
    12: "only root sets the clock",
    21: "a traced program of a user can't use newuidmap, so it fails before that",
}
"""Faults that an ordinary user can't bring about: the reason."""
NOT_NEEDED = (
    ("", "/browser/", ("user-v1", "root-v2", "user-v2"), "the page is the same whoever runs it"),
    ("test_c_", "", ("root-v2", "user-v2"), "images know nothing of control groups"),
    ("test_d_", "", ("root-v2", "user-v2"), "registries know nothing of control groups"),
    ("test_registry", "", ("root-v2", "user-v2"), "registries know nothing of control groups"),
    ("test_e_", "", ("root-v2", "user-v2"), "but for entry 68 builds know nothing of them"),
    ("test_h_network", "", ("root-v2", "user-v2"), "its networks are rules outside of the groups"),
)
"""Which files are the same code in which columns as in one where they are run."""
DO_KNOW_OF_GROUPS = ("test_e68_", "test_99_")
"""Beginnings of tests in those files that are run all the same: steps of builds are containers."""
FAULTS_OF_MACHINE = "tests/cgroup2/inside/"
"""Where faults are brought about on v2; what they do elsewhere knows nothing of control groups."""


def not_needed(test: corpus.Test, column: str) -> str:
    """Why a test is not run in a column, though it could be; empty if it is."""
    if column.endswith("v2") and not test.entries and "/unit/" not in test.file:
        if not test.file.startswith(FAULTS_OF_MACHINE):
            return "it is no fault of control groups: those are brought about inside the machine"
        return ""
    if test.name.startswith(DO_KNOW_OF_GROUPS):
        return ""
    for name, folder, columns, why in NOT_NEEDED:
        if column in columns and name in Path(test.file).name and folder in test.file:
            return why
    return ""


def chosen(column: str) -> list[str]:
    """The tests of the corpus that are run in a column, as pytest names them."""
    found = [test for test in corpus.all_tests() if test.entries or test.faults]
    if column.endswith("v1"):
        found = [test for test in found if not test.file.startswith(FAULTS_OF_MACHINE)]
    return [f"{test.file}::{test.name}" for test in found if not not_needed(test, column)]


def failed(column: str, report: Path) -> list[str]:
    """The cases that failed in a column, as pytest names them."""
    cases = [case for one in outcome_of(column, report).values() for case in one.failed]
    file_of = {test.name: test.file for test in corpus.all_tests()}
    return [f"{file_of[case.partition('[')[0]]}::{case}" for case in cases]


def root_v1(report: Path, tests: list[str]) -> None:
    """On this machine, in a mount namespace of its own."""
    options = [*QUIET, f"--outcomes={report}"]
    subprocess.run(lanes._command(tests, options), check=False)


def user_v1(report: Path, tests: list[str]) -> None:
    """The ordinary user of the tests, with control groups of his own."""
    with contextlib.contextmanager(ordinary_user.made)() as user, user.control_groups():
        made = user.home / "outcomes-of-the-corpus"
        made.unlink(missing_ok=True)
        own = [test for test in tests if not test.startswith(WITH_THE_ORDINARY_USER)]
        words = ["python", "-m", "pytest", *own, *QUIET, "--with-groups", "--corpus"]
        words.append(f"--outcomes={made}")
        env = {races.VARIABLE: f"{races.seconds():g}"}
        try:
            if own:
                user.run(words, env=env, cwd=user.place, timeout=SECONDS, capture_output=False)
        finally:
            if made.exists():
                with report.open("ab") as file:
                    file.write(made.read_bytes())
                made.unlink()
    others = [test for test in tests if test.startswith(WITH_THE_ORDINARY_USER)]
    options = [*QUIET, "-k", outcomes.OF_THE_ORDINARY_USER, f"--outcomes={report}"]
    if others:
        subprocess.run(lanes._command(others, options), check=False)


def root_v2(report: Path, tests: list[str]) -> None:
    """In the machine with cgroup v2."""
    words = ["/usr/bin/env", f"{races.VARIABLE}={races.seconds():g}"]
    words += [sys.executable, "-B", "-m", "pytest", *tests, *QUIET, "--timeout=900"]
    _in_machine(shlex.join([*words, "--outcomes=/run/machine/report"]), report)


def user_v2(report: Path, tests: list[str]) -> None:
    """The ordinary user in that machine, to whom root hands over a subtree there."""
    with contextlib.contextmanager(ordinary_user.made)() as user:
        place = shlex.quote(str(user.place))
        home = "/tmp/home-of-user"
        *hand_over, put_in = delegation.commands(user.name, OF_MACHINE, systemd=False)
        lines = [
            f"mkdir -p {place} && mount -t hostfs -o {place} none {place}",
            *hand_over,
            f"echo $$ > {put_in.partition('> ')[2]}",  # this shell, which starts the tests
            f"mkdir -p {user.home} {home} && touch {home}/report /run/machine/report",
            f"chown -R {user.uid} {home} /run/machine/report",
            f"mount --bind /run/machine/report {home}/report",  # the folder there is root's alone
        ]
        words = [user.python, "-B", "-m", "pytest", *tests, *QUIET, "--timeout=900"]
        words += ["--with-groups", "--corpus", f"--outcomes={home}/report"]
        environment = ["/usr/bin/env", f"HOME={home}", "LANG=C.UTF-8"]
        environment += [f"PATH={user.place}/environment/bin:/usr/bin:/bin"]
        environment += ["SANDBOX_KERNEL_TEST_MACHINE=cgroup2"]
        environment += [f"{races.VARIABLE}={races.seconds():g}"]
        run = shlex.join(user.command([*environment, *words]))
        _in_machine("\n".join([*lines, f"cd {place}", run]), report)


def _in_machine(script: str, report: Path) -> None:
    outcome = machine.run(
        ["/bin/sh", "-c", script], seconds=SECONDS_IN_MACHINE, keep=("report",), memory="3G"
    )
    print(outcome.output)
    if outcome.status is None or not outcome.files["report"]:
        print(outcome.why)
    with report.open("ab") as file:
        file.write(outcome.files["report"])


RUN: Mapping[str, Callable[[Path, list[str]], None]] = {
    "root-v1": root_v1,
    "user-v1": user_v1,
    "root-v2": root_v2,
    "user-v2": user_v2,
}


def run(column: str, report: Path, tests: list[str]) -> None:
    """Run a column; its report says when, of which commit and on which machine."""
    commit = subprocess.run(
        ["git", "-C", str(HERE.parent), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    kernel = "Linux " + platform.release()
    if column.endswith("v2"):
        kernel = machine.run(["uname", "-r"]).output.strip() + " of user-mode Linux on " + kernel
    python = platform.python_version()
    begin = time.monotonic()
    about = [time.strftime("%Y-%m-%d"), commit, f"Python {python}", kernel]
    try:
        RUN[column](report, tests)
    finally:
        about.append(f"{time.monotonic() - begin:.0f} s")
        with report.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"about": ", ".join(filter(None, about))}) + "\n")


def about(report: Path) -> list[str]:
    """When and where the column of a report was run, and how long that took; each time."""
    lines = report.read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["about"] for line in lines if line.startswith('{"about"')]


def outcome_of(column: str, report: Path) -> dict[str, Outcome]:
    """What a column's tests did."""
    but = "" if column.startswith("user") else outcomes.OF_THE_ORDINARY_USER
    return outcomes.read(report, but=but)


class Cell(NamedTuple):
    """One cell of the table: what it shows, and why it, or a part of it, is not judged."""

    text: str
    failed: bool = False
    reason: str = ""
    in_part: tuple[str, ...] = ()

    @property
    def kind(self) -> int:
        """Passed, failed, not judged, not needed."""
        return 1 if self.failed else 0 if not self.reason else 3 if self.text == SAME else 2


SAME = "same"
KINDS = ("passed", "failed", "not judged", "not needed")


def cell(
    tests: list[corpus.Test], column: str, found: Mapping[str, Outcome], fault: int = 0
) -> Cell:
    """What an entry's tests did in a column."""
    ran = [found[test.name] for test in tests if test.name in found]
    failed = [name for one in ran for name in one.failed]
    if failed:
        missing = sum(len(one.missing) for one in ran)
        cut_off = missing == len(failed)
        return Cell("NOT RUN" if cut_off else f"FAILED {len(failed) - missing}", failed=True)
    passed = sum(one.passed for one in ran)
    skipped = [why for one in ran for why in one.skipped]
    if passed:
        return Cell(f"ok {passed}", in_part=tuple(skipped))
    if skipped:
        return Cell("-", reason=skipped[0])
    here = [test for test in tests if column.endswith("v2") or not _is_of_machine(test)]
    reasons = [not_needed(test, column) for test in here]
    if all(reasons) and reasons:
        return Cell(SAME, reason=reasons[0])
    if not here:
        return Cell("-", reason="it is judged in the machine with v2, which has a clock of its own")
    if column.startswith("user"):
        return Cell("-", reason=ONLY_ROOT.get(fault, ROOTS_ALONE))
    return Cell("NOT RUN", failed=True)


def _is_of_machine(test: corpus.Test) -> bool:
    return test.file.startswith(FAULTS_OF_MACHINE)


def table(columns: list[str], found: Mapping[str, Mapping[str, Outcome]]) -> tuple[str, bool]:
    """The lines to print, and whether something failed."""
    by_entry = corpus.by_entry()
    lines = ["", "entry  " + "".join(name.ljust(12) for name in columns)]
    reasons: dict[tuple[str, str], dict[str, None]] = {}
    counts = {name: [0] * len(KINDS) for name in columns}
    rows = {group: [(str(n), by_entry[n], 0) for n in span] for group, span in GROUPS.items()}
    by_fault = corpus.by_fault()
    rows["Faults to survive"] = [(f"f{number}", by_fault[number], number) for number in by_fault]
    for group, entries in rows.items():
        lines.append(group)
        for entry, tests, fault in entries:
            cells = [cell(tests, name, found[name], fault) for name in columns]
            for name, one in zip(columns, cells, strict=True):
                counts[name][one.kind] += 1
                for why in (one.reason, *one.in_part):
                    if why:
                        part = "in part " if one.in_part else ""
                        kind = KINDS[one.kind if one.reason else 2]
                        at = reasons.setdefault((f"{part}{kind} in {name}", why), {})
                        at[entry] = None  # once, in this order
            lines.append(f"{entry:>5}  " + "".join(one.text.ljust(12) for one in cells).rstrip())
    for name, counted in counts.items():
        named = [f"{count} {kind}" for count, kind in zip(counted, KINDS, strict=True)]
        lines.append(f"{name}: {', '.join(named)}")
    for (where, reason), named_there in reasons.items():
        lines.append(f"{where}: {', '.join(named_there)}: {reason}")
    lines += [f"judged nowhere: {what}: {why}" for what, why in faults.NOT_HAD.items()]
    for name in columns:
        for one in found[name].values():
            lines += [
                f"{'not run' if case in one.missing else 'failed'} in {name}: {case}"
                for case in one.failed
            ]
    for name in columns:
        for one in found[name].values():
            lines += [f"passed in {name} when it was run again: {case}" for case in one.again]
    return "\n".join(lines), any(counted[1] for counted in counts.values())


def main(words: list[str]) -> int:
    """Runs the columns one after another and prints the table."""
    again = "--again" in words
    words = [word for word in words if word != "--again"]
    kept = Path(words[1]).resolve() if words[:1] == ["--keep"] else None
    columns = (words[2:] if kept else words) or list(COLUMNS)
    unknown = [name for name in columns if name not in RUN]
    if unknown:
        print(f"{', '.join(unknown)}: no such column: {', '.join(COLUMNS)}")
        return 2
    with _folder() if kept is None else contextlib.nullcontext(kept) as folder:
        folder.mkdir(exist_ok=True)
        for name in columns:
            if not again:
                (folder / name).unlink(missing_ok=True)
            tests = failed(name, folder / name) if again else chosen(name)
            if tests:
                run(name, folder / name, tests)
        shown = [name for name in COLUMNS if (folder / name).exists()]
        text, bad = table(shown, {name: outcome_of(name, folder / name) for name in shown})
        print(text)
        for name in shown:
            print(f"{name}: {'; again: '.join(about(folder / name))}")
    return int(bad)


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sandbox-kernel-hostile-", dir="/var/tmp") as name:
        yield Path(name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
