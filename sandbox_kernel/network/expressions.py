"""Words of which nftables rules are made, as pyroute2's messages take them.

A rule is a list of expressions that load, compare, look up and decide, by registers of 4 bytes. A
key of several parts lies in registers that follow each other, each part in whole ones.
Sources: include/uapi/linux/netfilter/nf_tables.h, libnftnl(7).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from pyroute2.netlink import nla
from pyroute2.netlink.nfnetlink.nftsocket import nft_rule_msg, nft_set_msg

Expression = dict[str, Any]

FIRST = 8  # NFT_REG32_00
_VERDICT = 0
_DROP, _ACCEPT, _GOTO, _JUMP = 0, 1, -4, -3
_LINK, _NET, _TRANSPORT = 0, 1, 2
_IIF, _OIF, _L4PROTO, _PROTOCOL = 4, 5, 16, 1
_CT_STATE, _CT_MARK = 0, 3
_ESTABLISHED, _RELATED = 2, 4  # bits of NF_CT_STATE_BIT
_EQUAL, _UNEQUAL = 0, 1
_ADD = 0  # NFT_DYNSET_OP_ADD
_UNREACHABLE, _PROHIBITED = 0, 13  # ICMP type by NFT_REJECT_ICMP_UNREACH, code of RFC 1812
_PER_SECOND = 1
_BYTE_ORDER = sys.byteorder


class RuleMessage(nft_rule_msg):  # type: ignore[misc] # pyroute2 has no types
    """A rule whose log group has the kernel's two bytes; pyroute2 gives it four."""

    class nft_expr(nft_rule_msg.nft_expr):  # type: ignore[misc] # noqa: N801 - pyroute2's name
        """See there."""

        class nft_log(nla):  # type: ignore[misc] # noqa: N801 - pyroute2's name
            """NFTA_LOG_*."""

            nla_map = (
                ("NFTA_LOG_UNSPEC", "none"),
                ("NFTA_LOG_GROUP", "be16"),
                ("NFTA_LOG_PREFIX", "asciiz"),
                ("NFTA_LOG_SNAPLEN", "be32"),
                ("NFTA_LOG_QTHRESHOLD", "be16"),
            )


class SetMessage(nft_set_msg):  # type: ignore[misc] # pyroute2 has no types
    """A set whose key has several parts, each of which may be a range."""

    class set_desc(nla):  # type: ignore[misc] # noqa: N801 - pyroute2's name
        """NFTA_SET_DESC_*."""

        nla_map = (
            ("NFTA_SET_DESC_UNSPEC", "none"),
            ("NFTA_SET_DESC_SIZE", "be32"),
            ("NFTA_SET_DESC_CONCAT", "parts"),
        )

        class parts(nla):  # type: ignore[misc] # noqa: N801 - pyroute2's way
            """One for each part of the key."""

            nla_map = (("NFTA_LIST_UNSPEC", "none"), ("NFTA_LIST_ELEM", "part"))

            class part(nla):  # type: ignore[misc] # noqa: N801 - pyroute2's way
                """Its length in bytes."""

                nla_map = (("NFTA_SET_FIELD_UNSPEC", "none"), ("NFTA_SET_FIELD_LEN", "be32"))


def _expression(name: str, *attributes: tuple[str, object]) -> Expression:
    data = {"attrs": list(attributes)}
    return {"attrs": [("NFTA_EXPR_NAME", name), ("NFTA_EXPR_DATA", data)]}


def _meta(key: int, register: int) -> Expression:
    return _expression("meta", ("NFTA_META_KEY", key), ("NFTA_META_DREG", register))


def _payload(base: int, offset: int, length: int, register: int) -> Expression:
    return _expression(
        "payload",
        ("NFTA_PAYLOAD_DREG", register),
        ("NFTA_PAYLOAD_BASE", base),
        ("NFTA_PAYLOAD_OFFSET", offset),
        ("NFTA_PAYLOAD_LEN", length),
    )


