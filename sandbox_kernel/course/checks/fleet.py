"""Checks of chapter 10: what the containers of a scheduler were promised, all together."""

from __future__ import annotations

from collections.abc import Iterator

from sandbox_kernel.container import finding
from sandbox_kernel.course import looking
from sandbox_kernel.course.checking import Fact, Variables, fact
from sandbox_kernel.course.texts import Text, same

PREFIX = "job-"
LEAST, MOST = 240 << 20, 256 << 20


def budget(_: Variables) -> Iterator[Fact]:
    """The limits of all containers whose names begin with `job-` fill the budget."""
    names = sorted(each.name for each in finding.list_all() if each.name.startswith(PREFIX))
    total = 0.0
    for name in names:
        limit = looking.memory_limit(looking.container(name).cgroup_paths())
        total += limit.number or 0
        yield fact(
            same(name),
            limit.shown,
            Text("a limit", "有上限"),
            limit.number is not None,
            limit.source,
        )
    yield fact(
        Text("all limits together", "所有上限之和"),
        f"{total / (1 << 20):g} MiB",
        same(f"{LEAST >> 20} .. {MOST >> 20} MiB"),
        LEAST <= total <= MOST,
        "sandbox-kernel ps",
    )
