"""Proof that the tests of the corpus can fail: `make hostile WEAKEN=all`, or names of walls.

    python tests/weakened.py [WALL...]

For each wall of `tests/walls.py` the source is copied to a folder of its own, changed there by some
words so that the wall is weak, and the tests that are named beside it are run against the copy: at
least one of each entry has to go red. First they all have to be green with the copy as it is.

The switch is the changed text itself. The package has none: no variable, setting or option of it
makes a wall weaker than it says, so there is nothing that a user could switch on by mistake.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import corpus  # noqa: E402 - beside this file
import lanes  # noqa: E402
import outcomes  # noqa: E402
from walls import WALLS, Wall  # noqa: E402

COPIED = ("sandbox_kernel", "magics", "kernelspec", "notebooks", "docs", "tests")
SECONDS = 900.0


class Copy:
    """A copy of the checkout, and what the tests that are run in it may write to."""

    def __init__(self, folder: Path) -> None:
        self.place = folder / "checkout"
        self._folder = folder
        ignored = shutil.ignore_patterns("__pycache__", "images")
        for name in COPIED:
            shutil.copytree(HERE.parent / name, self.place / name, ignore=ignored)
        for name in ("pyproject.toml", "README.md", "README.zh-CN.md"):
            shutil.copy(HERE.parent / name, self.place)

    @contextlib.contextmanager
    def changed(self, wall: Wall) -> Iterator[None]:
        """The copy with a weak wall; as it was afterwards."""
        before = {change.file: (self.place / change.file).read_text() for change in wall.changes}
        try:
            for change in wall.changes:
                path = self.place / change.file
                text = path.read_text()
                if text.count(change.old) != 1:
                    raise ValueError(f"{wall.name}: not once in {change.file}: {change.old!r}")
                self._write(path, text.replace(change.old, change.new))
            yield
        finally:
            for name, text in before.items():
                self._write(self.place / name, text)

    @staticmethod
    def _write(path: Path, text: str) -> None:
        path.write_text(text)
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):
            compiled.unlink()  # it goes by seconds and size, and this may be the same second

    def run(self, tests: Sequence[corpus.Test]) -> dict[str, outcomes.Outcome]:
        """What became of tests. Nothing that they keep is kept for anybody else."""
        report = self._folder / "outcomes"
        report.unlink(missing_ok=True)
        words = [f"{test.file}::{test.name}" for test in tests]
        words += ["-q", "-p", "no:cacheprovider", "--tb=line", "--timeout=120"]
        words += ["-k", f"not {outcomes.OF_THE_ORDINARY_USER}"]
        home = self._folder / "home"  # filters are kept by what they say, not by who compiled them
        home.mkdir(exist_ok=True)
        environment = {n: v for n, v in os.environ.items() if not n.startswith("XDG_")}
        environment |= {"PYTHONPATH": str(self.place), "HOME": str(home)}
        environment.setdefault("UV", str(HERE.parent / ".venv-uv/bin/uv"))
        done = subprocess.run(
            lanes._command(words, [f"--outcomes={report}"]),
            cwd=self.place,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        found = outcomes.read(report)
        if "SHOW" in os.environ or len(found) < len({test.name for test in tests}):
            print(done.stdout[-6000:], done.stderr[-3000:])
        return found


def tests_of(walls: Sequence[Wall]) -> list[corpus.Test]:
    """The tests that are named beside walls, each once."""
    names = {name for wall in walls for name in wall.tests}
    return [test for test in corpus.all_tests() if test.name in names]


def entries(walls: Sequence[Wall]) -> set[int]:
    """The entries whose tests are named beside walls."""
    return {entry for test in tests_of(walls) for entry in test.entries}


def judge(wall: Wall, found: dict[str, outcomes.Outcome]) -> tuple[bool, str]:
    """Whether each entry of a wall has a test that went red, and a line that says which."""
    red = [name for name in wall.tests if name in found and found[name].failed]
    proved = {number for test in tests_of([wall]) if test.name in red for number in test.entries}
    missing = entries([wall]) - proved
    numbers = ", ".join(map(str, sorted(proved))) or "none"
    line = f"{wall.name:28} {numbers:16} {wall.weak}"
    if missing:
        line += f"\n{'':28} NOT RED: {', '.join(n for n in wall.tests if n not in red)}"
    return not missing, line


def main(names: Sequence[str]) -> int:
    """The status: 0 when every wall was missed by the tests that guard it."""
    known = {wall.name: wall for wall in WALLS}
    unknown = [name for name in names if name not in known and name != "all"]
    if unknown:
        print(f"{', '.join(unknown)}: no such wall: all, {', '.join(known)}")
        return 2
    chosen = [known[name] for name in names] if names and "all" not in names else list(WALLS)
    if os.geteuid() != 0:
        print("the tests of the corpus need root: run as root")
        return 2
    good = True
    with _folder() as folder:
        copy = Copy(folder)
        green = copy.run(tests_of(chosen))
        for outcome in green.values():
            if outcome.failed:
                good = False
                print(f"FAILED with all walls whole: {', '.join(outcome.failed)}")
        print(f"green with all walls whole: {sum(not o.failed for o in green.values())} tests\n")
        print(f"{'wall':28} {'entries red':16} what is weak", flush=True)
        for wall in chosen:
            with copy.changed(wall):
                fine, line = judge(wall, copy.run(tests_of([wall])))
            good &= fine
            print(line, flush=True)
    total = {number for span in corpus.GROUPS.values() for number in span}
    print(f"\n{len(chosen)} walls, {len(entries(chosen))} of {len(total)} entries", flush=True)
    return int(not good)


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sandbox-kernel-weakened-", dir="/var/tmp") as name:
        Path(name).chmod(0o755)  # an ordinary user runs some of it
        yield Path(name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
