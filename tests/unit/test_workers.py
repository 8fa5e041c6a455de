"""Threads that an interrupt of who waits for them can't wedge."""

from __future__ import annotations

import random
import signal
import threading
import time
from queue import Empty, SimpleQueue

import pytest

from sandbox_kernel.workers import Outcome, Workers, wait

SECONDS = 10.0


def squared(number: int) -> int:
    return number * number


def ours() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("squares")]


def squares(count: int) -> list[int]:
    told: SimpleQueue[Outcome[int]] = SimpleQueue()
    threads = Workers(2, "squares")
    try:
        for number in range(count):
            threads.do(lambda number=number: squared(number), told)  # type: ignore[misc]
        return sorted(told.get().get() for _ in range(count))
    finally:
        threads.close()


def until_ended() -> None:
    deadline = time.monotonic() + SECONDS
    while ours():
        assert time.monotonic() < deadline, ours()
        time.sleep(0.01)


def test_all_is_done_and_the_threads_end() -> None:
    assert squares(50) == [number * number for number in range(50)]
    until_ended()


def test_what_a_call_raises_is_raised_by_who_gets_it() -> None:
    told: SimpleQueue[Outcome[int]] = SimpleQueue()
    threads = Workers(1, "squares")
    threads.do(lambda: 1 // 0, told)
    with pytest.raises(ZeroDivisionError):
        told.get().get()
    threads.close()


def test_what_was_not_begun_is_dropped_by_close() -> None:
    told: SimpleQueue[Outcome[None]] = SimpleQueue()
    threads = Workers(1, "squares")
    begun, go_on = SimpleQueue[None](), SimpleQueue[None]()

    def waits() -> None:
        begun.put(None)
        go_on.get()

    threads.do(waits, told)
    threads.do(waits, told)
    begun.get()
    threading.Timer(0.2, go_on.put, (None,)).start()
    threads.close()
    assert told.qsize() == 1


def test_threads_end_with_who_has_them() -> None:
    Workers(3, "squares")
    until_ended()


def test_an_interrupt_at_any_moment_wedges_no_thread() -> None:
    """With `concurrent.futures` in their place, threads hang within the first few hundred."""
    some = random.Random(1)
    interrupted = 0

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(1500):
            try:
                signal.setitimer(signal.ITIMER_REAL, some.uniform(1e-5, 6e-4))
                squares(6)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interrupted += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted > 300
    until_ended()


def test_an_interrupt_that_another_thread_took_is_raised_all_the_same(
    interrupt_taken_by_another_thread: None,
) -> None:
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        wait(SimpleQueue[None](), SECONDS)
    assert time.monotonic() - begin < SECONDS / 2


def test_a_wait_ends_at_its_time() -> None:
    begin = time.monotonic()
    with pytest.raises(Empty):
        wait(SimpleQueue[None](), 0.25)
    assert 0.25 <= time.monotonic() - begin < SECONDS
