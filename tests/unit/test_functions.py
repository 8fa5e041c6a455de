"""A function goes in by its source alone; what it would lack inside is named before that."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sandbox_kernel import functions
from sandbox_kernel.errors import InvalidOption

FACTOR = 3


def executed(function: Callable[..., Any], *positional: object, **named: object) -> Any:
    """What the code of the call leaves as `found`, in a namespace that has only the values."""
    values = {f"value_{number}": value for number, value in enumerate(positional)}
    made = functions.source_of(function, returned="found", positional=values, named=named)
    namespace: dict[str, Any] = {**values, **named}
    exec(compile(made.code, made.name, "exec", dont_inherit=True), namespace)
    return namespace["found"]


def scaled(values: np.ndarray, *, by: int = 2) -> list[float]:
    import math

    class Point:
        __slots__ = ("x",)
        size: np.float64

    def inner(value: float) -> float:
        nonlocal by
        return math.floor(value) * by

    assert Point.__name__
    return [inner(value) for value in values]


def factorial(number: int) -> int:
    return 1 if number < 2 else number * factorial(number - 1)


def number(number: int) -> int:
    return number


def test_a_function_that_uses_only_its_arguments_is_called_with_them() -> None:
    assert executed(scaled, [1.5, 2.5], by=10) == [10, 20]
    assert executed(factorial, 5) == 120
    assert executed(number, number=4) == 4


def test_strings_of_an_indented_function_stay_as_they_are() -> None:
    def text() -> str:
        return """
    four
none"""

    assert executed(text) == text()


def _uses_a_global() -> int:
    return FACTOR


def _uses_a_module(values: list[int]) -> Any:
    return np.sum(values)


def _default_of_outside(value: int = FACTOR) -> int:
    return value


@functools.cache
def _decorated() -> int:
    return 1


def _closure() -> Callable[[], int]:
    kept = 1

    def inner() -> int:
        return kept

    return inner


def _from_nowhere() -> Any:
    namespace: dict[str, Any] = {}
    exec("def made(): return 1", namespace)
    return namespace["made"]


def test_a_function_whose_file_was_changed_is_not_taken_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "edited_meanwhile.py"
    file.write_text("def first():\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    first = importlib.import_module(file.stem).first
    assert "return 1" in functions.source_of(first, returned="found").code

    for text in ("def second():\n    return 2\n", "    return 1\n", "'''\n" * 3):
        file.write_text(text)
        with pytest.raises(InvalidOption, match=f"line 1 of {file} stands something else"):
            functions.source_of(first, returned="found")


@pytest.mark.parametrize(
    ("function", "needle"),
    [
        (_uses_a_global, "`FACTOR` would stay outside"),
        (_uses_a_module, r"`np` .*import modules inside"),
        (_default_of_outside, "`FACTOR`"),
        (_closure(), "`kept`"),
        (_decorated.__wrapped__, "@functools.cache"),
        (_decorated, "`def`"),
        (lambda: 1, "with a name"),
        (len, "`def`"),
        ("x".join, "`def`"),
        (_from_nowhere(), "whose source is in a file"),
    ],
)
def test_what_a_function_would_lack_inside_is_named(function: Any, needle: str) -> None:
    with pytest.raises(InvalidOption, match=needle):
        functions.source_of(function, returned="found")


def test_arguments_that_do_not_fit_are_refused_with_the_signature() -> None:
    with pytest.raises(InvalidOption, match=r"`factorial\(number.*missing"):
        functions.source_of(factorial, returned="found")


def test_lines_are_those_of_the_file() -> None:
    made = functions.source_of(factorial, returned="found", positional=["n"])
    definition = made.code.split("\n").index("def factorial(number: int) -> int:")

    assert made.first_line + definition == factorial.__code__.co_firstlineno
