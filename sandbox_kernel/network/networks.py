"""The networks of one user on one machine, and the containers in them: the holder's own state.

Everything here is in the kernel, in the holder's namespace, before a method returns; what fails
half way is taken back. Nothing of a container runs before `plug` has returned, and then its rules
are in force.
"""

from __future__ import annotations

import dataclasses
import os
import re
import socket
from collections.abc import Iterable
from typing import Any, Protocol

import msgspec

from sandbox_kernel import allowing, grammar
from sandbox_kernel.allowing import AllowList
from sandbox_kernel.errors import InvalidOption, NoSuchContainer, StepFailed
from sandbox_kernel.network import links, netlink, shaping
from sandbox_kernel.network.addresses import Addresses, Subnet, hardware_address
from sandbox_kernel.network.answering import Client, Learned
from sandbox_kernel.network.firewall import Firewall
from sandbox_kernel.network.protocol import BRIDGE, MOST_ALLOWED, Change, Plug, Port, Shape
from sandbox_kernel.network.publishing import Publishing
from sandbox_kernel.network.spaces import Spaces

MOST_INTERFACES = 8
MOST_UNTIDY = 32
"""Links and networks that are gone, of which the rules still know."""


class Resolver(Protocol):
    """What is needed of `resolver.Resolver`."""

    def add(self, address: str, client: Client) -> None: ...
    def change(self, address: str, client: Client) -> tuple[Learned, ...]: ...
    def rename(self, address: str, names: tuple[str, ...]) -> None: ...
    def remove(self, address: str) -> None: ...


class Outlet(Protocol):
    """A way out of the holder's namespace."""

    @property
    def alive(self) -> bool:
        """Whether it is there, once it was opened."""

    def open(self) -> int:
        """Make it, and say by which link it leads. Raises HostLacks, OSError."""

    def close(self) -> None:
        """Take it back."""


@dataclasses.dataclass
class Network:
    """One bridge, and who is on it."""

    name: str
    subnet: Subnet
    bridge: int
    outside: bool
    kept: bool
    """Whether it stays without containers."""
    members: set[str] = dataclasses.field(default_factory=set)


@dataclasses.dataclass
class Link:
    """One interface of a container, and the port of the bridge at its other end."""

    network: str
    interface: int
    port: int
    address: str
    mac: str

    @property
    def name(self) -> str:
        """As the container sees it."""
        return f"eth{self.interface - links.FIRST_INTERFACE}"


@dataclasses.dataclass
class Plugged:
    """A container that is connected."""

    container: str
    name: str | None
    space: int
    """Its network namespace, a descriptor."""
    allow: AllowList | None
    shape: Shape
    links: list[Link] = dataclasses.field(default_factory=list)


