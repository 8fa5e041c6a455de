"""Where a registry's name leads: scheme, host and port; mirrors first; and who may be told what.

An origin is what credentials are bound to. Plain http is for loopback, and for what the user's own
settings name; nothing that a registry says makes a request plain.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass

from sandbox_kernel.grammar import DEFAULT_REGISTRY
from sandbox_kernel.image.reference import Registry
from sandbox_kernel.image.registry.configuration import Configuration

DOCKER_HUB = "registry-1.docker.io"
PORTS = {"https": 443, "http": 80}
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Registries whose tokens are made by another host than the registry's own. More are given by the
# setting `token_realms`.
REALMS = frozenset(
    {
        ("docker.io", "auth.docker.io"),
        ("registry.gitlab.com", "gitlab.com"),
        ("registry.redhat.io", "sso.redhat.com"),
    }
)


@dataclass(frozen=True)
class Origin:
    """Scheme, host and port, as a browser means it."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """`HOST[:PORT]`, without the scheme's usual port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"


@dataclass(frozen=True)
class Endpoint:
    """One place to ask for a repository. `registry` is the name that its credentials go by."""

    origin: Origin
    repository: str
    registry: str
    may_be_plain: bool = False
    """A loopback registry that does not speak TLS may be spoken to in plain http."""

    def plain(self) -> Endpoint:
        """The same without TLS."""
        origin = Origin("http", self.origin.host, self.origin.port)
        return Endpoint(origin, self.repository, self.registry)

    def __str__(self) -> str:
        return f"{self.origin}/{self.repository}"


def endpoints(reference: Registry, configuration: Configuration) -> Iterator[Endpoint]:
    """Mirrors in the order of the settings, then the registry itself."""
    for mirror in configuration.mirrors:
        if mirror.registry == reference.authority:
            repository = f"{mirror.prefix}/{reference.repository}".strip("/")
            host, port = split(mirror.authority)
            origin = Origin(mirror.scheme, host, port or PORTS[mirror.scheme])
            yield Endpoint(origin, repository, mirror.authority)
    yield upstream(reference, configuration)


def upstream(reference: Registry, configuration: Configuration) -> Endpoint:
    """The registry that the name itself says."""
    host = DOCKER_HUB if reference.authority == DEFAULT_REGISTRY else reference.host.strip("[]")
    if reference.authority in configuration.plain_http:
        origin = Origin("http", host, reference.port or PORTS["http"])
        return Endpoint(origin, reference.repository, reference.authority)
    # With no port given there is nothing on loopback to try both ways.
    origin = Origin("https", host, reference.port or PORTS["https"])
    may_be_plain = is_loopback(host) and reference.port is not None
    return Endpoint(origin, reference.repository, reference.authority, may_be_plain)


def split(authority: str) -> tuple[str, int | None]:
    """Host without brackets, and port."""
    if authority.endswith("]") or ":" not in authority:
        return authority.strip("[]"), None
    host, _, port = authority.rpartition(":")
    return host.strip("[]"), int(port)


def literal(host: str) -> Address | None:
    """The address that a host is written as; None for a name."""
    try:
        return plain_address(ipaddress.ip_address(host.strip("[]").partition("%")[0]))
    except ValueError:
        return None


def plain_address(address: Address) -> Address:
    """What an IPv6 address that only wraps an IPv4 one leads to."""
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped or address.sixtofour or address
    return address


def is_loopback(host: str) -> bool:
    """Whether a host is this machine by its very name."""
    address = literal(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def distance(address: Address) -> int:
    """How far away an address is: 0 nobody may be sent there, 1 this machine, 2 its net, 3 all."""
    address = plain_address(address)
    if address.is_link_local or address.is_multicast or address.is_unspecified:
        return 0
    if address.is_loopback:
        return 1
    return 3 if address.is_global else 2
