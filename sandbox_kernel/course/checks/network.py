"""Checks of chapter 8: a server that its neighbours can reach."""

from __future__ import annotations

import os
from collections.abc import Iterator

from sandbox_kernel.course import looking
from sandbox_kernel.course.checking import Fact, Variables, fact
from sandbox_kernel.course.texts import Text, same

PORT = 9000
LINK = "eth0"


def reachable(_: Variables) -> Iterator[Fact]:
    """`reachable` has a cable, and listens on all of its addresses."""
    held = looking.container("reachable")
    ours, theirs = looking.namespaces(os.getpid())["net"], looking.namespaces(held.pid)["net"]
    yield fact(
        Text("its network", "它的网络"),
        str(theirs),
        Text(f"not {ours}, which is ours", f"不是我们的 {ours}"),
        theirs != ours,
        f"/proc/{held.pid}/ns/net",
    )
    links = looking.links(held.pid)
    yield fact(
        Text("its links", "它的网卡"),
        ", ".join(links),
        same(LINK),
        LINK in links,
        f"/proc/{held.pid}/net/dev",
    )
    heard = looking.listeners(held.pid)
    yield fact(
        Text("listens on", "监听"),
        ", ".join(f"{address}:{port}" for address, port in heard) or "-",
        Text(f"port {PORT} of an address that is not 127.0.0.1", f"{PORT} 端口，且不是 127.0.0.1"),
        any(port == PORT and not address.startswith("127.") and address != "::1"
            for address, port in heard),
        f"/proc/{held.pid}/net/tcp",
    )  # fmt: skip
