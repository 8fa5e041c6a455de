"""The allow-list of a container's network: its grammar, and the list as data. Pure.

    ENTRY     [PROTOCOL:]HOST[:PORTS]
    PROTOCOL  tcp (when none is given) or udp
    HOST      an IPv4 address, a network such as 10.1.0.0/16, a name, or `*.NAME` for every name
              below NAME (and not NAME itself)
    PORTS     one, or FIRST-LAST; none given means every port

A name means the addresses that it has when it is asked for, if they are public ones. An address of
a special range (private, link-local, the metadata services of clouds) is let through only by an
entry that names it as an address, or as a network that lies wholly in one of those ranges:
`10.1.0.0/16` lets private addresses through, `0.0.0.0/0` and a name that leads there do not.
Numbers in any notation but four decimals are refused, since programs read them in different ways.
IPv6 is off in the networks of containers, so it can't be allowed.

>>> str(entry("udp:NTP.Example.:123", "--allow"))
'udp:ntp.example:123'
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, NoReturn

from .errors import InvalidOption

PROTOCOLS = ("tcp", "udp")
LAST_PORT = 65535
ALLOWED = (
    "[tcp:|udp:]HOST[:PORT] such as pypi.org:443, 10.1.0.0/16:5432, *.example.org:443 or "
    "udp:ntp.example:123"
)

# Of the registry of special addresses that IANA keeps (RFC 6890): what no name may lead to.
SPECIAL = (
    "0.0.0.0/8",  # this network
    "10.0.0.0/8",  # private
    "100.64.0.0/10",  # shared by carriers; one cloud has its metadata there
    "127.0.0.0/8",  # loopback
    "169.254.0.0/16",  # link-local; most clouds have their metadata there
    "172.16.0.0/12",  # private
    "192.0.0.0/24",  # protocol assignments
    "192.0.2.0/24",  # documentation
    "192.88.99.0/24",  # 6to4 relays
    "192.168.0.0/16",  # private
    "198.18.0.0/15",  # benchmarks
    "198.51.100.0/24",  # documentation
    "203.0.113.0/24",  # documentation
    "224.0.0.0/4",  # multicast
    "240.0.0.0/4",  # reserved, and broadcast
)
NEVER = ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "240.0.0.0/4")
"""Of these none can be named: an address here is no other host."""

_LABEL = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"
_NAME = rf"{_LABEL}(?:\.{_LABEL})*"
_ADDRESS = r"([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,3})(?:/([0-9]{1,2}))?"
_PORTS = r"([0-9]{1,5})(?:-([0-9]{1,5}))?"
# As browsers read it: a name that ends so is an address in some notation.
_NUMBER = r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)"


class Network(NamedTuple):
    """Addresses that have the first `bits` bits of `address`, a number of 32 bits."""

    address: int
    bits: int

    @property
    def last(self) -> int:
        """The highest address of it."""
        return self.address | (0xFFFFFFFF >> self.bits)

    def __contains__(self, address: object) -> bool:
        return isinstance(address, int) and self.address <= address <= self.last

    def within(self, other: Network) -> bool:
        """Whether all of it lies in another one."""
        return other.bits <= self.bits and self.address in other

    def __str__(self) -> str:
        return shown_address(self.address) + (f"/{self.bits}" if self.bits < 32 else "")


class Allowed(NamedTuple):
    """One entry. `host`: a network, or a name in lower case, which may begin with `*.`."""

    protocol: str
    host: Network | str
    first: int
    last: int

    @property
    def any_port(self) -> bool:
        """Whether it is for every port."""
        return (self.first, self.last) == (0, LAST_PORT)

    @property
    def special(self) -> bool:
        """Whether it names addresses that are let through in no other way."""
        return isinstance(self.host, Network) and is_special_network(self.host)

    def covers(self, other: Allowed) -> bool:
        """Whether all that the other one lets through is let through by this one too."""
        if (
            self.protocol != other.protocol
            or not self.first <= other.first <= other.last <= self.last
        ):
            return False
        mine, theirs = self.host, other.host
        if isinstance(mine, Network):
            return isinstance(theirs, Network) and theirs.within(mine)
        if isinstance(theirs, Network):
            return False
        below = mine.startswith("*.") and theirs.removeprefix("*").endswith(mine[1:])
        return mine == theirs or (below and theirs != mine[2:])

    def __str__(self) -> str:
        ports = f":{self.first}" if self.first == self.last else f":{self.first}-{self.last}"
        protocol = "" if self.protocol == "tcp" else f"{self.protocol}:"
        return f"{protocol}{self.host}{'' if self.any_port else ports}"


class AllowList:
    """Many entries. What a name may is found by a look-up, however many there are."""

    def __init__(self, entries: Iterable[Allowed] = ()) -> None:
        self.entries = tuple(dict.fromkeys(entries))
        names: dict[str, list[Allowed]] = {}
        for item in self.entries:
            if isinstance(item.host, str):
                names.setdefault(item.host, []).append(item)
        self._names: Mapping[str, list[Allowed]] = names

    @property
    def networks(self) -> tuple[Allowed, ...]:
        """The entries that name addresses."""
        return tuple(item for item in self.entries if isinstance(item.host, Network))

    def of_name(self, name: str) -> tuple[Allowed, ...]:
        """The entries for a name in lower case without a dot at the end; none: it is not allowed.

        >>> listed = AllowList([entry("*.good.example:443", "--allow")])
        >>> [len(listed.of_name(name)) for name in
        ...  ("a.good.example", "good.example", "notgood.example", "good.example.evil.example")]
        [1, 0, 0, 0]
        """
        if not self._names:
            return ()
        found = list(self._names.get(name, ()))
        rest = name
        while dot := rest.find(".") + 1:
            rest = rest[dot:]
            found += self._names.get(f"*.{rest}", ())
        return tuple(found)

    def __iter__(self) -> Iterator[Allowed]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AllowList) and self.entries == other.entries

    def __hash__(self) -> int:
        return hash(self.entries)


def entry(value: object, option: str) -> Allowed:
    """One entry of an allow-list. Raises InvalidOption for what is none."""
    if isinstance(value, Allowed):
        value = str(value)
    if not isinstance(value, str) or not 0 < len(value) <= 300:
        _refuse(option, value, ALLOWED)
    protocol, rest = "tcp", value
    for known in PROTOCOLS:
        if value.lower().startswith(f"{known}:"):
            protocol, rest = known, value[len(known) + 1 :]
    if rest.startswith("[") or rest.count(":") > 1:
        _refuse(option, value, f"{ALLOWED}; IPv6 is off in the networks of containers")
    host, colon, text = rest.partition(":")
    first, last = _ports(text, value, option) if colon else (0, LAST_PORT)
    return Allowed(protocol, _host(host, value, option), first, last)


def address_number(text: str) -> int | None:
    """`10.0.0.1` as a number; None for what is not four decimals."""
    found = re.fullmatch(_ADDRESS, text, re.ASCII)
    if found is None or found[5] is not None:
        return None
    return _number(found.groups()[:4])


def shown_address(number: int) -> str:
    """A number as an address."""
    return ".".join(str(number >> shift & 255) for shift in (24, 16, 8, 0))


def plain_name(text: str) -> str | None:
    """A name as it is compared: lower case, ASCII, without a dot at the end. None: it is no name.

    >>> plain_name("Bücher.Example.")
    'xn--bcher-kva.example'
    """
    name = text.removesuffix(".")
    if not name.isascii():
        try:
            name = name.encode("idna").decode("ascii")
        except UnicodeError:
            return None
    name = name.lower()
    if len(name) > 253 or not re.fullmatch(_NAME, name) or re.fullmatch(_NUMBER, name):
        return None
    return name


def is_special(address: int) -> bool:
    """Whether an address lies in a range that no name may lead to."""
    return any(address in network for network in _special())


def is_special_network(network: Network) -> bool:
    """Whether all of a network lies in one of those ranges."""
    return any(network.within(other) for other in _special())


def networks_of(texts: Iterable[str]) -> tuple[Network, ...]:
    """Networks that this program itself wrote down."""
    found = []
    for text in texts:
        host = _host(text, text, "network", never=())
        assert isinstance(host, Network)
        found.append(host)
    return tuple(found)


_known_special: tuple[Network, ...] = ()


def _special() -> tuple[Network, ...]:
    global _known_special  # noqa: PLW0603 - read once, when first needed
    if not _known_special:
        _known_special = networks_of(SPECIAL)
    return _known_special


def _host(text: str, value: object, option: str, never: tuple[str, ...] = NEVER) -> Network | str:
    found = re.fullmatch(_ADDRESS, text, re.ASCII)
    if found is None:
        return _name(text, value, option)
    address = _number(found.groups()[:4])
    bits = 32 if found[5] is None else int(found[5])
    if address is None or bits > 32 or (found[5] or "0") != str(int(found[5] or "0")):
        _refuse(option, value, "an address such as 10.1.2.3, or a network such as 10.1.0.0/16")
    network = Network(address, bits)
    if address & (0xFFFFFFFF >> bits) and bits < 32:
        whole = Network(address & ~(0xFFFFFFFF >> bits), bits)
        _refuse(option, value, f"a network without bits behind the first {bits}, such as {whole}")
    if never and any(network.within(other) for other in networks_of(never)):
        _refuse(option, value, "addresses of other hosts: no loopback, multicast or reserved ones")
    return network


def _name(text: str, value: object, option: str) -> str:
    below = text.startswith("*.")
    name = plain_name(text[2:] if below else text)
    if name is None:
        _refuse(option, value, ALLOWED)
    return f"*.{name}" if below else name


def _ports(text: str, value: object, option: str) -> tuple[int, int]:
    found = re.fullmatch(_PORTS, text, re.ASCII)
    if found is None:
        _refuse(option, value, ALLOWED)
    first = int(found[1])
    last = int(found[2] or first)
    if not 1 <= first <= last <= LAST_PORT:
        _refuse(option, value, f"a port from 1 to {LAST_PORT}, or FIRST-LAST")
    return first, last


def _number(parts: Iterable[str]) -> int | None:
    """Four decimals; a leading zero means octal to some programs."""
    number = 0
    for part in parts:
        if part != str(int(part)) or int(part) > 255:
            return None
        number = number << 8 | int(part)
    return number


def _refuse(option: str, value: object, allowed: str) -> NoReturn:
    raise InvalidOption(option, value, allowed)