class Networks:
    """All of them. Raises InvalidOption, StepFailed, NoSuchContainer, HostLacks, OSError."""

    def __init__(
        self,
        spaces: Spaces,
        firewall: Firewall,
        addresses: Addresses,
        resolver: Resolver,
        publishing: Publishing,
        outlet: Outlet,
        prefix: str,
    ) -> None:
        self._spaces = spaces
        self._firewall = firewall
        self._addresses = addresses
        self._resolver = resolver
        self._publishing = publishing
        self._outlet = outlet
        self._prefix = prefix
        self._links = netlink.route()
        self._count = 0
        self._outlet_link: int | None = None
        self._gone: list[tuple[Subnet, Link]] = []
        self._ended: list[Subnet] = []
        self.networks: dict[str, Network] = {}
        self.plugged: dict[str, Plugged] = {}

    def close(self) -> None:
        """End all of them."""
        for container in list(self.plugged):
            self.unplug(container)
        for name in list(self.networks):
            self._end(self.networks[name])

    # --- networks

    def create(self, name: str) -> dict[str, Any]:
        """A named network that stays without containers."""
        if name == BRIDGE or name in self.networks:
            raise StepFailed("create", f"network {name}", "there is one of this name already")
        network = self._begin(_checked(name))
        network.kept = True
        return self.describe(name)

    def remove(self, name: str) -> None:
        """End a network that has no containers."""
        network = self._network(name)
        if network.members:
            who = ", ".join(sorted(self._called(container) for container in network.members))
            raise StepFailed("remove", f"network {name}", f"containers are in it: {who}")
        self._end(network)

    def describe_all(self) -> list[dict[str, Any]]:
        """All networks as plain data."""
        return [self.describe(name) for name in sorted(self.networks)]

    def describe(self, name: str) -> dict[str, Any]:
        """One network as plain data."""
        network = self._network(name)
        return {
            "name": name,
            "subnet": str(network.subnet.network),
            "gateway": network.subnet.gateway,
            "bridge": network.bridge,
            "outside": network.outside,
            "kept": network.kept,
            "containers": {
                container: {
                    "name": self.plugged[container].name,
                    "address": self._link(self.plugged[container], name).address,
                }
                for container in sorted(network.members)
            },
        }

    def lost_way_out(self) -> None:
        """It ended by itself: until the next container wants one there is none."""
        if self._outlet_link is not None:
            self._firewall.leads_no_more(self._outlet_link)
            self._outlet_link = None

    # --- containers

    def plug(self, order: Plug, space: int) -> dict[str, Any]:
        """Connect a container. Takes the descriptor, unless it raises."""
        if order.container in self.plugged:
            raise StepFailed("plug", order.container, "it is connected already")
        self._free_name(order.name, order.network)
        allow = None if order.allow is None else read_list(order.allow)
        if allow is not None and order.network != BRIDGE:
            raise InvalidOption("--allow", order.network, f"with `--network {BRIDGE}`")
        plugged = Plugged(order.container, order.name, space, allow, order.shape)
        self.plugged[order.container] = plugged
        try:
            link = self._connect(plugged, order.network)
            published = self._publish(plugged, order.publish)
        except BaseException:
            plugged.space = -1
            self.unplug(order.container)
            raise
        return {**described(link), "published": published}

    def unplug(self, container: str) -> None:
        """All of a container goes. Nothing happens when it is gone."""
        plugged = self.plugged.pop(container, None)
        if plugged is None:
            return
        self._publishing.end(container)
        for link in list(plugged.links):
            self._let_go(plugged, link)
        if plugged.space >= 0:
            os.close(plugged.space)

    def name(self, container: str, name: str | None, publish: Iterable[Port]) -> list[Any]:
        """A container that was connected ahead is somebody's now. Returns its ports."""
        plugged = self.find(container)
        for link in plugged.links:
            self._free_name(name, link.network)
        plugged.name = name
        for link in plugged.links:
            self._resolver.rename(link.address, _names(plugged))
        return self._publish(plugged, list(publish))

    def change(self, request: Change) -> dict[str, Any]:
        """Another list, another shape; what is absent stays. Says what is in force now."""
        plugged = self.find(request.container)
        allow = self._changed(plugged, request)
        if allow != plugged.allow:
            if not any(self.networks[link.network].outside for link in plugged.links):
                raise InvalidOption(
                    "--allow", request.container, f"a container with `--network {BRIDGE}`"
                )
            before, plugged.allow = plugged.allow, allow
            try:
                for link in plugged.links:
                    self._set_way(plugged, link)
            except BaseException:
                plugged.allow = before
                raise
        if request.shape is not None:
            for link in plugged.links:
                self._shape(plugged, link, request.shape)
            plugged.shape = request.shape
        return self.describe_container(plugged.container)

    @staticmethod
    def _changed(plugged: Plugged, request: Change) -> AllowList | None:
        if request.allow is None and not request.add and not request.drop:
            return plugged.allow
        entries = list(plugged.allow or ()) if request.allow is None else [
            *read_list(request.allow)
        ]  # fmt: skip
        entries += read_list(request.add)
        for entry in read_list(request.drop):
            if entry not in entries:
                raise InvalidOption("--allow", str(entry), "an entry of the container's list")
            entries.remove(entry)
        return read_list(str(entry) for entry in entries)

    def connect(self, container: str, network: str) -> dict[str, Any]:
        """One more network for a container that lives."""
        plugged = self.find(container)
        if any(link.network == network for link in plugged.links):
            raise StepFailed("connect", container, f"it is in network {network} already")
        if len(plugged.links) >= MOST_INTERFACES:
            raise StepFailed("connect", container, f"it has {MOST_INTERFACES} networks already")
        self._free_name(plugged.name, network)
        return described(self._connect(plugged, network))

    def disconnect(self, container: str, network: str) -> None:
        """One network less."""
        plugged = self.find(container)
        link = self._link(plugged, network)
        links.remove(self._links, link.port)
        self._let_go(plugged, link)

    def learn(self, container: str, learned: Iterable[Learned]) -> None:
        """What a name on its list led to may be used, from now on."""
        plugged = self.find(container)
        for link in plugged.links:
            if self.networks[link.network].outside:
                self._learn(link, learned)

    def container_at(self, address: str, port: int) -> str | None:
        """Whose an address is, or a port of a bridge."""
        for plugged in self.plugged.values():
            for link in plugged.links:
                if link.port == port or link.address == address:
                    return plugged.container
        return None

    def port_of(self, container: str, network: str | None) -> str:
        """The name of the link in the holder's namespace at which a container's packets pass."""
        plugged = self.find(container)
        chosen = plugged.links[0] if network is None else self._link(plugged, network)
        return socket.if_indextoname(chosen.port)

    def describe_container(self, container: str) -> dict[str, Any]:
        """How a container is connected, as plain data."""
        plugged = self.find(container)
        return {
            "container": plugged.container,
            "name": plugged.name,
            "links": [described(link) for link in plugged.links],
            "allow": None if plugged.allow is None else [str(each) for each in plugged.allow],
            "shape": msgspec.to_builtins(plugged.shape),
            "published": self._publishing.of(plugged.container),
            "outside": any(self.networks[link.network].outside for link in plugged.links),
        }

    def find(self, container: str) -> Plugged:
        """By its id, or by its name."""
        found = self.plugged.get(container)
        if found is None:
            named = [each for each in self.plugged.values() if each.name == container]
            if len(named) != 1:
                raise NoSuchContainer(
                    f"find container `{container}`: it is in no network: if it was in one, the "
                    "holder of networks has ended since: start it anew"
                )
            found = named[0]
        return found

    # --- parts

    def _connect(self, plugged: Plugged, name: str) -> Link:
        if len(self._gone) + len(self._ended) > MOST_UNTIDY:
            self.tidy()
        network = self.networks.get(name) or self._begin(_checked(name))
        address = ""
        try:
            if network.outside and not self._outlet.alive:
                self._open_way_out()
            address = network.subnet.take()
            link = self._plug(plugged, network, address)
        except PermissionError as error:
            network.subnet.give_back(address)
            self._end_if_empty(network)
            raise StepFailed(
                "connect",
                plugged.container,
                "it is in another user namespace than your networks: end your other programs that "
                "use containers, and `sandbox-kernel pool stop`",
            ) from error
        except BaseException:
            if address:
                network.subnet.give_back(address)
            self._end_if_empty(network)
            raise
        return link

    def _plug(self, plugged: Plugged, network: Network, address: str) -> Link:
        taken = {link.interface for link in plugged.links}
        first = links.FIRST_INTERFACE
        interface = next(n for n in range(first, first + MOST_INTERFACES) if n not in taken)
        mac = hardware_address(self._prefix, address)
        self._count += 1
        # The first network, and one with a way out before all others, is where the rest goes.
        port = links.plug(
            self._links,
            self._spaces,
            plugged.space,
            port=f"p{self._count}",
            bridge=network.bridge,
            isolated=network.outside,
            mac=mac,
            address=address,
            bits=network.subnet.network.prefixlen,
            gateway=network.subnet.gateway,
            metric=interface + (0 if network.outside else 100),
            interface=interface,
        )
        link = Link(network.name, interface, port, address, mac)
        try:
            self._firewall.admit(port, mac, address)
            try:
                self._resolver.add(address, self._client(plugged, network))
                self._set_way(plugged, link)
                self._shape(plugged, link, plugged.shape)
            except BaseException:
                self._resolver.remove(address)
                self._firewall.forget(port, mac, address)
                raise
        except BaseException:
            links.remove(self._links, port)
            raise
        plugged.links.append(link)
        network.members.add(plugged.container)
        return link

    def _let_go(self, plugged: Plugged, link: Link) -> None:
        """The kernel removes the link with the container's namespace; the rest `tidy` does."""
        network = self.networks[link.network]
        plugged.links.remove(link)
        network.members.discard(plugged.container)
        self._resolver.remove(link.address)
        self._gone.append((network.subnet, link))
        self._end_if_empty(network)

    @property
    def untidy(self) -> bool:
        """Whether the rules know of somebody who is gone."""
        return bool(self._gone or self._ended)

    def tidy(self) -> None:
        """Remove what links are left, and have the rules forget who is gone: all at once.

        Then their addresses can be had again.

        Raises OSError; those addresses are nobody's any more.
        """
        gone, self._gone = self._gone, []
        ended, self._ended = self._ended, []
        if gone:
            links.remove(self._links, *(link.port for _, link in gone))
            faces = [(link.port, link.mac, link.address) for _, link in gone]
            self._firewall.forget_all(faces)
            for subnet, link in gone:
                subnet.give_back(link.address)
        for subnet in ended:
            self._addresses.give_back(subnet)

    def _set_way(self, plugged: Plugged, link: Link) -> None:
        network = self.networks[link.network]
        if not network.outside:
            return
        client = self._client(plugged, network)
        still = self._resolver.change(link.address, client)
        self._firewall.let_out(link.address, plugged.allow)
        self._learn(link, still)

    def _learn(self, link: Link, learned: Iterable[Learned]) -> None:
        self._firewall.learn(
            link.address,
            [
                (each.address, each.protocol, each.first, each.last, each.lifetime)
                for each in learned
                if not allowing.is_special(allowing.address_number(each.address) or 0)
            ],
        )

    def _shape(self, plugged: Plugged, link: Link, shape: Shape) -> None:
        shaping.shape(self._links, link.port, shape)
        with self._spaces.inside(plugged.space):
            within = netlink.route()
        try:
            shaping.shape(within, link.interface, shape)
        finally:
            within.close()

    def _publish(self, plugged: Plugged, ports: list[Port]) -> list[Any]:
        address = plugged.links[0].address
        return [self._publishing.begin(plugged.container, port, address) for port in ports]

    def _client(self, plugged: Plugged, network: Network) -> Client:
        allow = plugged.allow if network.outside else None
        return Client(plugged.container, network.name, _names(plugged), network.outside, allow)

    def _begin(self, name: str) -> Network:
        outside = name == BRIDGE
        subnet = self._addresses.take(name)
        bridge = -1
        try:
            self._count += 1
            bits = subnet.network.prefixlen
            mac = hardware_address(self._prefix, subnet.gateway)
            bridge = links.add_bridge(self._links, f"b{self._count}", mac, subnet.gateway, bits)
            if outside:
                self._open_way_out()
        except BaseException:
            if bridge >= 0:
                links.remove(self._links, bridge)
            self._addresses.give_back(subnet)
            raise
        network = self.networks[name] = Network(name, subnet, bridge, outside, kept=False)
        return network

    def _open_way_out(self) -> None:
        self.lost_way_out()
        self._outlet_link = self._outlet.open()
        self._firewall.leads_out(self._outlet_link)

    def _end_if_empty(self, network: Network) -> None:
        if not network.members and not network.kept:
            self._end(network)

    def _end(self, network: Network) -> None:
        del self.networks[network.name]
        if network.outside:
            self.lost_way_out()
            self._outlet.close()
        self._ended.append(network.subnet)
        links.remove(self._links, network.bridge)

    def _network(self, name: str) -> Network:
        found = self.networks.get(name)
        if found is None:
            known = ", ".join(sorted(self.networks)) or "none"
            raise StepFailed(
                "find", f"network {name}", f"there is no such network: there is {known}"
            )
        return found

    def _link(self, plugged: Plugged, network: str) -> Link:
        found = next((link for link in plugged.links if link.network == network), None)
        if found is None:
            raise StepFailed("find", plugged.container, f"it is not in network {network}")
        return found

    def _free_name(self, name: str | None, network: str) -> None:
        if name is None or network not in self.networks:
            return
        for container in self.networks[network].members:
            if (self.plugged[container].name or "").lower() == name.lower():
                raise StepFailed("create", name, f"network {network} has a container of this name")

    def _called(self, container: str) -> str:
        return self.plugged[container].name or container


def read_list(texts: Iterable[str]) -> AllowList:
    """An allow-list of its entries. Raises InvalidOption."""
    entries = [allowing.entry(text, "--allow") for text in texts]
    if len(entries) > MOST_ALLOWED:
        raise InvalidOption("--allow", f"{len(entries)} entries", f"at most {MOST_ALLOWED}")
    return AllowList(entries)


def described(link: Link) -> dict[str, Any]:
    """One interface of a container as plain data."""
    return {
        "network": link.network,
        "interface": link.name,
        "address": link.address,
        "mac": link.mac,
    }


def _names(plugged: Plugged) -> tuple[str, ...]:
    names = [plugged.container, *([plugged.name] if plugged.name else [])]
    return tuple(dict.fromkeys(name.lower() for name in names))


def _checked(name: str) -> str:
    if name != BRIDGE and (not re.fullmatch(grammar.NAME, name) or name in ("none", "host")):
        allowed = "1 to 63 letters, digits, `_`, `.` or `-`, and neither none nor host"
        raise InvalidOption("--network", name, allowed)
    return name
