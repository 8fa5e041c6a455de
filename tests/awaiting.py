"""Waiting in tests for what nothing can be waited on for: it is looked for again and again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


def until(look: Callable[[], Found], seconds: float = 30.0, *, why: object = None) -> Found:
    """What `look` returns once it is true. When it is not in time, `why`, or what that returns."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, (found, why() if callable(why) else why)
        time.sleep(0.02)
    return found
