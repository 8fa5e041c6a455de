"""What the resolver says: a question, who asks it, and what others answered become an answer. Pure.

Who asks is a `Client`. The names of the containers in its network are always answered. Other names
only if it has a way out, and by its allow-list if it has one; the rest does not exist for it, and
the answer says why (RFC 8914). From the answers of others an address of a special range is
left out, whatever name led there: neither a second answer for a name (rebinding), nor a CNAME, nor
one address of many gets in (corpus H 92). What such a name has left is answered as if it had no
address. Under an allow-list only addresses are asked for: no TXT, and so no tunnel but through the
names that are allowed.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from sandbox_kernel import allowing
from sandbox_kernel.allowing import AllowList, Network

PAYLOAD = 1232
"""The most bytes over UDP: what passes everywhere in one piece."""
MOST_LINKS = 8
"""How many CNAME may follow each other."""
MOST_ADDRESSES = 32
"""How many addresses of one answer are passed on."""
LEAST_SECONDS, MOST_SECONDS = 60, 3600
"""How long an address that was told may be used: a lifetime of 0 still gives time to connect."""
NEIGHBOUR_SECONDS = 1
OPEN_TYPES = ("A", "CNAME", "MX", "NS", "PTR", "SOA", "SRV", "TXT", "CAA")
LISTED_TYPES = ("A",)
_MALFORMED = (dns.exception.DNSException, ValueError, IndexError, KeyError, struct.error)

ANSWERED = "answered"
NEIGHBOUR = "a container of the network"
NO_SUCH = "no such name"
NO_WAY_OUT = "the network has no way out"
NOT_LISTED = "not on the allow-list"
OTHER_TYPE = "not a type of record that is asked for"
SPECIAL = "leads to private, loopback, link-local or other special addresses only"
UNANSWERED = "no name server answered"
FULL = "too many questions or addresses"
IPV6_OFF = "IPv6 is off"
# Why a name was refused, or what became of it: `Asked.outcome`.


class Client(NamedTuple):
    """A container as the resolver knows it, by its address."""

    container: str
    network: str
    names: tuple[str, ...]
    """What the others of its network call it; in lower case."""
    outside: bool
    """Whether it has a way out."""
    allow: AllowList | None = None
    """None: every name of the public network."""


class Learned(NamedTuple):
    """An address that a container may use from now on, because of a name that it asked for."""

    address: str
    protocol: str
    first: int
    last: int
    lifetime: int


@dataclass(frozen=True, slots=True)
class Query:
    """A question that was understood."""

    message: dns.message.Message
    name: str
    """In lower case without a dot at the end; empty when it is no name of a host."""
    kind: dns.rdatatype.RdataType

    @property
    def shown(self) -> str:
        """The name as it was asked for."""
        return self.message.question[0].name.to_text(omit_final_dot=True)

    @property
    def shown_kind(self) -> str:
        """The type of record, by its name when it has one."""
        return dns.rdatatype.to_text(self.kind)


class Answer(NamedTuple):
    """What goes back, why, and what may be used because of it."""

    message: dns.message.Message
    outcome: str
    addresses: tuple[str, ...] = ()
    learned: tuple[Learned, ...] = ()


def read(wire: bytes) -> Query | bytes | None:
    """A question; or what is answered to one that is none; None when nothing is answered."""
    try:
        message = dns.message.from_wire(wire)
    except _MALFORMED:
        return _refused(wire, dns.rcode.FORMERR)
    if message.flags & dns.flags.QR:
        return None
    if message.opcode() != dns.opcode.QUERY:
        return _refused(wire, dns.rcode.NOTIMP)
    if len(message.question) != 1 or message.answer or message.authority:
        return _refused(wire, dns.rcode.FORMERR)
    asked = message.question[0]
    if asked.rdclass != dns.rdataclass.IN:
        return _refused(wire, dns.rcode.REFUSED)
    # An octet that is no letter of a host's name is escaped in text, so it makes no plain name.
    name = allowing.plain_name(asked.name.to_text(omit_final_dot=True).lower()) or ""
    return Query(message, name, asked.rdtype)


def at_once(query: Query, client: Client, neighbours: Mapping[str, str]) -> Answer | None:
    """The answer that needs nobody else; None when name servers must be asked."""
    if (address := neighbours.get(query.name)) is not None:
        return _of_neighbour(query, address)
    if (found := _neighbour_at(query, neighbours)) is not None:
        return found
    if (why := _why_not(query, client)) is not None:
        return _denied(query, why)
    if query.kind == dns.rdatatype.AAAA:
        return _empty(query, IPV6_OFF)
    asked_for = OPEN_TYPES if client.allow is None else LISTED_TYPES
    return None if query.shown_kind in asked_for else _empty(query, OTHER_TYPE)


def question(query: Query) -> dns.message.Message:
    """What name servers are asked: the name and the type, and nothing else of the client's."""
    asked = query.message.question[0]
    return dns.message.make_query(
        asked.name, query.kind, use_edns=0, payload=PAYLOAD, request_payload=PAYLOAD
    )


def understood(wire: bytes, asked: dns.message.Message) -> dns.message.Message | None:
    """The answer of a name server, if it is one to what was asked."""
    try:
        message = dns.message.from_wire(wire, ignore_trailing=True)
        return message if asked.is_response(message) else None
    except _MALFORMED:
        return None


