"""The rules of the holder's namespace as the kernel has them now, one line of text each.

A rule is a list of expressions that load fields into registers, compare, look up and decide; here
it is put into words, with what was counted. Nothing is taken from what this program has set.
"""

from __future__ import annotations

import socket
from typing import Any

from pyroute2.netlink import NETLINK_NETFILTER
from pyroute2.netlink.nfnetlink import NFNL_SUBSYS_NFTABLES
from pyroute2.netlink.nfnetlink.nftsocket import NFT_MSG_GETRULE, nft_rule_msg

from sandbox_kernel.network.netlink import Netlink

_FAMILIES = {2: "ip", 7: "bridge"}
_FIELDS = {
    ("NFT_PAYLOAD_LL_HEADER", 0, 6): "ether to",
    ("NFT_PAYLOAD_LL_HEADER", 6, 6): "ether from",
    ("NFT_PAYLOAD_LL_HEADER", 12, 2): "ether type",
    ("NFT_PAYLOAD_NETWORK_HEADER", 8, 6): "arp ether from",
    ("NFT_PAYLOAD_NETWORK_HEADER", 9, 1): "protocol",
    ("NFT_PAYLOAD_NETWORK_HEADER", 12, 4): "from",
    ("NFT_PAYLOAD_NETWORK_HEADER", 14, 4): "arp from",
    ("NFT_PAYLOAD_NETWORK_HEADER", 16, 4): "to",
    ("NFT_PAYLOAD_TRANSPORT_HEADER", 2, 2): "port",
}
_METAS = {"iif": "in", "oif": "out", "l4proto": "protocol"}
_SIGNS = {"eq": "is", "neq": "is not", "lt": "<", "lte": "<=", "gt": ">", "gte": ">="}


def here() -> list[dict[str, Any]]:
    """The rules of the network namespace that this thread is in. Raises OSError."""
    netlink = Netlink(NETLINK_NETFILTER)
    try:
        question = nft_rule_msg()
        question["nfgen_family"] = socket.AF_UNSPEC
        found = netlink.dump(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETRULE, question)
    finally:
        netlink.close()
    return [_Words(message).row() for message in found]


