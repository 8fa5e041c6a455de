"""Checks of chapter 4: the number of a process on this machine, and what a crowd weighs."""

from __future__ import annotations

from collections.abc import Iterator

from sandbox_kernel.course import looking
from sandbox_kernel.course.checking import Fact, Variables, fact
from sandbox_kernel.course.texts import Text, same

CROWD = 8
MOST_KIBIBYTES = 16 << 10


def seen(variables: Variables) -> Iterator[Fact]:
    """`seen` is the number of a process in `watched` that is not its process 1."""
    held = looking.container("watched")
    pid = looking.process(variables, "seen")
    theirs, wanted = looking.namespaces(pid)["pid"], looking.namespaces(held.pid)["pid"]
    yield fact(
        Text("its pid namespace", "它的 pid 命名空间"),
        str(theirs),
        same(str(wanted)),
        theirs == wanted,
        f"/proc/{pid}/ns/pid",
    )
    numbers = looking.status(pid).get("NSpid", "").split()
    yield fact(
        Text("its numbers, from outside in", "它的编号，从外到里"),
        " ".join(numbers),
        Text("two or more, the last one not 1", "两个或更多，最后一个不是 1"),
        len(numbers) > 1 and numbers[-1] != "1",
        f"/proc/{pid}/status",
    )


def crowd(_: Variables) -> Iterator[Fact]:
    """So many containers are there at once, and weigh little."""
    spaces, total, source = set(), 0, ""
    for number in range(CROWD):
        held = looking.container(f"crowd-{number}")
        spaces.add(looking.namespaces(held.pid)["pid"])
        for pid in (held.pid, *looking.processes(held)):
            source = f"/proc/{pid}/smaps_rollup"
            total += _weight(source)
    yield fact(
        Text("pid namespaces", "pid 命名空间"),
        str(len(spaces)),
        same(str(CROWD)),
        len(spaces) == CROWD,
        "/proc/PID/ns/pid",
    )
    yield fact(
        Text("all together", "加起来"),
        f"{total} KiB",
        Text(f"at most {MOST_KIBIBYTES} KiB", f"不超过 {MOST_KIBIBYTES} KiB"),
        total <= MOST_KIBIBYTES,
        source,
    )


def _weight(path: str) -> int:
    """The proportional set size of a process, in KiB: proc_pid_smaps(5)."""
    for line in looking.read(path).splitlines():
        name, _, rest = line.partition(":")
        if name == "Pss":
            return int(rest.split()[0])
    return 0
