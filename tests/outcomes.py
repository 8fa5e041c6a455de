"""What became of each test, a line of JSON for each step of it: `pytest --outcomes FILE`.

The lines are written as the tests end, so that a run that is cut off has told what it did.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

import pytest

OF_THE_ORDINARY_USER = "[ordinary"
"""In the name of a case that root runs for the ordinary user."""


class Writer:
    """Appends to a file. It is opened for each line: tests close descriptors, and run for hours."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """What will be run, so that what was not is missed."""
        self._write({"collected": [item.nodeid.partition("::")[2] for item in session.items]})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A step of a test: setting up, the call, taking down."""
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        self._write(
            {
                "test": report.nodeid.partition("::")[2],
                "step": report.when,
                "outcome": report.outcome,
                "why": why.removeprefix("Skipped: "),
                "seconds": round(report.duration, 2),
            }
        )

    def _write(self, line: dict[str, object]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


class Outcome(NamedTuple):
    """What became of one test function: its cases."""

    passed: int = 0
    failed: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    """Why each was left out."""
    again: tuple[str, ...] = ()
    """Those that passed when they were run again, and not at first."""
    missing: tuple[str, ...] = ()
    """Those that failed by not coming to an end: the run was cut off."""


def read(path: Path, but: str = "") -> dict[str, Outcome]:
    """Name of a test function -> what its cases did, but those with `but` in their names.

    A case that came to no end, or was not even begun, has failed.
    """
    steps: dict[str, list[dict[str, str]]] = {}
    again: set[str] = set()
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            step = json.loads(line)
            for case in step.get("collected", ()):
                if any(each["outcome"] == "failed" for each in steps.get(case, ())):
                    again.add(case)
                steps[case] = []
            if "test" in step:
                steps.setdefault(step["test"], []).append(step)
    found: dict[str, Outcome] = {}
    for case, its in steps.items():
        if but and but in case:
            continue
        name = re.sub(r"\[.*", "", case, flags=re.DOTALL)
        known = found.get(name, Outcome())
        left_out = tuple(step["why"] for step in its if step["outcome"] == "skipped")
        ended = any(step["step"] == "teardown" for step in its)
        bad = not ended or any(step["outcome"] == "failed" for step in its)
        found[name] = Outcome(
            known.passed + (not bad and not left_out),
            known.failed + ((case,) if bad else ()),
            tuple(dict.fromkeys(known.skipped + left_out)),
            known.again + ((case,) if not (bad or left_out) and case in again else ()),
            known.missing + ((case,) if not ended else ()),
        )
    return found