def from_outside(query: Query, client: Client, heard: dns.message.Message) -> Answer:
    """What of the answer of a name server is passed on."""
    if heard.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return failed(query, UNANSWERED)
    chain, last = _follow(query, heard)
    if last is None:
        answer = _empty(query, NO_SUCH)
        answer.message.set_rcode(heard.rcode())
        answer.message.answer.extend(chain)
        return answer
    if query.kind != dns.rdatatype.A:
        answer = _empty(query, ANSWERED)
        answer.message.answer.extend([*chain, last])
        return answer
    named = _named(client)
    told = [text for text in _addresses(last) if _may_be_told(text, named)][:MOST_ADDRESSES]
    if not told:
        return _denied(query, SPECIAL)
    lifetime = min(max(int(last.ttl), LEAST_SECONDS), MOST_SECONDS)
    answer = _empty(query, ANSWERED)
    answer.message.answer.extend(chain)
    answer.message.answer.append(
        dns.rrset.from_text(last.name, min(int(last.ttl), lifetime), "IN", "A", *told)
    )
    rules = client.allow.of_name(query.name) if client.allow is not None else ()
    learned = tuple(
        Learned(text, rule.protocol, rule.first, rule.last, lifetime)
        for text in told
        if not allowing.is_special(_number(text))
        for rule in rules
    )
    return Answer(answer.message, ANSWERED, tuple(told), learned)


def failed(query: Query, why: str) -> Answer:
    """The answer when there is none now; asked again it may go well."""
    message = _response(query)
    message.set_rcode(dns.rcode.SERVFAIL)
    return Answer(message, why)


def packed(answer: Answer, query: Query, *, stream: bool) -> bytes:
    """The answer as bytes; over UDP cut to what the client can take, and marked so."""
    room = 65535 if stream else min(max(query.message.payload, 512), PAYLOAD)
    try:
        return answer.message.to_wire(max_size=room, prefer_truncation=True)
    except _MALFORMED:  # what a name server said can't be said again
        return failed(query, UNANSWERED).message.to_wire()


def _why_not(query: Query, client: Client) -> str | None:
    """Why this client may not ask for this name; None when it may."""
    if not client.outside:
        return NO_WAY_OUT
    if client.allow is None:  # a name of one part means something else to each who is asked
        return None if "." in query.name else NO_SUCH
    return None if client.allow.of_name(query.name) else NOT_LISTED


def _of_neighbour(query: Query, address: str) -> Answer:
    answer = _empty(query, NEIGHBOUR)
    if query.kind == dns.rdatatype.A:
        name = query.message.question[0].name
        answer.message.answer.append(
            dns.rrset.from_text(name, NEIGHBOUR_SECONDS, "IN", "A", address)
        )
        return answer._replace(addresses=(address,))
    return answer


def _neighbour_at(query: Query, neighbours: Mapping[str, str]) -> Answer | None:
    """Who has an address of the network: `2.0.88.10.in-addr.arpa`."""
    if query.kind != dns.rdatatype.PTR or not query.name.endswith(".in-addr.arpa"):
        return None
    address = ".".join(reversed(query.name.removesuffix(".in-addr.arpa").split(".")))
    names = [name for name, at in neighbours.items() if at == address]
    if names:
        answer = _empty(query, NEIGHBOUR)
        asked = query.message.question[0].name
        answer.message.answer.append(
            dns.rrset.from_text(asked, NEIGHBOUR_SECONDS, "IN", "PTR", f"{names[0]}.")
        )
        return answer._replace(addresses=(address,))
    number = allowing.address_number(address)
    return _denied(query, NO_SUCH) if number is None or allowing.is_special(number) else None


def _follow(
    query: Query, heard: dns.message.Message
) -> tuple[list[dns.rrset.RRset], dns.rrset.RRset | None]:
    """The chain of CNAME from the name that was asked for, and what stands at its end."""
    chain: list[dns.rrset.RRset] = []
    name = query.message.question[0].name
    for _ in range(MOST_LINKS):
        found = heard.get_rrset(heard.answer, name, dns.rdataclass.IN, query.kind)
        if found is not None and len(found):
            return chain, found
        link = heard.get_rrset(heard.answer, name, dns.rdataclass.IN, dns.rdatatype.CNAME)
        if link is None or not len(link):
            break
        chain.append(link)
        name = link[0].target
    return chain, None


def _addresses(found: dns.rrset.RRset) -> list[str]:
    return [item.address for item in found]


def _number(address: str) -> int:
    number = allowing.address_number(address)
    assert number is not None  # the library writes four decimals
    return number


def _named(client: Client) -> tuple[Network, ...]:
    """The special ranges that the list names as addresses."""
    listed = client.allow.networks if client.allow is not None else ()
    return tuple(item.host for item in listed if item.special and isinstance(item.host, Network))


def _may_be_told(address: str, named: tuple[Network, ...]) -> bool:
    number = _number(address)
    return not allowing.is_special(number) or any(number in network for network in named)


def _response(query: Query) -> dns.message.Message:
    return dns.message.make_response(query.message, recursion_available=True, our_payload=PAYLOAD)


def _empty(query: Query, outcome: str) -> Answer:
    """No record: the name may be there, but not what was asked of it."""
    return Answer(_response(query), outcome)


def _denied(query: Query, why: str) -> Answer:
    """No such name, for this client; said so that it does not ask again."""
    message = _response(query)
    message.set_rcode(dns.rcode.NXDOMAIN)
    if query.message.edns >= 0:
        reason = dns.edns.EDEOption(dns.edns.EDECode.BLOCKED, why)
        message.use_edns(0, payload=PAYLOAD, options=[reason])
    return Answer(message, why)


def _refused(wire: bytes, code: dns.rcode.Rcode) -> bytes | None:
    """An answer to bytes that can't be read as a question: their header, and a status."""
    if len(wire) < 12 or wire[2] & 0x80:
        return None
    flags = 0x8000 | ((wire[2] & 0x79) << 8) | 0x80 | int(code)
    return wire[:2] + struct.pack(">HHHHH", flags, 0, 0, 0, 0)