class Part:
    """One part of a packet, or of what is known of it, with its length in bytes.

    `kind` is how nft(8) shows it.
    """

    def __init__(self, length: int, kind: int, load: Any) -> None:
        self.length = length
        self.kind = kind
        self.registers = (length + 3) // 4
        self.load = load


IN = Part(4, 20, lambda register: _meta(_IIF, register))
OUT = Part(4, 20, lambda register: _meta(_OIF, register))
PROTOCOL = Part(1, 12, lambda register: _meta(_L4PROTO, register))
SOURCE = Part(4, 7, lambda register: _payload(_NET, 12, 4, register))
DESTINATION = Part(4, 7, lambda register: _payload(_NET, 16, 4, register))
PORT = Part(2, 13, lambda register: _payload(_TRANSPORT, 2, 2, register))
ETHER_TO = Part(6, 9, lambda register: _payload(_LINK, 0, 6, register))
ETHER_FROM = Part(6, 9, lambda register: _payload(_LINK, 6, 6, register))
ETHER_TYPE = Part(2, 10, lambda register: _payload(_LINK, 12, 2, register))
ARP_ETHER = Part(6, 9, lambda register: _payload(_NET, 8, 6, register))
ARP_SOURCE = Part(4, 7, lambda register: _payload(_NET, 14, 4, register))
MARK = Part(
    4,
    19,
    lambda register: _expression("ct", ("NFTA_CT_KEY", _CT_MARK), ("NFTA_CT_DREG", register)),
)


def _loads(parts: Sequence[Part]) -> list[Expression]:
    register, loads = FIRST, []
    for part in parts:
        loads.append(part.load(register))
        register += part.registers
    return loads


def _value(data: bytes) -> dict[str, Any]:
    return {"attrs": [("NFTA_DATA_VALUE", data)]}


def verdict(code: int, chain: str | None = None) -> dict[str, Any]:
    """What is decided, as the data of a map or of `decide`."""
    attributes: list[tuple[str, object]] = [("NFTA_VERDICT_CODE", code)]
    if chain is not None:
        attributes.append(("NFTA_VERDICT_CHAIN", chain))
    return {"attrs": [("NFTA_DATA_VERDICT", {"attrs": attributes})]}


def goto_verdict(chain: str) -> dict[str, Any]:
    """The data of a map that leads to a chain."""
    return verdict(_GOTO, chain)


def equals(part: Part, data: bytes) -> list[Expression]:
    """Only packets in which the part is this."""
    return _compared(part, data, _EQUAL)


def differs(part: Part, data: bytes) -> list[Expression]:
    """Only packets in which it is not."""
    return _compared(part, data, _UNEQUAL)


def _compared(part: Part, data: bytes, how: int) -> list[Expression]:
    compare = _expression(
        "cmp",
        ("NFTA_CMP_SREG", FIRST),
        ("NFTA_CMP_OP", how),
        ("NFTA_CMP_DATA", _value(data)),
    )
    return [part.load(FIRST), compare]


def has_bits(part: Part, mask: bytes) -> list[Expression]:
    """Only packets in which one of these bits of the part is set."""
    return [part.load(FIRST), *_masked(len(mask), mask)]


def _masked(length: int, mask: bytes) -> list[Expression]:
    nothing = bytes(length)
    masked = _expression(
        "bitwise",
        ("NFTA_BITWISE_SREG", FIRST),
        ("NFTA_BITWISE_DREG", FIRST),
        ("NFTA_BITWISE_LEN", length),
        ("NFTA_BITWISE_MASK", _value(mask)),
        ("NFTA_BITWISE_XOR", _value(nothing)),
    )
    compare = _expression(
        "cmp",
        ("NFTA_CMP_SREG", FIRST),
        ("NFTA_CMP_OP", _UNEQUAL),
        ("NFTA_CMP_DATA", _value(nothing)),
    )
    return [masked, compare]


def of_known_flow() -> list[Expression]:
    """Only packets of a flow that was let through before, and errors that belong to one."""
    load = _expression("ct", ("NFTA_CT_KEY", _CT_STATE), ("NFTA_CT_DREG", FIRST))
    mask = (_ESTABLISHED | _RELATED).to_bytes(4, _BYTE_ORDER)
    return [load, *_masked(4, mask)]


