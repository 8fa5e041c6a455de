"""How long two sides of a test race: seconds in `make test`, a minute in `make hostile`.

An attack that has to hit a moment gets better with time and not with a number of turns, which is
soon over on a fast machine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

VARIABLE = "SANDBOX_KERNEL_RACE_SECONDS"
SHORT = 5.0


def seconds() -> float:
    """The time that each race has."""
    return float(os.environ.get(VARIABLE, SHORT))


def turns(least: int = 1) -> Iterator[int]:
    """0, 1, 2, ... until the time is over, and not less than so many."""
    end, number = time.monotonic() + seconds(), 0
    while number < least or time.monotonic() < end:
        yield number
        number += 1