class _Words:
    """One rule on its way to be text."""

    def __init__(self, message: Any) -> None:
        family = message["nfgen_family"]
        self._family = _FAMILIES.get(family, str(family))
        self._chain = message.get_attr("NFTA_RULE_CHAIN")
        self._words: list[str] = []
        self._loaded: list[str] = []
        """The fields that are in registers, and not compared yet."""
        self._packets = self._bytes = None
        for expression in message.get_attr("NFTA_RULE_EXPRESSIONS") or ():
            name = expression.get_attr("NFTA_EXPR_NAME")
            data = expression.get_attr("NFTA_EXPR_DATA")
            attributes = dict(data["attrs"]) if hasattr(data, "keys") else {}
            read = getattr(self, f"_{name}", None)
            if read is None:
                self._words.append(str(name))
            else:
                read(attributes)

    def row(self) -> dict[str, Any]:
        """As data; `packets` and `bytes` are None where nothing counts."""
        return {
            "family": self._family,
            "chain": self._chain,
            "rule": " ".join(self._words),
            "packets": self._packets,
            "bytes": self._bytes,
        }

    def _payload(self, data: dict[str, Any]) -> None:
        at = (
            str(data.get("NFTA_PAYLOAD_BASE")),
            data.get("NFTA_PAYLOAD_OFFSET", 0),
            data.get("NFTA_PAYLOAD_LEN", 0),
        )
        self._loaded.append(_FIELDS.get(at, f"bytes {at[1]}+{at[2]}"))

    def _meta(self, data: dict[str, Any]) -> None:
        key = _tail(data.get("NFTA_META_KEY"), "NFT_META_")
        if "NFTA_META_SREG" in data:
            self._words.append(f"set {key} to {self._taken()}")
        else:
            self._loaded.append(_METAS.get(key, key))

    def _ct(self, data: dict[str, Any]) -> None:
        key = f"flow's {_tail(data.get('NFTA_CT_KEY'), 'NFT_CT_')}"
        if "NFTA_CT_SREG" in data:
            self._words.append(f"set {key} to {self._taken()}")
        else:
            self._loaded.append(key)

    def _bitwise(self, data: dict[str, Any]) -> None:
        mask = _value(data.get("NFTA_BITWISE_MASK"))
        if self._loaded:
            self._loaded[-1] += f" & {mask.hex()}"

    def _cmp(self, data: dict[str, Any]) -> None:
        sign = _tail(data.get("NFTA_CMP_OP"), "NFT_CMP_")
        value = _value(data.get("NFTA_CMP_DATA"))
        field = self._taken()
        self._words.append(f"{field} {_SIGNS.get(sign, sign)} {_shown(field, value)}")

    def _lookup(self, data: dict[str, Any]) -> None:
        name = data.get("NFTA_LOOKUP_SET")
        target = data.get("NFTA_LOOKUP_DREG")
        inverted = "NFT_LOOKUP_F_INV" in (data.get("NFTA_LOOKUP_FLAGS") or ())
        fields = self._taken()
        if target is None:
            self._words.append(f"{fields} {'not in' if inverted else 'in'} `{name}`")
        elif str(target) == "NFT_REG_VERDICT":
            self._words.append(f"goto what `{name}` has for {fields}")
        else:
            self._loaded = [f"what `{name}` has for {fields}"]

    def _dynset(self, data: dict[str, Any]) -> None:
        counted = dict((data.get("NFTA_DYNSET_EXPR") or {"attrs": []})["attrs"])
        most = dict((counted.get("NFTA_EXPR_DATA") or {"attrs": []})["attrs"])
        name, fields = data.get("NFTA_DYNSET_SET_NAME"), self._taken()
        count = most.get("NFTA_CONNLIMIT_COUNT")
        self._words.append(f"{fields} with more than {count} flows, counted in `{name}`")

    def _immediate(self, data: dict[str, Any]) -> None:
        held = dict((data.get("NFTA_IMMEDIATE_DATA") or {"attrs": []})["attrs"])
        verdict = held.get("NFTA_DATA_VERDICT")
        if verdict is None:
            self._loaded.append(_value(data.get("NFTA_IMMEDIATE_DATA")).hex())
            return
        parts = dict(verdict["attrs"])
        code = _tail(_tail(parts.get("NFTA_VERDICT_CODE"), "NFT_"), "nf_")
        chain = parts.get("NFTA_VERDICT_CHAIN")
        self._words.append(f"{code} `{chain}`" if chain else code)

    def _counter(self, data: dict[str, Any]) -> None:
        self._packets = data.get("NFTA_COUNTER_PACKETS")
        self._bytes = data.get("NFTA_COUNTER_BYTES")
        self._words.append("count")

    def _limit(self, data: dict[str, Any]) -> None:
        self._words.append(f"at most {data.get('NFTA_LIMIT_RATE')} a second")

    def _log(self, data: dict[str, Any]) -> None:
        self._words.append(f"log as `{data.get('NFTA_LOG_PREFIX')}`")

    def _reject(self, data: dict[str, Any]) -> None:
        self._words.append("refuse and tell the sender")

    def _masq(self, data: dict[str, Any]) -> None:
        self._words.append("send from the address of this machine")

    def _taken(self) -> str:
        loaded, self._loaded = self._loaded, []
        return ", ".join(loaded) or "?"


def _tail(value: object, prefix: str) -> str:
    return str(value).removeprefix(prefix).lower()


def _value(held: Any) -> bytes:
    found = dict(held["attrs"]).get("NFTA_DATA_VALUE") if held else None
    return bytes(found) if found else b""


def _shown(field: str, value: bytes) -> str:
    if field in ("from", "to", "arp from") and len(value) == 4:
        return socket.inet_ntoa(value)
    if field == "protocol" and len(value) == 1:
        return {1: "icmp", 6: "tcp", 17: "udp"}.get(value[0], str(value[0]))
    if field == "port":
        return str(int.from_bytes(value, "big"))
    return value.hex()