def is_in(name: str, *parts: Part) -> list[Expression]:
    """Only packets whose parts are in a set."""
    found = _expression("lookup", ("NFTA_LOOKUP_SET", name), ("NFTA_LOOKUP_SREG", FIRST))
    return [*_loads(parts), found]


def by_map(name: str, *parts: Part) -> list[Expression]:
    """What a map of verdicts says; one that is not in it goes on."""
    found = _expression(
        "lookup",
        ("NFTA_LOOKUP_SET", name),
        ("NFTA_LOOKUP_SREG", FIRST),
        ("NFTA_LOOKUP_DREG", _VERDICT),
    )
    return [*_loads(parts), found]


def over(name: str, most: int, *parts: Part) -> list[Expression]:
    """Only packets with which more flows than that would be there of the same parts.

    The set has what is counted; what has no flow left, the kernel takes out of it.
    """
    limit = _expression(
        "connlimit", ("NFTA_CONNLIMIT_COUNT", most), ("NFTA_CONNLIMIT_FLAGS", {"NFT_LIMIT_F_INV"})
    )
    count = _expression(
        "dynset",
        ("NFTA_DYNSET_SET_NAME", name),
        ("NFTA_DYNSET_OP", _ADD),
        ("NFTA_DYNSET_SREG_KEY", FIRST),
        ("NFTA_DYNSET_EXPR", limit),
    )
    return [*_loads(parts), count]


def mark_by_map(name: str, *parts: Part) -> list[Expression]:
    """Mark the flow as a map says."""
    found = _expression(
        "lookup",
        ("NFTA_LOOKUP_SET", name),
        ("NFTA_LOOKUP_SREG", FIRST),
        ("NFTA_LOOKUP_DREG", FIRST),
    )
    mark = _expression("ct", ("NFTA_CT_KEY", _CT_MARK), ("NFTA_CT_SREG", FIRST))
    return [*_loads(parts), found, mark]


def decide(code: int, chain: str | None = None) -> list[Expression]:
    """Whatever the packet is."""
    return [
        _expression(
            "immediate",
            ("NFTA_IMMEDIATE_DREG", _VERDICT),
            ("NFTA_IMMEDIATE_DATA", verdict(code, chain)),
        )
    ]


def accept() -> list[Expression]:
    """Let it through."""
    return decide(_ACCEPT)


def drop() -> list[Expression]:
    """It is lost."""
    return decide(_DROP)


def goto(chain: str) -> list[Expression]:
    """Go on there, and do not come back."""
    return decide(_GOTO, chain)


def counted() -> list[Expression]:
    """Count packets and bytes."""
    return [_expression("counter", ("NFTA_COUNTER_BYTES", 0), ("NFTA_COUNTER_PACKETS", 0))]


def logged(group: int, reason: str, each_second: int, length: int = 128) -> list[Expression]:
    """Tell who listens to the group, but not of floods."""
    limit = _expression(
        "limit",
        ("NFTA_LIMIT_RATE", each_second),
        ("NFTA_LIMIT_UNIT", _PER_SECOND),
        ("NFTA_LIMIT_BURST", 2 * each_second),
        ("NFTA_LIMIT_TYPE", 0),
        ("NFTA_LIMIT_FLAGS", 0),
    )
    log = _expression(
        "log",
        ("NFTA_LOG_GROUP", group),
        ("NFTA_LOG_PREFIX", reason),
        ("NFTA_LOG_SNAPLEN", length),
    )
    return [limit, log]


def rejected() -> list[Expression]:
    """Say that it is forbidden, so that a program hears of it at once."""
    return [
        _expression(
            "reject",
            ("NFTA_REJECT_TYPE", _UNREACHABLE),
            ("NFTA_REJECT_ICMP_CODE", _PROHIBITED),
        )
    ]


def masqueraded() -> list[Expression]:
    """With the address of the link that it leaves by."""
    return [_expression("masq")]
