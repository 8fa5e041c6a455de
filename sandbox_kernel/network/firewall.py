"""The rules in the holder's namespace: which packet of a container goes where. Outside of it.

On the bridges (family `bridge`) a frame has to come from the port, with the hardware address and
with the address that the holder gave: so for all that follows the source address says who it is.
Only IPv4 and ARP pass, to one receiver each.

Between networks (family `ip`) nothing passes but to the link that leads out, and that by the chain
that `ways` has for the container: `open` lets everything through but special addresses and those of
this machine, `list N` only what is in its sets. However long a list is, it is looked up, not
walked. A flow that was let through bears the generation of its container as mark and goes on while
that is in force; so a narrower list cuts at once what it does not let through.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import sys
from collections.abc import Iterable, Sequence

from sandbox_kernel import allowing
from sandbox_kernel.allowing import Allowed, AllowList, Network
from sandbox_kernel.errors import HostLacks
from sandbox_kernel.network import expressions as words
from sandbox_kernel.network.netlink import Rules
from sandbox_kernel.network.protocol import LOG_GROUP, RESOLVER
from sandbox_kernel.network.tables import BRIDGE, IP, Element, Message, Table, key

PROTOCOL_OF = {"tcp": b"\x06", "udp": b"\x11"}
NAME = "sandbox"
MOST_FLOWS = 4096
"""Of one container, to the outside and to the resolver: the table of flows is everybody's."""
_PREROUTING, _INPUT, _FORWARD, _POSTROUTING = 0, 1, 2, 4
_BRIDGE_PRIORITY = -300
_SOURCE_NAT = 100
_LOOPBACK = (1).to_bytes(4, sys.byteorder)
_LOGGED_EACH_SECOND = 200
_IPV4, _ARP, _IPV6 = b"\x08\x00", b"\x08\x06", b"\x86\xdd"
_DOMAIN = (53).to_bytes(2, "big")
_TARGET = (words.DESTINATION, words.PROTOCOL, words.PORT)


def packed(address: str) -> bytes:
    """An IPv4 address as packets have it."""
    return ipaddress.IPv4Address(address).packed


def hardware(mac: str) -> bytes:
    """A hardware address as frames have it."""
    return bytes.fromhex(mac.replace(":", ""))


def number(value: int) -> bytes:
    """A number as the kernel has it in a register."""
    return value.to_bytes(4, sys.byteorder)


