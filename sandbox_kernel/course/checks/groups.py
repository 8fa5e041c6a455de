"""Checks of chapter 6: the limits of a container, and what became of one that is noisy."""

from __future__ import annotations

from collections.abc import Iterator

from sandbox_kernel.course import looking
from sandbox_kernel.course.checking import Fact, Variables, fact
from sandbox_kernel.course.texts import Text

MOST_MEMORY = 64 << 20
MOST_PROCESSES = 16
MOST_PROCESSORS = 0.25
LEAST_THROTTLED = 2
SECONDS = 0.6


def held(_: Variables) -> Iterator[Fact]:
    """`small` has at most 64 MiB and 16 processes."""
    paths = looking.container("small").cgroup_paths()
    yield at_most(Text("memory", "内存"), looking.memory_limit(paths), MOST_MEMORY)
    yield at_most(Text("processes", "进程数"), looking.processes_limit(paths), MOST_PROCESSES)


def tamed(_: Variables) -> Iterator[Fact]:
    """`noisy` has a quarter of a processor at most, and wants more."""
    noisy = looking.container("noisy")
    paths = noisy.cgroup_paths()
    yield at_most(Text("processors", "处理器"), looking.processor_limit(paths), MOST_PROCESSORS)
    before = looking.throttled(paths)
    looking.wait(noisy.pid, SECONDS)
    waited = (looking.throttled(paths).number or 0) - (before.number or 0)
    yield fact(
        Text(f"periods of the last {SECONDS} s in which it had to wait",
             f"最近 {SECONDS} 秒里被迫等待的周期数"),
        looking.plain(waited),
        Text(f"{LEAST_THROTTLED} or more", f"至少 {LEAST_THROTTLED}"),
        waited >= LEAST_THROTTLED,
        before.source,
    )  # fmt: skip


def at_most(name: Text, value: looking.Value, most: float) -> Fact:
    """That a limit is set, and is no higher than this."""
    return fact(
        name,
        value.shown,
        Text(f"a limit, at most {looking.plain(most)}", f"有上限，且不超过 {looking.plain(most)}"),
        value.number is not None and value.number <= most,
        value.source,
    )
