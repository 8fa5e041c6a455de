"""The numbered entries of the hostile corpus, and which tests are theirs: by numbers in names.

`test_b26_...`, `test_76_...` and `test_72_73_75_...` are of entries 26, 76, and 72, 73 and 75.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from faults import FAULTS

HERE = Path(__file__).resolve().parent
FOLDERS = ("hostile", "integration", "unit", "browser", "cgroup2/inside")
GROUPS = {
    "A, escape and sight of the host": range(1, 26),
    "B, exhaustion": range(26, 43),
    "C, images, layers, documents": range(43, 57),
    "D, registries": range(57, 63),
    "E, Containerfiles and contexts": range(63, 70),
    "F, Jupyter traffic and outputs": range(70, 82),
    "G, settings, notebooks and magics": range(82, 89),
    "H, network": range(89, 100),
}
_NUMBERED = re.compile(r"test_(?:[a-h])?(\d\d(?:_\d\d)*)_")


class Test(NamedTuple):
    """A test function, where it stands, and what it is marked as."""

    file: str
    name: str
    flaws: tuple[str, ...]
    faults: tuple[int, ...]

    @property
    def entries(self) -> tuple[int, ...]:
        """The numbers of the corpus in its name."""
        found = _NUMBERED.match(self.name)
        return tuple(int(number) for number in found[1].split("_")) if found else ()


def all_tests() -> Iterator[Test]:
    """All test functions of the folders."""
    for folder in FOLDERS:
        for path in sorted((HERE / folder).glob("test_*.py")):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                    yield Test(
                        str(path.relative_to(HERE.parent)),
                        node.name,
                        tuple(map(str, _marked(node, "cve"))),
                        tuple(int(number) for number in _marked(node, "fault")),
                    )


def _marked(node: ast.FunctionDef, name: str) -> Iterator[str | int]:
    """What the marks of that name say."""
    for mark in node.decorator_list:
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == f"pytest.mark.{name}":
            yield from (ast.literal_eval(word) for word in mark.args)


def by_fault() -> Mapping[int, list[Test]]:
    """Number of a fault -> the tests that bring it about."""
    found: dict[int, list[Test]] = {number: [] for number in FAULTS}
    for test in all_tests():
        for number in test.faults:
            found.setdefault(number, []).append(test)
    return found


def by_entry() -> Mapping[int, list[Test]]:
    """Entry -> its tests."""
    found: dict[int, list[Test]] = {number: [] for span in GROUPS.values() for number in span}
    for test in all_tests():
        for number in test.entries:
            found.setdefault(number, []).append(test)
    return found
