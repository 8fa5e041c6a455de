"""Checks of chapter 1: an application that runs out of its image, and of nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator

from sandbox_kernel.course import looking
from sandbox_kernel.course.checking import Fact, Variables, fact
from sandbox_kernel.course.texts import Text, same

PORT = 8080
NEEDED = ("/app/counter.py", "/app/greeting")


def moved(_: Variables) -> Iterator[Fact]:
    """`moved` listens, and what it needs is in its root and not mounted into it."""
    held = looking.container("moved")
    heard = looking.listeners(held.pid)
    yield fact(
        Text("listens on", "监听端口"),
        ", ".join(f"{address}:{port}" for address, port in heard) or "-",
        same(str(PORT)),
        any(port == PORT for _, port in heard),
        f"/proc/{held.pid}/net/tcp",
    )
    ours, theirs = looking.namespaces(os.getpid())["net"], looking.namespaces(held.pid)["net"]
    yield fact(
        Text("its network", "它的网络"),
        str(theirs),
        Text(f"not {ours}, which is ours", f"不是我们的 {ours}"),
        theirs != ours,
        f"/proc/{held.pid}/ns/net",
    )
    for name in NEEDED:
        there = os.path.exists(f"/proc/{held.pid}/root{name}")
        yield fact(
            same(name),
            Text("there", "存在") if there else Text("not there", "不存在"),
            Text("there", "存在"),
            there,
            f"/proc/{held.pid}/root{name}",
        )
    mounts = [mount.point for mount in looking.mounts(held.pid)]
    over = [point for point in mounts if point == "/app" or point.startswith("/app/")]
    yield fact(
        Text("mounted there", "挂载在那里"),
        ", ".join(over) or "-",
        Text("nothing", "没有"),
        not over,
        f"/proc/{held.pid}/mountinfo",
    )
