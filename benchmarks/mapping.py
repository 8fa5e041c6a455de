"""`map` over many small items, each in a fresh container, beside `multiprocessing.Pool.map`.

The same function, items and number of workers. Ours is checked while it is measured: the values are
those of the peer, no two items had one container, and every container had its limits read back.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator

import sandbox_kernel
from benchmarks.pairs import Pair, measure

ITEMS = 1000
SECONDS_EACH = 0.020
MEMORY, PIDS = 128 << 20, 64
BOUND = 1.5
ROUNDS_PER_PAIR = 13
"""One pair takes as long as so many rounds of the quick benchmarks, and more."""


def busy(steps: int) -> int:
    """Work that only a processor does: so many steps in plain Python."""
    total = 0
    for number in range(steps):
        total = (total * 31 + number) % 1_000_003
    return total


def pairs(rounds: int) -> Iterator[Pair]:
    """A thousand items of about 20 ms; and what a process of its own for each of them takes, which
    no container can do without."""
    workers = len(os.sched_getaffinity(0))
    steps = calibrated(workers)
    items = [steps + number for number in range(ITEMS)]
    expected: list[int] = []

    def ours() -> None:
        found = mapped(items, workers)
        assert not expected or found.values == expected
        assert len({result.container_id for result in found}) == ITEMS
        for result in found:
            assert result.limits["memory"] == MEMORY
            assert result.limits["pids_limit"] == PIDS

    def theirs() -> None:
        with multiprocessing.Pool(workers) as pool:
            expected[:] = pool.map(busy, items)

    def with_fresh_processes() -> None:
        with multiprocessing.Pool(workers, maxtasksperchild=1) as pool:
            assert pool.map(busy, items, chunksize=1) == expected

    mapped(items[: 4 * workers], workers)
    what = f"`map` of {ITEMS} items of {SECONDS_EACH * 1000:g} ms, {workers} at once"
    count = max(1, rounds // ROUNDS_PER_PAIR)
    yield measure(what, ours, "Pool.map", theirs, bound=BOUND, rounds=count, warm=0)
    what = "a fresh process for each of these items, without any container"
    yield measure(what, with_fresh_processes, "Pool.map", theirs, bound=BOUND, rounds=count, warm=0)


def mapped(items: list[int], workers: int) -> sandbox_kernel.Results:
    """The work of these items, each in a container with limits."""
    return sandbox_kernel.map(
        busy, items, workers=workers, memory=MEMORY, pids_limit=PIDS, check=True
    )


def calibrated(workers: int) -> int:
    """How many steps of `busy` take the wanted time in a pool of so many, all of them at it.

    A processor that has just woken, or is alone at work, has another speed.
    """
    steps = 100_000
    with multiprocessing.Pool(workers) as pool:
        for _ in range(3):
            took = pool.map(seconds_of, [steps] * 20 * workers)
            steps = round(steps * SECONDS_EACH / statistics.median(took))
    return steps


def seconds_of(steps: int) -> float:
    """How long that work takes."""
    begin = time.perf_counter()
    busy(steps)
    return time.perf_counter() - begin
