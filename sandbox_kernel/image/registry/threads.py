"""Doing the same with many things in a few threads, so that the first failure ends all.

Not a pool of `concurrent.futures`: it waits for its threads when the program ends, and one of ours
may wait for a lock of the store that another process holds.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from sandbox_kernel.image.registry.connections import Cancellation, Cancelled
from sandbox_kernel.workers import wait

SECONDS_TO_END, SECONDS_WHEN_INTERRUPTED = 5.0, 0.8
_Item = TypeVar("_Item")


def in_turn(
    do: Callable[[_Item], None],
    items: Sequence[_Item],
    *,
    threads: int,
    cancellation: Cancellation,
) -> None:
    """`do` of each item. Raises what one of them raised first, when all have stopped; Cancelled
    when somebody else did that."""
    waiting: queue.SimpleQueue[_Item] = queue.SimpleQueue()
    for item in items:
        waiting.put(item)
    ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def work() -> None:
        while True:
            try:
                item = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                cancellation.check()
                do(item)
            except BaseException as error:  # raised again by who waits
                ended.put(error)
                if not isinstance(error, Cancelled):
                    cancellation.cancel()  # here too, or we would begin the next one
            else:
                ended.put(None)

    running = [
        threading.Thread(target=work, name=f"layers {number}", daemon=True)
        for number in range(min(threads, len(items)))
    ]
    for thread in running:
        thread.start()
    try:
        for _ in items:
            problem = wait(ended)
            if problem is not None and not isinstance(problem, Cancelled):
                raise problem
        cancellation.check()
    except BaseException as error:
        cancellation.cancel()
        interrupted = isinstance(error, KeyboardInterrupt)
        end = time.monotonic() + (SECONDS_WHEN_INTERRUPTED if interrupted else SECONDS_TO_END)
        for thread in running:
            thread.join(max(0.0, end - time.monotonic()))
        raise
