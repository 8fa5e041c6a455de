"""Who is connected with whom, how much goes over each link, and what was dropped by which rule.

Sources: the holder of networks for what is connected and dropped (`observe.networks`), and
/proc/PID/net/dev of each container for what its links count.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sandbox_kernel import container, errors
from sandbox_kernel.observe import links, networks

MOST_DROPS = 50
MOST_SAMPLES = 60


@dataclass(frozen=True, slots=True)
class Flow:
    """What goes over one link in a second; None until there are two readings."""

    received_bytes: float | None = None
    received_packets: float | None = None
    sent_bytes: float | None = None
    sent_packets: float | None = None
    total_received: int = 0
    total_sent: int = 0
    source: str = ""


@dataclass(frozen=True, slots=True)
class Member:
    """A container with its end of a link."""

    id: str
    name: str
    address: str
    flow: Flow
    reason: str = ""
    """Why its link is not counted here."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A bridge of the holder and who is on it."""

    name: str
    subnet: str
    gateway: str
    leads_out: bool
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class Drop:
    """A packet that was not let through."""

    time: float
    name: str
    """Of the container, where it is known."""
    rule: str
    protocol: str
    source: str
    destination: str
    port: int | None


@dataclass(frozen=True, slots=True)
class Picture:
    """All of it at one moment."""

    taken: float
    segments: tuple[Segment, ...]
    alone: tuple[Member, ...]
    """Containers without a network: a loopback of their own."""
    drops: tuple[Drop, ...]
    """The last ones, newest first."""
    dropped: int
    """How many since this was opened."""
    missed: int
    """How many of those nobody kept."""


class Traffic:
    """Reads it again and again. With a name, of that container and its neighbours alone."""

    def __init__(self, name: str | None = None) -> None:
        self._name = name
        self._pids: dict[str, tuple[str, int]] = {}
        self._before: dict[str, tuple[float, tuple[links.Link, ...]]] = {}
        self._position: int | None = None
        self._drops: deque[Drop] = deque(maxlen=MOST_DROPS)
        self._dropped = 0
        self._missed = 0

    def look(self) -> Picture:
        """How it is now. Raises StepFailed, NoSuchContainer when the container is gone."""
        listed = networks.list_all()
        self._know({each for network in listed for each in network["containers"]})
        own = self._own()
        segments = []
        for network in listed:
            members = network["containers"]
            if own is None or own in members:
                segments.append(self._segment(network, members))
        self._take_drops({each for network in listed for each in network["containers"]})
        connected = {member.id for segment in segments for member in segment.members}
        alone = [
            self._member(each, name, "", "lo")
            for each, (name, _) in self._pids.items()
            if each not in connected and own in (None, each)
        ]
        kept = {each for each, _ in self._pids.items()}
        self._before = {key: each for key, each in self._before.items() if key.split()[0] in kept}
        return Picture(
            time.time(),
            tuple(segments),
            tuple(alone),
            tuple(reversed(self._drops)),
            self._dropped,
            self._missed,
        )

    def _own(self) -> str | None:
        if self._name is None:
            return None
        for each, (name, _) in self._pids.items():
            if self._name in (each, name):
                return each
        raise errors.NoSuchContainer(f"look at the network of `{self._name}`: it is gone")

    def _know(self, members: set[str]) -> None:
        """The launchers are asked when somebody came that nobody knows, or went."""
        with_process = {each for each, (_, pid) in self._pids.items() if _lives(pid)}
        if self._pids and members <= with_process == self._pids.keys() and self._name is not None:
            return
        self._pids = {
            each.id: (each.name, each.pid) for each in container.list_all() if each.pid is not None
        }

    def _segment(self, network: dict[str, Any], members: dict[str, Any]) -> Segment:
        return Segment(
            network["name"],
            network["subnet"],
            network["gateway"],
            network["outside"],
            tuple(
                self._member(each, found["name"] or each, found["address"], None)
                for each, found in members.items()
            ),
        )

    def _member(self, key: str, name: str, address: str, link: str | None) -> Member:
        pid = self._pids.get(key, ("", 0))[1]
        found = links.of_process(pid) if pid else None
        if found is None or found.value is None:
            return Member(key, name, address, Flow(), found.reason if found else "it has ended")
        chosen = [each for each in found.value if (each.name == "lo") == (link == "lo")]
        now = time.monotonic()
        at = f"{key} {link or ''}"
        before = self._before.get(at)
        self._before[at] = (now, tuple(chosen))
        rates = links.between(before[1], chosen, now - before[0]) if before else ()
        return Member(key, name, address, _flow(chosen, rates, found.source))

    def _take_drops(self, members: set[str]) -> None:
        with suppress(errors.StepFailed):  # nobody holds a network: nothing was dropped
            said = networks.drops(self._name, self._position or 0)
            first, self._position = self._position is None, said["next"]
            if first:  # what was before is nobody's news, but the last of it is shown
                said["drops"] = said["drops"][-MOST_DROPS:]
            else:
                self._dropped += len(said["drops"])
                self._missed += said["missed"]
            for each in said["drops"]:
                self._drops.append(
                    Drop(
                        each["time"],
                        self._pids.get(each["container"] or "", ("",))[0],
                        each["reason"],
                        each["protocol"],
                        each["source"],
                        each["destination"],
                        each["port"],
                    )
                )


def _flow(found: Iterable[links.Link], rates: Iterable[links.Rate], source: str) -> Flow:
    links_, rates_ = list(found), list(rates)
    totals = (sum(each.received_bytes for each in links_), sum(each.sent_bytes for each in links_))
    if not rates_:
        return Flow(None, None, None, None, *totals, source)
    return Flow(
        sum(each.received_bytes for each in rates_),
        sum(each.received_packets for each in rates_),
        sum(each.sent_bytes for each in rates_),
        sum(each.sent_packets for each in rates_),
        *totals,
        source,
    )


def _lives(pid: int) -> bool:
    return links.of_process(pid).value is not None
