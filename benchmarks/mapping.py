"""`map` over many small items, each in a fresh container, beside `multiprocessing.Pool.map`.

The same function, items and number of workers. Ours is checked while it is measured: the values are
those of the peer, no two items had one container, and every container had its limits read back.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator

import sandbox_kernel
from benchmarks import containers
from benchmarks.pairs import Pair, measure
from sandbox_kernel import image

ITEMS = 1000
SECONDS_EACH = 0.020
MEMORY, PIDS = 128 << 20, 64
BOUND = 1.5
ROUNDS_PER_PAIR = 8
"""One pair takes as long as so many rounds of the quick benchmarks, and more. From one half minute
to the next the machine is up to a sixth quicker or slower, so a median wants five of them."""


def busy(steps: int) -> int:
    """Work that only a processor does: so many steps in plain Python."""
    total = 0
    for number in range(steps):
        total = (total * 31 + number) % 1_000_003
    return total


def pairs(rounds: int) -> Iterator[Pair]:
    """A thousand items of about 20 ms, beside workers that share a process each; and beside what a
    process and namespaces for each item take where a program in C makes them."""
    workers = len(os.sched_getaffinity(0))
    items: list[int] = []
    expected: list[int] = []

    def calibrate() -> None:
        # Anew for each round: a machine that works for some minutes has not one speed, and items
        # that take a sixth less than they should are a sixth more of what is around them.
        steps = calibrated(workers)
        items[:] = [steps + number for number in range(ITEMS)]
        expected.clear()

    def agreed(values: list[int]) -> None:
        if not expected:
            expected[:] = values
        assert values == expected

    def ours() -> None:
        found = mapped(items, workers)
        agreed(found.values)
        assert len({result.container_id for result in found}) == ITEMS
        for result in found:
            assert result.limits["memory"] == MEMORY
            assert result.limits["pids_limit"] == PIDS

    def theirs() -> None:
        with multiprocessing.Pool(workers) as pool:
            agreed(pool.map(busy, items))

    work = functools.partial(in_walls_of_others, containers.bwrap(image.resolve("host").expanded()))

    def with_other_walls() -> None:
        with multiprocessing.Pool(workers) as pool:
            agreed(pool.map(work, items))

    calibrate()
    mapped(items[: 4 * workers], workers)
    what = f"`map` of {ITEMS} items of {SECONDS_EACH * 1000:g} ms, {workers} at once"
    count = max(1, rounds // ROUNDS_PER_PAIR)
    in_turn = functools.partial(measure, what, ours, rounds=count, warm=0, before=calibrate)
    yield in_turn("Pool.map", theirs, bound=BOUND)
    peer = "fork, and bwrap around nothing: no limits, no interpreter"
    yield in_turn(peer, with_other_walls, bound=1)


def in_walls_of_others(bwrap: list[str], steps: int) -> int:
    """The same work in a fork of this process, after bwrap has made its walls once."""
    os.waitpid(os.posix_spawn(bwrap[0], bwrap, {}), 0)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writing, str(busy(steps)).encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as result:
        total = int(result.read())
    os.waitpid(pid, 0)
    return total


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
        for each in (20, 20, 150):
            took = pool.map(seconds_of, [steps] * each * workers)
            steps = round(steps * SECONDS_EACH / statistics.median(took))
    return steps


def seconds_of(steps: int) -> float:
    """How long that work takes."""
    begin = time.perf_counter()
    busy(steps)
    return time.perf_counter() - begin
