"""Checks of chapter 6: the limits of a container, and what became of one that is noisy."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from sandbox_kernel.course import looking
from sandbox_kernel.course.checking import Fact, Variables, fact
from sandbox_kernel.course.texts import Text

MOST_MEMORY = 64 << 20
MOST_PROCESSES = 16
MOST_PROCESSORS = 0.25
LEAST_THROTTLED = 2
SECONDS, INTERVAL = 10.0, 0.1


def held(_: Variables) -> Iterator[Fact]:
    """`small` has at most 64 MiB and 16 processes."""
    paths = looking.container("small").cgroup_paths()
    yield at_most(Text("memory", "内存"), looking.memory_limit(paths), MOST_MEMORY)
    yield at_most(Text("processes", "进程数"), looking.processes_limit(paths), MOST_PROCESSES)


def tamed(_: Variables) -> Iterator[Fact]:
    """`noisy` has a quarter of a processor at most, and wants more."""
    noisy = looking.container("noisy")
    paths = noisy.cgroup_paths()
    limit = at_most(Text("processors", "处理器"), looking.processor_limit(paths), MOST_PROCESSORS)
    yield limit
    before, deadline = looking.throttled(paths), time.monotonic() + SECONDS
    while (waited := _since(before, paths)) < LEAST_THROTTLED and limit.holds:
        if time.monotonic() > deadline:  # on a busy machine it gets little, and has to wait seldom
            break
        looking.wait(noisy.pid, INTERVAL)
    yield fact(
        Text("periods in which it had to wait, from now on", "从现在起被迫等待的周期数"),
        looking.plain(waited),
        Text(f"{LEAST_THROTTLED} or more", f"至少 {LEAST_THROTTLED}"),
        waited >= LEAST_THROTTLED,
        before.source,
    )


def _since(before: looking.Value, paths: Mapping[str, str]) -> float:
    return (looking.throttled(paths).number or 0) - (before.number or 0)


def at_most(name: Text, value: looking.Value, most: float) -> Fact:
    """That a limit is set, and is no higher than this."""
    return fact(
        name,
        value.shown,
        Text(f"a limit, at most {looking.plain(most)}", f"有上限，且不超过 {looking.plain(most)}"),
        value.number is not None and value.number <= most,
        value.source,
    )
