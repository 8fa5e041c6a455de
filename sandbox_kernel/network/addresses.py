"""Addresses of networks and containers: which range is free on this machine, and who has which.

One range of 16 bits is cut into 64 networks of 1021 containers each. The last of them is for the
link to the machine itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network

from sandbox_kernel.errors import HostLacks, StepFailed

RANGES = ("10.203.0.0/16", "10.67.0.0/16", "172.29.0.0/16", "192.168.0.0/16", "100.89.0.0/16")
"""Tried in this order when the settings name none."""
NETWORK_BITS = 22
LINK_BITS = 30


def choose(wanted: str | None, taken: Iterable[IPv4Network]) -> IPv4Network:
    """A range that no route of this machine leads into. Raises HostLacks."""
    routes = list(taken)
    for text in (wanted,) if wanted else RANGES:
        candidate = IPv4Network(text)
        if not any(candidate.overlaps(route) for route in routes):
            return candidate
    if wanted:
        meets = next(route for route in routes if IPv4Network(wanted).overlaps(route))
        raise HostLacks(
            f"use the addresses `{wanted}` of `network_range`: this machine has a route to {meets}"
            ": set another range, or none, so that a free one is taken"
        )
    raise HostLacks(
        "find addresses for networks: this machine has routes into all ranges that are tried "
        f"({', '.join(RANGES)}): set `network_range` to 65536 private addresses that are free"
    )


class Subnet:
    """The addresses of one network: the first is the bridge's."""

    def __init__(self, network: IPv4Network) -> None:
        self.network = network
        self.gateway = str(network[1])
        self._next = 2
        self._taken: set[int] = set()

    def take(self) -> str:
        """A free address, the one that was given back longest ago last. Raises StepFailed."""
        size = self.network.num_addresses - 3
        for _ in range(size):
            number = self._next
            self._next = number + 1 if number + 2 < self.network.num_addresses else 2
            if number not in self._taken:
                self._taken.add(number)
                return str(self.network[number])
        raise StepFailed("find", "an address", f"all {size} of {self.network} are taken")

    def give_back(self, address: str) -> None:
        """It is nobody's now."""
        self._taken.discard(int(IPv4Address(address)) - int(self.network[0]))


class Addresses:
    """The range of a holder, and which parts of it are networks."""

    def __init__(self, whole: IPv4Network) -> None:
        self.whole = whole
        parts = list(whole.subnets(new_prefix=NETWORK_BITS))
        last = parts.pop()
        self.link = next(last.subnets(new_prefix=LINK_BITS))
        self._free = parts

    def take(self, name: str) -> Subnet:
        """The addresses of one more network. Raises StepFailed."""
        if not self._free:
            raise StepFailed("make", f"network {name}", f"all networks in {self.whole} are in use")
        return Subnet(self._free.pop(0))

    def give_back(self, subnet: Subnet) -> None:
        """The network is gone."""
        self._free.append(subnet.network)


def hardware_address(prefix: str, address: str) -> str:
    """The hardware address that goes with an address: as unique as that is."""
    number = IPv4Address(address).packed
    return ":".join([prefix, *(f"{byte:02x}" for byte in number)])
