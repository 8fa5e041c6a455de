"""All that is known of the network of one container, gathered in the holder as plain data.

`inside` is read from the kernel in the container's namespace, `rules` in the holder's; the rest is
what the holder did for it: where it is plugged in, what it may reach, what it asked for, what was
not let through.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from sandbox_kernel.network import observed, rules_shown
from sandbox_kernel.network.networks import Networks, Plugged, described
from sandbox_kernel.network.resolver import Asked
from sandbox_kernel.network.spaces import Spaces

MOST_ASKED, MOST_DROPS, MOST_CONNECTIONS, MOST_ALLOWED = 100, 100, 500, 200
"""How many of each are told; of what was asked and dropped, the last ones."""


class Resolver(Protocol):
    """What is needed of `resolver.Resolver`."""

    def asked(self, address: str) -> tuple[Asked, ...]:
        """The last questions of a container."""

    def dropped(self, address: str) -> int:
        """How many questions were too many."""


class Drops(Protocol):
    """What is needed of `drops.Drops`."""

    def after(self, position: int, container: str | None) -> dict[str, Any]:
        """Those of a container after a position."""


def of_container(
    networks: Networks, spaces: Spaces, resolver: Resolver, drops: Drops, container: str
) -> dict[str, Any]:
    """By its id or name. Raises NoSuchContainer, OSError."""
    plugged = networks.find(container)
    with spaces.inside(plugged.space):
        inside = observed.here()
    inside["connections"] = inside["connections"][:MOST_CONNECTIONS]
    addresses = [link.address for link in plugged.links]
    asked = sorted(each for address in addresses for each in resolver.asked(address))
    listed = [] if plugged.allow is None else [str(entry) for entry in plugged.allow]
    return {
        "container": plugged.container,
        "name": plugged.name,
        "networks": [_link(networks, plugged, number) for number in range(len(plugged.links))],
        "allow": None if plugged.allow is None else listed[:MOST_ALLOWED],
        "allow_count": len(listed),
        "shape": msgspec.to_builtins(plugged.shape),
        "inside": inside,
        "rules": rules_shown.here(),
        "asked": [each._asdict() for each in asked[-MOST_ASKED:]],
        "questions_dropped": sum(resolver.dropped(address) for address in addresses),
        "drops": drops.after(0, plugged.container)["drops"][-MOST_DROPS:],
    }


def _link(networks: Networks, plugged: Plugged, number: int) -> dict[str, Any]:
    link = plugged.links[number]
    network = networks.networks[link.network]
    return {
        **described(link),
        "gateway": network.subnet.gateway,
        "outside": network.outside,
        "neighbours": {
            other.container: {"name": other.name, "address": at.address}
            for member in sorted(network.members - {plugged.container})
            for other in (networks.plugged[member],)
            for at in other.links
            if at.network == link.network and not network.outside
        },
    }
