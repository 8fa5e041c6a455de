"""Patterns of paths: `*`, `?`, `[a-z]` in a name, `**` for any number of folders.

Source: Go's path/filepath.Match, which the Dockerfile reference names. Matching takes at most the
length of the pattern times that of the path: there is no backtracking.
"""

from __future__ import annotations

TYPE_CHECKING = False  # not from `typing`, which is heavy for the launcher
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn, Protocol

    class Where(Protocol):
        """Where a pattern was written; `source.Place` is one."""

        def fail(self, why: str) -> NoReturn:
            """Raises the error of that place."""

    _Ranges = tuple[tuple[str, str], ...]
    _Item = tuple[str, str | tuple[bool, _Ranges] | None]

_ANY = "**"


class Glob:
    """One pattern, compiled. Raises ContainerfileError for a class that is not closed."""

    def __init__(self, pattern: str, place: Where) -> None:
        self.pattern = pattern
        parts = [part for part in pattern.split("/") if part]
        self._parts = [part if part == _ANY else _name(part, place) for part in parts]

    @property
    def is_plain(self) -> bool:
        """Whether it is a path with nothing special in it."""
        return not any(char in self.pattern for char in "*?[\\")

    def matches(self, path: Sequence[str]) -> bool:
        """Whether it meets a whole path, given as its names."""
        return self.is_met(self.walk(path))

    def walk(self, path: Sequence[str]) -> frozenset[int]:
        """The states after these names; empty when nothing below can be met any more."""
        states = self.start
        for name in path:
            states = self.step(states, name)
            if not states:
                break
        return states

    @property
    def start(self) -> frozenset[int]:
        return self._closed({0})

    def step(self, states: frozenset[int], name: str) -> frozenset[int]:
        """The states one folder deeper."""
        after: set[int] = set()
        for state in states:
            if state == len(self._parts):
                continue
            part = self._parts[state]
            if isinstance(part, str):
                after.add(state)
            elif _meets(part, name):
                after.add(state + 1)
        return self._closed(after)

    def is_met(self, states: frozenset[int]) -> bool:
        """Whether these states are the end of the pattern."""
        return len(self._parts) in states

    def _closed(self, states: set[int]) -> frozenset[int]:
        todo = list(states)
        while todo:
            state = todo.pop()
            inner = state < len(self._parts) and isinstance(self._parts[state], str)
            if inner and state + 1 not in states:
                states.add(state + 1)
                todo.append(state + 1)
        return frozenset(states)


def _name(part: str, place: Where) -> list[_Item]:
    """The pattern of one name as items: a character, any one, any number, a class."""
    items: list[_Item] = []
    index = 0
    while index < len(part):
        char = part[index]
        if char == "*":
            if not items or items[-1] != ("any", None):
                items.append(("any", None))
        elif char == "?":
            items.append(("one", None))
        elif char == "\\" and index + 1 < len(part):
            index += 1
            items.append(("char", part[index]))
        elif char == "[":
            ranges, index = _class(part, index, place)
            items.append(("class", ranges))
        else:
            items.append(("char", char))
        index += 1
    return items


def _class(
    part: str, start: int, place: Where
) -> tuple[tuple[bool, tuple[tuple[str, str], ...]], int]:
    """A class in brackets: whether it is negated, its ranges; and where it closes."""
    index = start + 1
    negated = part[index : index + 1] in ("^", "!")
    index += negated
    ranges: list[tuple[str, str]] = []
    while index < len(part) and (part[index] != "]" or not ranges):
        low, index = _of_class(part, index)
        high = low
        if part[index : index + 1] == "-" and part[index + 1 : index + 2] not in ("", "]"):
            high, index = _of_class(part, index + 1)
        ranges.append((low, high))
    if index >= len(part):
        place.fail(
            f"the pattern `{part[:80]}` has a `[` that is not closed: write \\[ for a bracket"
        )
    return (negated, tuple(ranges)), index


def _of_class(part: str, index: int) -> tuple[str, int]:
    if part[index] == "\\" and index + 1 < len(part):
        return part[index + 1], index + 2
    return part[index], index + 1


def _meets(items: list[_Item], name: str) -> bool:
    """Greedy with one point to return to, the last `*`: enough for names, and never exponential."""
    item = at = 0
    star = begin = -1
    while at < len(name):
        if item < len(items) and items[item][0] == "any":
            star, begin = item, at
            item += 1
        elif item < len(items) and _is_one(items[item], name[at]):
            item += 1
            at += 1
        elif star >= 0:
            begin += 1
            item, at = star + 1, begin
        else:
            return False
    return all(kind == "any" for kind, _ in items[item:])


def _is_one(item: _Item, char: str) -> bool:
    kind, value = item
    if kind == "char":
        return value == char
    if isinstance(value, tuple):
        negated, ranges = value
        return negated != any(low <= char <= high for low, high in ranges)
    return kind == "one"
