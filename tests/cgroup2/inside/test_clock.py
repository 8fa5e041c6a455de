"""A clock that jumps: only in this machine can it be set without anybody else noticing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import sandbox_kernel
from sandbox_kernel.runtime import client

YEAR = 365 * 86400.0


@contextmanager
def a_clock_that_may_be_set() -> Iterator[None]:
    """It goes right again afterwards."""
    real, steady = time.time(), time.monotonic()
    try:
        yield
    finally:
        time.clock_settime(time.CLOCK_REALTIME, real + time.monotonic() - steady)


def jump(seconds: float) -> None:
    time.clock_settime(time.CLOCK_REALTIME, time.time() + seconds)


@pytest.mark.fault(12)
def test_a_clock_that_jumps_ends_nothing_and_spares_nothing() -> None:
    sandbox_kernel.run("pass").check()
    with a_clock_that_may_be_set(), sandbox_kernel.Sandbox(timeout="60s") as sandbox:
        for seconds in (YEAR, -2 * YEAR):
            year = time.gmtime().tm_year
            later = threading.Timer(0.3, jump, (seconds,))
            later.start()
            code = f"import time\nwhile time.gmtime().tm_year == {year}: time.sleep(0.05)\nprint(1)"
            assert sandbox.run(code).check().stdout == "1\n"
            later.join()
        assert client.shared().alive()
        with sandbox_kernel.Sandbox(timeout="2s") as hasty:
            later = threading.Timer(0.3, jump, (-YEAR,))
            later.start()
            found = hasty.run("while True: pass")
            later.join()
        assert found.error is not None
        assert found.error.name == "TimedOut"
        assert sandbox.run("print(2)").check().stdout == "2\n"
