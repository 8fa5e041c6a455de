"""Promises about `make hostile WEAKEN=...`: what is said there of the source still is in it."""

from __future__ import annotations

from pathlib import Path

import corpus
import pytest
from walls import NOT_WEAKENED, WALLS, Wall

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("wall", WALLS, ids=[wall.name for wall in WALLS])
def test_each_change_finds_its_text_once(wall: Wall) -> None:
    text: dict[str, str] = {}
    for change in wall.changes:
        found = text.setdefault(change.file, (REPOSITORY / change.file).read_text())
        assert found.count(change.old) == 1, change.old
        text[change.file] = found.replace(change.old, change.new)
        compile(text[change.file], change.file, "exec")


def test_each_entry_has_a_weak_wall_or_a_reason_why_not() -> None:
    tests = {test.name: test for test in corpus.all_tests()}
    named = {name for wall in WALLS for name in wall.tests}
    assert named <= set(tests)
    proved = {entry for name in named for entry in tests[name].entries}
    everything = {number for span in corpus.GROUPS.values() for number in span}
    assert proved | set(NOT_WEAKENED) == everything
    assert proved & set(NOT_WEAKENED) == set()


def test_the_package_has_no_switch_for_a_weak_wall() -> None:
    for folder in ("sandbox_kernel", "magics"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            assert "weaken" not in path.read_text().lower(), path
