"""Links of a container and what goes over them, as the kernel counts it in its network namespace.

Sources: /proc/PID/net/dev, /proc/PID/net/fib_trie, /proc/PID/net/if_inet6, which anybody may read
who may look at the process. More, with rules and names, is in `observe.networks`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from sandbox_kernel.observe.fact import Fact, fact, read, text


@dataclass(frozen=True, slots=True)
class Link:
    """One interface. What it counts began when it was made, and only grows."""

    name: str
    received_bytes: int
    received_packets: int
    received_dropped: int
    sent_bytes: int
    sent_packets: int
    sent_dropped: int


@dataclass(frozen=True, slots=True)
class Rate:
    """What went over a link in each second between two readings."""

    name: str
    received_bytes: float
    received_packets: float
    sent_bytes: float
    sent_packets: float


def of_process(pid: int | str) -> Fact[tuple[Link, ...]]:
    """The interfaces of the network namespace that a process is in."""
    path = f"/proc/{pid}/net/dev"
    return fact(path, lambda: tuple(map(_link, read(path).splitlines()[2:])))


def addresses(pid: int | str) -> Fact[tuple[str, ...]]:
    """All addresses of that namespace, loopback too."""
    path = f"/proc/{pid}/net/fib_trie"
    return fact(path, lambda: (*_ipv4(path), *_ipv6(f"/proc/{pid}/net/if_inet6")))


def between(before: Sequence[Link], after: Sequence[Link], seconds: float) -> tuple[Rate, ...]:
    """The rates of those links that are in both readings."""
    known = {link.name: link for link in before}
    return tuple(
        Rate(
            now.name,
            max(0, now.received_bytes - then.received_bytes) / seconds,
            max(0, now.received_packets - then.received_packets) / seconds,
            max(0, now.sent_bytes - then.sent_bytes) / seconds,
            max(0, now.sent_packets - then.sent_packets) / seconds,
        )
        for now in after
        for then in (known.get(now.name),)
        if then is not None and seconds > 0
    )


def _link(line: bytes) -> Link:
    name, _, counted = line.rpartition(b":")
    # net/core/net-procfs.c, dev_seq_show: bytes packets errs drop fifo frame compressed multicast,
    # then bytes packets errs drop fifo colls carrier compressed
    numbers = list(map(int, counted.split()))
    return Link(
        text(name.strip()),
        numbers[0],
        numbers[1],
        numbers[3],
        numbers[8],
        numbers[9],
        numbers[11],
    )


def _ipv4(path: str) -> tuple[str, ...]:
    """Those that the table of routes has as the machine's own: `/32 host LOCAL`."""
    found: dict[str, None] = {}
    last = ""
    for line in text(read(path)).splitlines():
        word = line.strip().removeprefix("|--").strip()
        if word == "/32 host LOCAL":
            found[last] = None
        elif line.lstrip().startswith("|--"):
            last = word
    return tuple(found)


def _ipv6(path: str) -> tuple[str, ...]:
    try:
        lines = read(path).splitlines()
    except FileNotFoundError:  # the kernel has no IPv6
        return ()
    return tuple(str(ipaddress.IPv6Address(bytes.fromhex(text(line.split()[0])))) for line in lines)