class Firewall:
    """The rules, and the way out that each container has. Raises OSError when one is refused."""

    def __init__(self) -> None:
        self._bridge = Table(BRIDGE, NAME)
        self._ip = Table(IP, NAME)
        self._generation = 0
        self._generations: dict[str, int] = {}
        self._ways: dict[str, str] = {}
        """Address -> the chain that its packets to the outside go through."""
        self._lists: dict[AllowList, str] = {}
        self._ranges: dict[str, dict[tuple[str, str], list[tuple[int, int]]]] = {}
        """Chain of a list -> address and protocol -> ports that a name on it leads to."""
        self._numbered = 0
        self._own: set[str] = set()
        try:
            self._rules = Rules()
            self._rules.request([*self._build_bridge(), *self._build_ip()])
        except OSError as error:
            raise HostLacks(
                f"make rules for the packets of containers: {error.strerror}: the kernel needs "
                "nf_tables with the families bridge and ip, and nft_connlimit, nft_ct, nft_limit, "
                "nft_log, nft_masq and nft_reject: use one that has them"
            ) from error

    def close(self) -> None:
        """The rules stay as long as the namespace."""
        self._rules.close()

    # --- who is who

    def admit(self, port: int, mac: str, address: str) -> None:
        """Frames of this port with these addresses are let onto the bridge."""
        face = Element(_face(port, mac, address))
        self._rules.request(
            [*self._bridge.add_elements("faces", [face]), *self._next_generation(address)]
        )

    def forget(self, port: int, mac: str, address: str) -> None:
        """The container is gone, and with it the way that it had."""
        self.forget_all([(port, mac, address)])

    def forget_all(self, faces: Sequence[tuple[int, str, str]]) -> None:
        """Many at once: the kernel waits once for all who may still look at the rules."""
        gone = [Element(_face(*face)) for face in faces]
        messages = self._bridge.remove_elements("faces", gone)
        for _, _, address in faces:
            messages += [*self._without_way(address), *self._without_generation(address)]
        self._rules.request(messages)
        for _, _, address in faces:
            self._ways.pop(address, None)
            self._generations.pop(address, None)
        self._drop_unused_lists()

    # --- ways out

    def let_out(self, address: str, allow: AllowList | None) -> None:
        """What a container may reach outside; None: all but special addresses.

        Flows that the new way does not let through end.
        """
        before = self._ways.get(address)
        chain = "open" if allow is None else self._chain_of(allow)
        replaced = self._without_way(address)
        messages = [
            *replaced,
            *self._ip.add_elements(
                "ways", [Element(packed(address), data=words.goto_verdict(chain))]
            ),
        ]
        if before is not None:
            messages += [*self._without_generation(address), *self._next_generation(address)]
        self._rules.request(messages)
        self._ways[address] = chain
        self._drop_unused_lists()

    def shut_in(self, address: str) -> None:
        """No way out, from now on."""
        before = self._ways.get(address)
        if before is None:
            return
        messages = [*self._without_way(address), *self._without_generation(address)]
        self._rules.request([*messages, *self._next_generation(address)])
        del self._ways[address]
        self._drop_unused_lists()

    def learn(self, address: str, targets: Iterable[tuple[str, str, int, int, float]]) -> None:
        """Addresses that names on the container's list led to: (address, protocol, ports, life)."""
        chain = self._ways.get(address)
        if chain is None or chain == "open":
            return
        for target, protocol, first, last, lifetime in targets:
            start = _target(target, protocol, first)
            if first == last:
                self._renew(f"{chain} names", Element(start, lifetime=lifetime))
                continue
            known = self._ranges[chain].setdefault((target, protocol), [])
            wide = (first, last)
            for other in list(known):
                if other[0] <= wide[1] and wide[0] <= other[1]:
                    # The kernel's set has no ranges that overlap: both become one.
                    wide = (min(wide[0], other[0]), max(wide[1], other[1]))
                    known.remove(other)
                    if other != wide:
                        self._expire(f"{chain} name ranges", _between(target, protocol, *other))
            known.append(wide)
            element = _between(target, protocol, *wide)._replace(lifetime=lifetime)
            self._renew(f"{chain} name ranges", element)

    def _expire(self, name: str, element: Element) -> None:
        """At once, if its time is not over yet."""
        with contextlib.suppress(FileNotFoundError):
            self._rules.request(self._ip.remove_elements(name, [element]))

    def _renew(self, name: str, element: Element) -> None:
        """An element's time begins anew: it is taken out and put in, as one."""
        removed = self._ip.remove_elements(name, [element])
        try:
            self._rules.request([*removed, *self._ip.add_elements(name, [element])])
        except FileNotFoundError:
            self._rules.request(self._ip.add_elements(name, [element]))

    # --- what leads out

    def leads_out(self, link: int) -> None:
        """Packets to this link leave, and come back."""
        self._rules.request(self._ip.add_elements("uplinks", [Element(number(link))]))

    def leads_no_more(self, link: int) -> None:
        """It is gone."""
        self._rules.request(self._ip.remove_elements("uplinks", [Element(number(link))]))

    def protect(self, addresses: Iterable[str]) -> None:
        """The addresses that this machine has now: reached by nobody who does not name them."""
        wanted = set(addresses)
        messages = [
            *self._ip.add_elements("own", [Element(packed(a)) for a in wanted - self._own]),
            *self._ip.remove_elements("own", [Element(packed(a)) for a in self._own - wanted]),
        ]
        if messages:
            self._rules.request(messages)
        self._own = wanted

    # --- lists

    def _chain_of(self, allow: AllowList) -> str:
        """The chain of a list, which all containers with this list share."""
        chain = self._lists.get(allow)
        if chain is None:
            self._numbered += 1
            chain = f"list {self._numbered}"
            self._rules.request(self._build_list(chain, allow.networks))
            self._lists[allow] = chain
            self._ranges[chain] = {}
        return chain

    def _drop_unused_lists(self) -> None:
        ways = set(self._ways.values())
        for allow, chain in list(self._lists.items()):
            if chain in ways:
                continue
            sets = [self._ip.remove_set(f"{chain} {suffix}") for suffix in _SETS]
            self._rules.request([self._ip.remove_chain(chain), *sets])
            del self._lists[allow], self._ranges[chain]

    def _build_list(self, chain: str, networks: Sequence[Allowed]) -> list[Message]:
        table = self._ip
        single: list[Element] = []
        special: list[Allowed] = []
        public: list[Allowed] = []
        for item in networks:
            assert isinstance(item.host, Network)
            if item.host.bits == 32 and item.first == item.last:
                single.append(Element(_entry(item.host.address, item.protocol, item.first)))
            else:
                # One named address is meant, whatever it is; so is a network of special ones.
                named = item.host.bits == 32 or item.special
                (special if named else public).append(item)

        def admits(suffix: str) -> Message:
            return table.add_rule(
                chain, words.is_in(f"{chain} {suffix}", *_TARGET), words.goto("admitted")
            )

        return [
            table.add_chain(chain),
            table.add_set(f"{chain} single", *_TARGET),
            table.add_set(f"{chain} special", *_TARGET, ranges=True),
            table.add_set(f"{chain} names", *_TARGET, lifetimes=True),
            table.add_set(f"{chain} name ranges", *_TARGET, ranges=True, lifetimes=True),
            table.add_set(f"{chain} public", *_TARGET, ranges=True),
            *table.add_elements(f"{chain} single", single),
            *table.add_elements(f"{chain} special", _without_overlaps(special)),
            *table.add_elements(f"{chain} public", _without_overlaps(public)),
            admits("single"),
            admits("special"),
            *self._refuse_special(chain),
            admits("names"),
            admits("name ranges"),
            admits("public"),
            *self._refuse(chain, "not-allowed"),
        ]

    # --- the tables

    def _build_bridge(self) -> list[Message]:
        table = self._bridge
        face = (words.IN, words.ETHER_FROM)
        chain = "arriving"
        return [
            table.add(),
            table.add_set("faces", *face, words.SOURCE),
            table.add_chain("multicast"),
            *self._lose(table, "multicast", "multicast"),
            table.add_chain("internet"),
            table.add_rule(
                "internet", words.has_bits(words.ETHER_TO, b"\x01" + bytes(5)),
                words.goto("multicast"),
            ),
            table.add_rule(
                "internet", words.is_in("faces", *face, words.SOURCE), words.accept()
            ),
            *self._lose(table, "internet", "spoofed"),
            table.add_chain("neighbours"),
            table.add_rule(
                "neighbours",
                words.is_in("faces", *face, words.ARP_SOURCE),
                words.is_in("faces", words.IN, words.ARP_ETHER, words.ARP_SOURCE),
                words.accept(),
            ),
            *self._lose(table, "neighbours", "spoofed"),
            table.add_chain("later internet"),
            *self._lose(table, "later internet", "ipv6"),
            table.add_chain(chain, hook=_PREROUTING, priority=_BRIDGE_PRIORITY),
            table.add_rule(chain, words.equals(words.ETHER_TYPE, _IPV4), words.goto("internet")),
            table.add_rule(chain, words.equals(words.ETHER_TYPE, _ARP), words.goto("neighbours")),
            table.add_rule(
                chain, words.equals(words.ETHER_TYPE, _IPV6), words.goto("later internet")
            ),
            *self._lose(table, chain, "unknown-protocol"),
        ]  # fmt: skip

    def _build_ip(self) -> list[Message]:
        table = self._ip
        forward, arriving = "forward", "arriving"
        return [
            table.add(),
            table.add_set("uplinks", words.OUT),
            table.add_set("own", words.DESTINATION),
            table.add_set("special", words.DESTINATION, ranges=True),
            *table.add_elements("special", _ranges(allowing.SPECIAL)),
            table.add_set("generation", words.SOURCE, data=4),
            table.add_set("current", words.SOURCE, words.MARK),
            table.add_set("ways", words.SOURCE, data=0),
            table.add_set("flows", words.SOURCE, counts=True),
            table.add_chain("over"),
            *self._refuse("over", "too-many-flows"),
            table.add_chain("admitted"),
            table.add_rule(
                "admitted", words.over("flows", MOST_FLOWS, words.SOURCE), words.goto("over")
            ),
            table.add_rule("admitted", words.mark_by_map("generation", words.SOURCE)),
            table.add_rule("admitted", words.counted(), words.accept()),
            table.add_chain("to special"),
            *self._refuse("to special", "private"),
            table.add_chain("open"),
            *self._refuse_special("open"),
            table.add_rule("open", words.goto("admitted")),
            table.add_chain("leaving"),
            table.add_rule(
                "leaving", words.is_in("current", words.SOURCE, words.MARK), words.accept()
            ),
            table.add_rule("leaving", words.by_map("ways", words.SOURCE)),
            *self._refuse("leaving", "no-way-out"),
            table.add_chain("returning"),
            table.add_rule(
                "returning", words.of_known_flow(),
                words.is_in("current", words.DESTINATION, words.MARK), words.accept(),
            ),
            table.add_rule("returning", words.counted(), words.drop()),
            table.add_chain(forward, hook=_FORWARD),
            table.add_rule(forward, words.is_in("uplinks", words.IN), words.goto("returning")),
            table.add_rule(forward, words.is_in("uplinks", words.OUT), words.goto("leaving")),
            *self._refuse(forward, "no-way-out"),
            table.add_chain("asking"),
            table.add_rule(
                "asking", words.over("flows", MOST_FLOWS, words.SOURCE), words.goto("over")
            ),
            table.add_rule("asking", words.accept()),
            table.add_chain(arriving, hook=_INPUT),
            table.add_rule(arriving, words.equals(words.IN, _LOOPBACK), words.accept()),
            table.add_rule(arriving, words.of_known_flow(), words.accept()),
            table.add_rule(
                arriving, words.is_in("uplinks", words.IN), words.counted(), words.drop()
            ),
            *(
                table.add_rule(
                    arriving,
                    words.equals(words.DESTINATION, packed(RESOLVER)),
                    words.equals(words.PROTOCOL, protocol),
                    words.equals(words.PORT, _DOMAIN),
                    words.goto("asking"),
                )
                for protocol in PROTOCOL_OF.values()
            ),
            *self._refuse(arriving, "to-gateway"),
            table.add_chain("departing", hook=_POSTROUTING, priority=_SOURCE_NAT, kind="nat"),
            table.add_rule("departing", words.is_in("uplinks", words.OUT), words.masqueraded()),
        ]  # fmt: skip

    def _refuse_special(self, chain: str) -> list[Message]:
        return [
            self._ip.add_rule(chain, words.is_in(name, words.DESTINATION), words.goto("to special"))
            for name in ("special", "own")
        ]

    def _refuse(self, chain: str, reason: str) -> list[Message]:
        """At the end of a chain of the family `ip`: logged, and the sender is told."""
        return [
            self._ip.add_rule(chain, words.counted()),
            self._ip.add_rule(chain, words.logged(LOG_GROUP, reason, _LOGGED_EACH_SECOND)),
            self._ip.add_rule(chain, words.rejected()),
        ]

    @staticmethod
    def _lose(table: Table, chain: str, reason: str) -> list[Message]:
        return [
            table.add_rule(chain, words.counted()),
            table.add_rule(chain, words.logged(LOG_GROUP, reason, _LOGGED_EACH_SECOND)),
            table.add_rule(chain, words.drop()),
        ]

    # --- parts of a change

    def _without_way(self, address: str) -> list[Message]:
        if address not in self._ways:
            return []
        way = words.goto_verdict(self._ways[address])
        return self._ip.remove_elements("ways", [Element(packed(address), data=way)])

    def _without_generation(self, address: str) -> list[Message]:
        generation = self._generations.get(address)
        if generation is None:
            return []
        mark = number(generation)
        return [
            *self._ip.remove_elements("generation", [Element(packed(address), data=_data(mark))]),
            *self._ip.remove_elements("current", [Element(key(packed(address), mark))]),
        ]

    def _next_generation(self, address: str) -> list[Message]:
        """Flows of earlier ones are looked at anew; a mark is of one container, for ever."""
        self._generation = self._generation % 0xFFFFFFFF + 1
        self._generations[address] = self._generation
        mark = number(self._generation)
        return [
            *self._ip.add_elements("generation", [Element(packed(address), data=_data(mark))]),
            *self._ip.add_elements("current", [Element(key(packed(address), mark))]),
        ]


