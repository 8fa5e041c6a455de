"""Promises about the proof that tests of the corpus can fail (`make hostile WEAKEN=all`: all)."""

from __future__ import annotations

import pytest
import weakened


def test_tests_miss_a_wall_that_is_weak(capsys: pytest.CaptureFixture[str]) -> None:
    assert weakened.main(["signatures"]) == 0

    said = capsys.readouterr().out
    assert "1 walls, 2 of 99 entries" in said
    assert "NOT RED" not in said


def test_what_is_no_wall_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert weakened.main(["nothing"]) == 2
    assert "nothing: no such wall" in capsys.readouterr().out
