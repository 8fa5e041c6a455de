"""Checks of chapter 9: what rights a process has left, and which of its calls are looked at."""

from __future__ import annotations

from collections.abc import Iterator

from sandbox_kernel.course import looking
from sandbox_kernel.course.checking import Fact, Variables, fact
from sandbox_kernel.course.texts import Text, same

SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
FILTERED = {"0": "off", "1": "strict", "2": "filter"}
"""PR_GET_SECCOMP of prctl(2)."""


def least(_: Variables) -> Iterator[Fact]:
    """What runs in `least` is nobody even inside, has no capability, and can't write its root."""
    held = looking.container("least")
    running = looking.processes(held)
    yield fact(
        Text("processes besides number 1", "除 1 号以外的进程"),
        str(len(running)),
        Text("1 or more", "至少 1"),
        bool(running),
        "/proc",
    )
    for pid in running[:1]:
        status = looking.status(pid)
        for name in SETS:
            yield fact(
                same(name),
                status[name],
                Text("empty", "空"),
                int(status[name], 16) == 0,
                f"/proc/{pid}/status",
            )
        outside, inside = status["Uid"].split()[1], _inside(pid, int(status["Uid"].split()[1]))
        yield fact(
            Text("user inside", "里面的用户"),
            Text(f"{inside} ({outside} outside)", f"{inside}（外面是 {outside}）"),
            Text("not 0", "不是 0"),
            inside not in (0, None),
            f"/proc/{pid}/uid_map",
        )
        yield from _sealed(pid)
        roots = [mount for mount in looking.mounts(pid) if mount.point == "/"]
        yield fact(
            Text("its root", "它的根"),
            ",".join(roots[-1].flags) if roots else "-",
            same("ro"),
            bool(roots) and "ro" in roots[-1].flags,
            f"/proc/{pid}/mountinfo",
        )


def sealed(variables: Variables) -> Iterator[Fact]:
    """A process of the learner's own that can gain nothing, and is held to a filter of calls."""
    yield from _sealed(looking.process(variables, "sealed"))


def _sealed(pid: int) -> Iterator[Fact]:
    status = looking.status(pid)
    mode = status.get("Seccomp", "0")
    yield fact(
        same("NoNewPrivs"),
        status.get("NoNewPrivs", "0"),
        same("1"),
        status.get("NoNewPrivs") == "1",
        f"/proc/{pid}/status",
    )
    yield fact(
        same("Seccomp"),
        f"{mode} ({FILTERED.get(mode, '?')})",
        Text("1 or 2", "1 或 2"),
        mode in ("1", "2"),
        f"/proc/{pid}/status",
    )


def _inside(pid: int, outside: int) -> int | None:
    """What a user of the machine is called in the user namespace of a process."""
    for line in looking.read(f"/proc/{pid}/uid_map").splitlines():
        first, beyond, count = map(int, line.split())
        if beyond <= outside < beyond + count:
            return first + outside - beyond
    return None
