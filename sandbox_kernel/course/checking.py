"""Runs the check of an exercise: which facts it looked at, where, and whether they are as wanted.

A check is a generator of facts in one of the modules of `checks/`. It is given the variables of the
notebook to learn from them which process or file to look at, and for nothing else. What it judges
is what the kernel says about that.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from sandbox_kernel import errors
from sandbox_kernel.course import contents
from sandbox_kernel.course.texts import Text, same

Variables = Mapping[str, object]


@dataclass(frozen=True)
class Fact:
    """One thing that a check looked at."""

    name: Text
    seen: Text
    wanted: Text
    holds: bool
    source: str
    """The file or call that it was read from."""


class Missing(Exception):
    """There is nothing to look at yet, or this user may not see it."""

    def __init__(self, fact: Fact) -> None:
        super().__init__(f"look at {fact.source}: {fact.seen.en}: wanted: {fact.wanted.en}")
        self.fact = fact


@dataclass(frozen=True)
class Outcome:
    """What the check of an exercise found."""

    exercise: str
    facts: tuple[Fact, ...]

    @property
    def done(self) -> bool:
        """Whether all is as it should be."""
        return bool(self.facts) and all(fact.holds for fact in self.facts)


def fact(name: Text, seen: object, wanted: Text, holds: bool, source: str) -> Fact:
    """A fact; what was seen may be a text in both languages, or what is printed alike in both."""
    return Fact(name, seen if isinstance(seen, Text) else same(str(seen)), wanted, holds, source)


def run(name: str, variables: Variables) -> Outcome:
    """The check of the exercise of this name. Raises InvalidOption when there is none."""
    known = contents.exercises()
    if name not in known:
        allowed = f"an exercise: {', '.join(known)}"
        raise errors.InvalidOption("check", name, allowed)
    module = importlib.import_module(f"sandbox_kernel.course.checks.{known[name].checks}")
    check: Callable[[Variables], Iterator[Fact]] = getattr(module, name)
    facts: list[Fact] = []
    try:
        facts.extend(check(variables))  # those before one that is missing are kept
    except Missing as missing:
        facts.append(missing.fact)
    return Outcome(name, tuple(facts))