_SETS = ("single", "special", "names", "name ranges", "public")


def _face(port: int, mac: str, address: str) -> bytes:
    return key(number(port), hardware(mac), packed(address))


def _data(value: bytes) -> dict[str, object]:
    return {"attrs": [("NFTA_DATA_VALUE", value)]}


def _target(address: str, protocol: str, port: int) -> bytes:
    return key(packed(address), PROTOCOL_OF[protocol], port.to_bytes(2, "big"))


def _between(address: str, protocol: str, first: int, last: int) -> Element:
    return Element(_target(address, protocol, first), _target(address, protocol, last))


def _entry(address: int, protocol: str, port: int) -> bytes:
    return key(address.to_bytes(4, "big"), PROTOCOL_OF[protocol], port.to_bytes(2, "big"))


def _ranges(networks: Iterable[str]) -> list[Element]:
    """Networks as the kernel's set of ranges of one part has them: beginnings and ends."""
    found = []
    for network in allowing.networks_of(networks):
        found.append(Element(network.address.to_bytes(4, "big")))
        if network.last < 0xFFFFFFFF:
            found.append(Element((network.last + 1).to_bytes(4, "big"), end=True))
    return found


def _without_overlaps(items: Iterable[Allowed]) -> list[Element]:
    """The same targets as ranges that do not overlap, as the kernel's set needs them."""
    found = []
    for protocol in PROTOCOL_OF:
        chosen = [item for item in items if item.protocol == protocol]
        begin: dict[int, list[tuple[int, int]]] = {}
        end: dict[int, list[tuple[int, int]]] = {}
        for item in chosen:
            assert isinstance(item.host, Network)
            begin.setdefault(item.host.address, []).append((item.first, item.last))
            end.setdefault(item.host.last + 1, []).append((item.first, item.last))
        open_ports: list[tuple[int, int]] = []
        borders = sorted({*begin, *end})
        for start, stop in itertools.pairwise(borders):
            for ports in end.get(start, ()):
                open_ports.remove(ports)
            open_ports += begin.get(start, ())
            for first, last in _joined(open_ports):
                found.append(
                    Element(_entry(start, protocol, first), _entry(stop - 1, protocol, last))
                )
    return found


def _joined(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(joined[-1][1], last))
        else:
            joined.append((first, last))
    return joined
