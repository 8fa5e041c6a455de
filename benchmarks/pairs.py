"""Measuring two ways of doing one thing in turn, so that what else the machine does hits both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Pair:
    """Seconds of each round of ours and of the peer, and the most that ours may be of the peer."""

    what: str
    peer: str
    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    bound: float

    @property
    def ratios(self) -> list[float]:
        """Ours to theirs, round by round, smallest first."""
        return sorted(mine / other for mine, other in zip(self.ours, self.theirs, strict=True))

    @property
    def ratio(self) -> float:
        """The median of the ratios: a round that something else disturbed does not move it."""
        return statistics.median(self.ratios)

    def row(self) -> list[str]:
        """What it is, both medians, the ratio with its quartiles, the bound, whether it holds."""
        ratios = self.ratios
        low, high = ratios[len(ratios) // 4], ratios[(3 * len(ratios)) // 4]
        return [
            self.what,
            shown(statistics.median(self.ours)),
            f"{self.peer}: {shown(statistics.median(self.theirs))}",
            f"{_digits(self.ratio)} ({_digits(low)} to {_digits(high)})",
            f"{self.bound:g}",
            "yes" if self.ratio <= self.bound else "**no**",
        ]


def measure(
    what: str,
    ours: Callable[[], None],
    peer: str,
    theirs: Callable[[], None],
    *,
    bound: float,
    rounds: int,
    warm: int = 3,
    before: Callable[[], None] = lambda: None,
    check: Callable[[], None] = lambda: None,
) -> Pair:
    """Both in turn, `rounds` times each, after `warm` rounds that do not count.

    `before` is called before each round of both, and `check` after each of the two, outside of the
    time.
    """
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(-warm, rounds):
        before()
        # Who begins changes, so that neither always finds the caches of the other.
        for index in (0, 1) if number % 2 else (1, 0):
            begin = time.perf_counter()
            (ours, theirs)[index]()
            took = time.perf_counter() - begin
            check()
            if number >= 0:
                seconds[index].append(took)
    return Pair(what, peer, tuple(seconds[0]), tuple(seconds[1]), bound)


@dataclass(frozen=True)
class Size:
    """One measured amount and the most that it may be."""

    what: str
    amount: float
    unit: str
    bound: float

    def row(self) -> list[str]:
        """The same columns as a pair has."""
        held = "yes" if self.amount <= self.bound else "**no**"
        number = _digits(self.amount) if self.unit[:1] == "x" else f"{self.amount:.1f}"
        amount = f"{number} {self.unit}"
        return [self.what, amount, "", "", f"{self.bound:.3g} {self.unit}", held]


@dataclass(frozen=True)
class Amounts:
    """MiB of ours and of the peer, and the most that ours may be of the peer."""

    what: str
    ours: float
    peer: str
    theirs: float
    bound: float

    def row(self) -> list[str]:
        """The same columns as a pair has."""
        ratio = self.ours / self.theirs
        return [
            self.what,
            f"{self.ours:.1f} MiB",
            f"{self.peer}: {self.theirs:.1f} MiB",
            _digits(ratio),
            f"{self.bound:g}",
            "yes" if ratio <= self.bound else "**no**",
        ]


def _digits(ratio: float) -> str:
    """Two digits after the point; of a small ratio three that count."""
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.3g}"


def shown(seconds: float) -> str:
    """Milliseconds with three digits, or seconds."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"
