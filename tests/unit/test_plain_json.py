"""What is read and written by the C half of `json` is what `json` itself reads and writes."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from sandbox_kernel import plain_json

VALUES = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats(allow_nan=False) | some.text(),
    lambda inner: some.lists(inner) | some.dictionaries(some.text(), inner),
)


@given(VALUES)
def test_a_value_crosses_as_by_json(value: object) -> None:
    assert plain_json.written(value) == json.dumps(value)
    assert plain_json.written(value, compact=True) == json.dumps(value, separators=(",", ":"))
    assert plain_json.read(f" \n{json.dumps(value)}\t") == value
    assert plain_json.read(json.dumps(value, ensure_ascii=False, indent=1).encode()) == value


@pytest.mark.parametrize(
    "text",
    ["", " ", "{", "1 2", "[1,]", '"\x01"', "nul", "\ufeff{}", '{"a": 1}x', b"\xff", b"\x00{",
     "[1]".encode("utf-16"), "[1]".encode("utf-32"), b"\xef\xbb\xbf[1]", b'"\xed\xa0\x80"',
     b"[1]\x00", "[" * 100_000, "\u00a0[1]"],
)  # fmt: skip
def test_what_is_odd_is_read_or_refused_as_by_json(text: str | bytes) -> None:
    assert _outcome(plain_json.read, text) == _outcome(json.loads, text)


@pytest.mark.parametrize("value", [object(), {(1, 2): 3}, {1, 2}, {"a": b"bytes"}])
def test_what_is_no_json_is_refused_as_by_json(value: object) -> None:
    assert _outcome(plain_json.written, value) == _outcome(json.dumps, value)


def test_what_holds_itself_is_refused() -> None:
    ring: list[object] = []
    ring.append(ring)
    with pytest.raises(ValueError, match="Circular"):
        plain_json.written(ring)


def test_numbers_that_are_none() -> None:
    assert plain_json.read("[Infinity, -Infinity]") == [math.inf, -math.inf]
    assert math.isnan(plain_json.read("NaN"))


def test_it_is_light() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from sandbox_kernel import plain_json; "
        "plain_json.read(plain_json.written({})); print({'json', 're', 'enum'} & set(sys.modules))"
    )
    root = plain_json.__file__.rpartition("/sandbox_kernel/")[0]
    argv = [sys.executable, "-I", "-S", "-c", code, root]
    assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout == "set()\n"


def _outcome(call: Callable[[Any], Any], value: Any) -> Any:
    try:
        return call(value)
    except (ValueError, TypeError, RecursionError) as error:
        return type(error), str(error)
