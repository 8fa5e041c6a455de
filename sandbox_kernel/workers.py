"""Threads that work while another one waits for them, which no Ctrl-C can wedge.

An interrupt is raised between any two steps of the main thread, so also in the Python code of
`threading.Condition`, of which `Event`, `Future`, `Thread.start` and `concurrent.futures` are made:
its lock stays taken then, and who wants it next waits for ever. What stands here waits at the
interpreter's own queue alone, which has no such moment.
"""

from __future__ import annotations

import _thread
import functools
import threading
import time
import weakref
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

WAKE_SECONDS = 0.1
"""The longest that the main thread waits at once. A signal for the process is taken by any thread
that happens to look (signal(7)), such as one that just starts another; Python raises it in the main
one, but not before that does something, and a lock wakes it only if it took the signal itself."""
_T = TypeVar("_T")
_Calls = SimpleQueue[Callable[[], None] | None]


def wait(told: SimpleQueue[_T], seconds: float | None = None) -> _T:
    """The next of a queue. Raises Empty after so many seconds, and an interrupt soon."""
    end = None if seconds is None else time.monotonic() + seconds
    while True:
        left = WAKE_SECONDS if end is None else min(WAKE_SECONDS, end - time.monotonic())
        try:
            return told.get(timeout=max(0.0, left))
        except Empty:
            if left < WAKE_SECONDS:
                raise


class Outcome(Generic[_T]):
    """What a call came to."""

    __slots__ = ("_error", "_value")

    def __init__(self, value: _T | None = None, error: BaseException | None = None) -> None:
        self._value = value
        self._error = error

    def get(self) -> _T:
        """What it returned; raises what it raised."""
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value] # None only where the call returns it


class Workers:
    """So many threads, which end with this object, or with its `close`."""

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._calls: _Calls = SimpleQueue()
        self._ended: SimpleQueue[None] = SimpleQueue()
        # Whom an interrupt kept from `close` lets go of this object, and then there is nothing more
        # to do. No line of Python is gone through for it, in which there could be an interrupt.
        owner = weakref.ref(self, functools.partial(self._calls.put, None))
        work = functools.partial(_work, owner, self._calls, self._ended)
        # Another thread starts them: to start one is to wait for an `Event`.
        _thread.start_new_thread(_begin, (work, self._ended, count, name))

    def do(self, call: Callable[[], _T], told: SimpleQueue[Outcome[_T]]) -> None:
        """Have it called by the next thread that is free, and what it came to put there."""

        def work() -> None:
            try:
                outcome = Outcome(call())
            except BaseException as error:  # raised again by who gets it
                outcome = Outcome(error=error)
            told.put(outcome)

        self._calls.put(work)

    def close(self) -> None:
        """Begin nothing any more; returns when all threads have ended."""
        while True:
            try:
                self._calls.get_nowait()
            except Empty:
                break
        self._calls.put(None)
        for _ in range(self._count):
            wait(self._ended)
        self._count = 0


def _begin(work: Callable[[], None], ended: SimpleQueue[None], count: int, name: str) -> None:
    for number in range(count):
        thread = threading.Thread(target=work, name=f"{name} {number}", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # there can be no more threads: those that are there do it all
            if number == 0:
                work()
            else:
                ended.put(None)


def _work(owner: weakref.ref[Workers], calls: _Calls, ended: SimpleQueue[None]) -> None:
    """One thread. It keeps `owner`, since who lets go of one that nobody has hears of no end."""
    # Without a time: the queue of CPython 3.11 waits for ever if a signal ends its wait just then.
    while (call := calls.get()) is not None:
        call()
        del call  # and what it holds on to
    calls.put(None)  # for the next
    ended.put(None)
