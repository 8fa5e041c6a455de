"""nftables as objects: a table, its chains, rules, sets and maps, and what is in those.

Each method returns a message; those of one batch come into force together (`netlink.Rules`).
Source: include/uapi/linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from pyroute2.netlink import NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL
from pyroute2.netlink.nfnetlink.nftsocket import (
    NFT_MSG_DELCHAIN,
    NFT_MSG_DELSET,
    NFT_MSG_DELSETELEM,
    NFT_MSG_DELTABLE,
    NFT_MSG_NEWCHAIN,
    NFT_MSG_NEWRULE,
    NFT_MSG_NEWSET,
    NFT_MSG_NEWSETELEM,
    NFT_MSG_NEWTABLE,
    nft_chain_msg,
    nft_set_elem_list_msg,
    nft_table_msg,
)

from sandbox_kernel.network.expressions import Expression, Part, RuleMessage, SetMessage

IP, BRIDGE = 2, 7  # NFPROTO_*
OWNED = 0x2  # NFT_TABLE_F_OWNER: the table ends with the socket that made it
MOST_IN_MESSAGE = 400
"""Elements: an attribute of a message holds 64 KiB."""
_KIND_BITS = 6  # TYPE_BITS of nft(8), for a key of several parts
_MARK = 19
_VERDICTS = 0xFFFFFF00  # NFT_DATA_VERDICT
_END = 1  # NFT_SET_ELEM_INTERVAL_END, by which pyroute2 means the first bit

Message = tuple[int, int, Any]


class Element(NamedTuple):
    """One key of a set, or with `data` of a map. `last`: of a range. `lifetime`: in seconds."""

    key: bytes
    last: bytes | None = None
    data: dict[str, Any] | None = None
    lifetime: float | None = None
    end: bool = False


def key(*parts: bytes) -> bytes:
    """Parts of a key, each in whole registers."""
    return b"".join(part + bytes(-len(part) % 4) for part in parts)


class Table:
    """One table of one family."""

    def __init__(self, family: int, name: str) -> None:
        self.family = family
        self.name = name

    def _message(self, kind: Any, *attributes: tuple[str, object]) -> Any:
        message = kind()
        message["nfgen_family"] = self.family
        message["attrs"] = [*attributes]
        return message

    def add(self, *, owned: bool = False) -> Message:
        """The table itself."""
        flags = OWNED if owned else 0
        name = ("NFTA_TABLE_NAME", self.name)
        made = self._message(nft_table_msg, name, ("NFTA_TABLE_FLAGS", flags))
        return (NFT_MSG_NEWTABLE, NLM_F_CREATE, made)

    def remove(self) -> Message:
        """All that is in it goes too."""
        gone = self._message(nft_table_msg, ("NFTA_TABLE_NAME", self.name))
        return (NFT_MSG_DELTABLE, 0, gone)

    def add_chain(
        self,
        name: str,
        *,
        hook: int | None = None,
        priority: int = 0,
        kind: str = "filter",
        lets_pass: bool = False,
    ) -> Message:
        """A chain; one with a hook sees packets by itself, and drops what no rule decides.

        One that translates addresses can't drop, and one of the machine shall not.
        """
        attributes: list[tuple[str, object]] = [
            ("NFTA_CHAIN_TABLE", self.name),
            ("NFTA_CHAIN_NAME", name),
        ]
        if hook is not None:
            place = [("NFTA_HOOK_HOOKNUM", hook), ("NFTA_HOOK_PRIORITY", priority)]
            attributes += [
                ("NFTA_CHAIN_HOOK", {"attrs": place}),
                ("NFTA_CHAIN_TYPE", kind),
                ("NFTA_CHAIN_POLICY", int(lets_pass or kind == "nat")),
            ]
        return (NFT_MSG_NEWCHAIN, NLM_F_CREATE, self._message(nft_chain_msg, *attributes))

    def remove_chain(self, name: str) -> Message:
        """With its rules; nothing may lead to it any more."""
        gone = self._message(
            nft_chain_msg, ("NFTA_CHAIN_TABLE", self.name), ("NFTA_CHAIN_NAME", name)
        )
        return (NFT_MSG_DELCHAIN, 0, gone)

    def add_rule(self, chain: str, *words: list[Expression]) -> Message:
        """One more rule at the end of a chain."""
        expressions = [expression for word in words for expression in word]
        made = self._message(
            RuleMessage,
            ("NFTA_RULE_TABLE", self.name),
            ("NFTA_RULE_CHAIN", chain),
            ("NFTA_RULE_EXPRESSIONS", expressions),
        )
        return (NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, made)

    def add_set(
        self,
        name: str,
        *parts: Part,
        ranges: bool = False,
        lifetimes: bool = False,
        counts: bool = False,
        data: int | None = None,
    ) -> Message:
        """A set, or with `data` a map to marks of that many bytes; 0: to verdicts.

        With `counts` rules put into it what they count.
        """
        flags = set()
        kind = 0
        for part in parts:
            kind = kind << _KIND_BITS | part.kind
        attributes: list[tuple[str, object]] = [
            ("NFTA_SET_TABLE", self.name),
            ("NFTA_SET_NAME", name),
            ("NFTA_SET_ID", 1),
            ("NFTA_SET_KEY_TYPE", kind),
            ("NFTA_SET_KEY_LEN", 4 * sum(part.registers for part in parts)),
        ]
        if ranges:
            flags.add("NFT_SET_INTERVAL")
        if len(parts) > 1:
            flags.add("NFT_SET_CONCAT")
            lengths = [
                ("NFTA_LIST_ELEM", {"attrs": [("NFTA_SET_FIELD_LEN", part.length)]})
                for part in parts
            ]
            described = [("NFTA_SET_DESC_CONCAT", {"attrs": lengths})]
            attributes.append(("NFTA_SET_DESC", {"attrs": described}))
        if lifetimes:
            flags.add("NFT_SET_TIMEOUT")
        if counts:
            flags.add("NFT_SET_EVAL")
        if data is not None:
            flags.add("NFT_SET_MAP")
            attributes.append(("NFTA_SET_DATA_TYPE", _MARK if data else _VERDICTS))
            if data:
                attributes.append(("NFTA_SET_DATA_LEN", data))
        attributes.append(("NFTA_SET_FLAGS", flags))
        made = self._message(SetMessage, *attributes)
        return (NFT_MSG_NEWSET, NLM_F_CREATE | NLM_F_EXCL, made)

    def remove_set(self, name: str) -> Message:
        """With all that is in it; no rule may use it any more."""
        gone = self._message(SetMessage, ("NFTA_SET_TABLE", self.name), ("NFTA_SET_NAME", name))
        return (NFT_MSG_DELSET, 0, gone)

    def add_elements(self, name: str, elements: Iterable[Element]) -> list[Message]:
        """More keys. One that is there already stays as it is, unless its data differs."""
        return self._of_elements(NFT_MSG_NEWSETELEM, NLM_F_CREATE, name, list(elements))

    def remove_elements(self, name: str, elements: Iterable[Element]) -> list[Message]:
        """Keys that have to be there."""
        return self._of_elements(NFT_MSG_DELSETELEM, 0, name, list(elements))

    def _of_elements(
        self, kind: int, flags: int, name: str, elements: Sequence[Element]
    ) -> list[Message]:
        found = []
        for start in range(0, len(elements), MOST_IN_MESSAGE):
            chosen = elements[start : start + MOST_IN_MESSAGE]
            message = self._message(
                nft_set_elem_list_msg,
                ("NFTA_SET_ELEM_LIST_TABLE", self.name),
                ("NFTA_SET_ELEM_LIST_SET", name),
                ("NFTA_SET_ELEM_LIST_ELEMENTS", [_element(each) for each in chosen]),
            )
            found.append((kind, flags, message))
        return found


def _element(element: Element) -> dict[str, Any]:
    attributes: list[tuple[str, object]] = []
    if element.end:
        attributes.append(("NFTA_SET_ELEM_FLAGS", {_END}))
    attributes.append(("NFTA_SET_ELEM_KEY", {"attrs": [("NFTA_DATA_VALUE", element.key)]}))
    if element.last is not None:
        last = {"attrs": [("NFTA_DATA_VALUE", element.last)]}
        attributes.append(("NFTA_SET_ELEM_KEY_END", last))
    if element.data is not None:
        attributes.append(("NFTA_SET_ELEM_DATA", element.data))
    if element.lifetime is not None:
        attributes.append(("NFTA_SET_ELEM_TIMEOUT", int(element.lifetime * 1000)))
    return {"attrs": attributes}
