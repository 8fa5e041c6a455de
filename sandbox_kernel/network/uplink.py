"""A way out for root: a veth pair into the machine's network namespace, and a translation there.

All of it ends with the holder, however that ends: a pair with the namespace of its other end, the
table with the socket that owns it. Only the switches that have the machine pass packets on stay
after a SIGKILL; the next start takes them back (`runtime.forwarding`). While they are on for our
sake, nothing but our packets is passed on by those links.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network

from sandbox_kernel.errors import HostLacks
from sandbox_kernel.network import expressions as words
from sandbox_kernel.network import links
from sandbox_kernel.network.firewall import number, packed
from sandbox_kernel.network.machine import PREFIX, Machine
from sandbox_kernel.network.netlink import Netlink, Rules
from sandbox_kernel.network.spaces import Spaces, identity
from sandbox_kernel.network.tables import IP, Element, Message, Table
from sandbox_kernel.runtime import forwarding

INSIDE = "out"
"""The link that leads out, in the holder's namespace."""
_FORWARD, _POSTROUTING = 2, 4
_SOURCE_NAT = 100


class Uplink:
    """See `networks.Outlet`."""

    def __init__(
        self, spaces: Spaces, machine: Machine, own: Netlink, link: IPv4Network, folder: str
    ) -> None:
        self._spaces = spaces
        self._machine = machine
        self._own = own
        self._there, self._here = (str(address) for address in list(link.hosts())[:2])
        self._bits = link.prefixlen
        self._folder = folder
        self._name = f"{PREFIX}{identity(spaces.own)}"[:15]
        self._link = -1
        self._rules: Rules | None = None

    @property
    def alive(self) -> bool:
        """It does not end by itself."""
        return True

    def open(self) -> int:
        """Make the pair, the translation and the switches. Raises HostLacks, OSError."""
        try:
            self._link = links.add_pair(
                self._own, INSIDE, self._name, self._spaces.host, self._here, self._bits
            )
            peer = self._machine.interfaces_of_ours()[self._name]
            links.add_address(self._machine.links, peer, self._there, self._bits)
            links.switch_on(self._machine.links, peer)
            links.add_default_route(self._own, self._there, self._link)
            others = self._machine.interfaces()
            self._rules = self._spaces.outside.call(Rules)
            self._rules.request(self._build(peer, others.values()))
            self._spaces.outside.call(
                lambda: forwarding.switch_on(self._folder, {**others, self._name: peer})
            )
        except OSError as error:
            self.close()
            raise HostLacks(
                f"make a way out of the networks: {error.strerror or error}: the network of this "
                "machine has to let root add links, nftables rules and switches of net.ipv4.conf"
            ) from error
        return self._link

    def close(self) -> None:
        """Take it all back."""
        self._spaces.outside.call(lambda: forwarding.switch_back(self._folder))
        if self._link >= 0:
            links.remove(self._own, self._link)
            self._link = -1
        if self._rules is not None:
            self._rules.close()
            self._rules = None

    def _build(self, peer: int, others: Iterable[int]) -> list[Message]:
        table = Table(IP, self._name)
        ours, source = number(peer), packed(self._here)
        chain, leaving = "passing", "leaving"
        closed = [Element(number(each)) for each in self._closed(others)]
        return [
            table.add(owned=True),
            table.add_set("closed", words.IN),
            *table.add_elements("closed", closed),
            table.add_chain(chain, hook=_FORWARD, lets_pass=True),
            table.add_rule(
                chain, words.equals(words.IN, ours), words.differs(words.SOURCE, source),
                words.counted(), words.drop(),
            ),
            table.add_rule(chain, words.equals(words.IN, ours), words.accept()),
            table.add_rule(
                chain, words.equals(words.OUT, ours), words.of_known_flow(), words.accept()
            ),
            table.add_rule(
                chain, words.equals(words.OUT, ours), words.counted(), words.drop()
            ),
            table.add_rule(chain, words.is_in("closed", words.IN), words.counted(), words.drop()),
            table.add_chain(leaving, hook=_POSTROUTING, priority=_SOURCE_NAT, kind="nat"),
            table.add_rule(
                leaving, words.equals(words.SOURCE, source), words.differs(words.OUT, ours),
                words.masqueraded(),
            ),
        ]  # fmt: skip

    def _closed(self, others: Iterable[int]) -> list[int]:
        """Links that passed nothing on before we came, and shall pass nothing but ours."""
        names = {index: name for name, index in self._machine.interfaces().items()}
        return self._spaces.outside.call(
            lambda: [index for index in others if not forwarding.is_on(names[index])]
        )
