"""Patterns for names of files, as a shell has them: `*` and `?` within a name, `**` for folders.

A name that begins with a dot is met only by a pattern whose part begins with one. All patterns are
followed at once while a tree is walked, so no folder is entered that none of them leads into, and
none takes longer than its length.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    States = frozenset[tuple[int, int]]
    """Which patterns are met so far: number of the pattern, how many parts of it."""


class Patterns:
    """Some patterns, each relative, its parts divided by `/`."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._parts = [text.split("/") for text in texts]
        self.start: States = self._closed({(which, 0) for which in range(len(self._parts))})

    def step(self, states: States, name: str) -> States:
        """What is met one name deeper; nothing when no pattern leads there."""
        found = set()
        for which, at in states:
            if at == len(self._parts[which]):
                continue
            part = self._parts[which][at]
            if part == "**":
                if not name.startswith("."):
                    found.add((which, at))
            elif fits(part, name):
                found.add((which, at + 1))
        return self._closed(found)

    def met(self, states: States) -> bool:
        """Whether a name that led here is met by a whole pattern."""
        return any(at == len(self._parts[which]) for which, at in states)

    def meet(self, path: Sequence[str]) -> bool:
        """Whether one of them meets a whole path."""
        states = self.start
        for name in path:
            states = self.step(states, name)
        return self.met(states)

    def _closed(self, found: set[tuple[int, int]]) -> States:
        """With what `**` meets by meeting no folder at all."""
        closed = set()
        for which, first in found:
            at = first
            closed.add((which, at))
            while at < len(self._parts[which]) and self._parts[which][at] == "**":
                at += 1
                closed.add((which, at))
        return frozenset(closed)


def fits(pattern: str, name: str) -> bool:
    """Whether one part of a pattern meets one name. It goes back at most to the last `*`."""
    if name.startswith(".") and not pattern.startswith("."):
        return False
    here = at = 0
    star = after = -1
    while at < len(name):
        if here < len(pattern) and pattern[here] == "*":
            star, after = here, at
            here += 1
        elif here < len(pattern) and pattern[here] in ("?", name[at]):
            here += 1
            at += 1
        elif star >= 0:
            after += 1
            here, at = star + 1, after
        else:
            return False
    return all(letter == "*" for letter in pattern[here:])
