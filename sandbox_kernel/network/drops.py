"""What was dropped and why: the kernel tells of packets by a netfilter log group.

The prefix of the log is the reason, so what is told here is what the rules decided, and nothing is
worked out a second time. Source: include/uapi/linux/netfilter/nfnetlink_log.h.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
from pyroute2.netlink import NETLINK_NETFILTER, nla
from pyroute2.netlink.nfnetlink import NFNL_SUBSYS_ULOG, nfgen_msg

from sandbox_kernel.allowing import shown_address
from sandbox_kernel.network.netlink import Netlink
from sandbox_kernel.network.protocol import LOG_GROUP

KEPT = 2000
_CONFIG, _BIND, _COPY_PACKET = 1, 1, 2
_COPIED = 128
_AT_ONE_TURN = 64
_HEADER = 16
_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp"}
_BRIDGE_FAMILY = 7
_ARP, _IPV4 = 0x0806, 0x0800


class _ConfigMessage(nfgen_msg):  # type: ignore[misc] # pyroute2 has no types
    """NFULNL_MSG_CONFIG."""

    nla_map = (
        ("NFULA_CFG_UNSPEC", "none"),
        ("NFULA_CFG_CMD", "uint8"),
        ("NFULA_CFG_MODE", "mode"),
        ("NFULA_CFG_NLBUFSIZ", "be32"),
        ("NFULA_CFG_TIMEOUT", "be32"),
        ("NFULA_CFG_QTHRESH", "be32"),
    )

    class mode(nla):  # type: ignore[misc] # noqa: N801 - pyroute2's way
        """struct nfulnl_msg_config_mode."""

        fields = (("copy_range", ">I"), ("copy_mode", "B"), ("_pad", "B"))


class _PacketMessage(nfgen_msg):  # type: ignore[misc] # pyroute2 has no types
    """NFULNL_MSG_PACKET."""

    nla_map = (
        ("NFULA_UNSPEC", "none"),
        ("NFULA_PACKET_HDR", "cdata"),
        ("NFULA_MARK", "be32"),
        ("NFULA_TIMESTAMP", "cdata"),
        ("NFULA_IFINDEX_INDEV", "be32"),
        ("NFULA_IFINDEX_OUTDEV", "be32"),
        ("NFULA_IFINDEX_PHYSINDEV", "be32"),
        ("NFULA_IFINDEX_PHYSOUTDEV", "be32"),
        ("NFULA_HWADDR", "cdata"),
        ("NFULA_PAYLOAD", "cdata"),
        ("NFULA_PREFIX", "asciiz"),
    )


class Drop(msgspec.Struct, frozen=True):
    """One packet that was not let through."""

    number: int
    time: float
    container: str | None
    reason: str
    protocol: str
    source: str
    destination: str
    port: int | None


class Drops:
    """The last of them. `container_at` finds whose an address or a port of a bridge is."""

    def __init__(self, container_at: Callable[[str, int], str | None]) -> None:
        self._container_at = container_at
        self._kept: deque[Drop] = deque(maxlen=KEPT)
        self._number = 0
        self._channel = Netlink(NETLINK_NETFILTER)
        bind = self._config(("NFULA_CFG_CMD", _BIND))
        mode = {"copy_range": _COPIED, "copy_mode": _COPY_PACKET}
        kind = NFNL_SUBSYS_ULOG << 8 | _CONFIG
        self._channel.request([(kind, 0, bind)])
        self._channel.request([(kind, 0, self._config(("NFULA_CFG_MODE", mode)))])
        # Each is told at once, where the kernel would wait a second for more of them.
        self._channel.request([(kind, 0, self._config(("NFULA_CFG_QTHRESH", 1)))])

    def fileno(self) -> int:
        """Readable when the kernel tells of something."""
        return self._channel.fileno()

    def close(self) -> None:
        """Hear no more."""
        self._channel.close()

    @property
    def last(self) -> int:
        """The number of the last one."""
        return self._number

    def turn(self) -> None:
        """Take what is there."""
        for _ in range(_AT_ONE_TURN):
            with contextlib.suppress(OSError):  # more was told than fits: what is lost is lost
                data = self._channel.read()
                if data is None:
                    return
                self._take(data)

    def after(self, position: int, container: str | None) -> dict[str, Any]:
        """Those after a position, of a container or of all, and the next position."""
        self.turn()
        chosen = [
            msgspec.to_builtins(drop)
            for drop in self._kept
            if drop.number > position and container in (None, drop.container)
        ]
        missed = max(0, self._kept[0].number - position - 1) if self._kept else 0
        return {"drops": chosen, "next": self._number, "missed": missed}

    def _take(self, data: bytes) -> None:
        kind = NFNL_SUBSYS_ULOG << 8
        at = 0
        while at + _HEADER <= len(data):
            length, found = struct.unpack_from("=IH", data, at)
            if length < _HEADER:
                return
            if found == kind:
                message = _PacketMessage(data[at : at + length])
                message.decode()
                self._keep(message)
            at += (length + 3) & ~3

    def _keep(self, message: Any) -> None:
        payload = bytes(message.get_attr("NFULA_PAYLOAD") or b"")
        header = bytes(message.get_attr("NFULA_PACKET_HDR") or b"")
        port = message.get_attr("NFULA_IFINDEX_PHYSINDEV") or message.get_attr(
            "NFULA_IFINDEX_INDEV"
        )
        protocol, source, destination, target = _read(payload, header)
        self._number += 1
        bridged = message["nfgen_family"] == _BRIDGE_FAMILY
        self._kept.append(
            Drop(
                self._number,
                time.time(),
                self._container_at("" if bridged else source, port or 0),
                str(message.get_attr("NFULA_PREFIX") or ""),
                protocol,
                source,
                destination,
                target,
            )
        )

    @staticmethod
    def _config(attribute: tuple[str, object]) -> Any:
        message = _ConfigMessage()
        message["nfgen_family"] = socket.AF_UNSPEC
        message["res_id"] = LOG_GROUP
        message["attrs"] = [attribute]
        return message


def _read(payload: bytes, header: bytes) -> tuple[str, str, str, int | None]:
    """Protocol, source, destination and port of what begins as an IP packet or an ARP one does."""
    kind = int.from_bytes(header[:2], "big")
    if kind == _ARP and len(payload) >= 28:
        source, target = (int.from_bytes(payload[at : at + 4], "big") for at in (14, 24))
        return "arp", shown_address(source), shown_address(target), None
    if kind not in (0, _IPV4) or len(payload) < 20 or payload[0] >> 4 != 4:
        return f"{kind:#06x}", "", "", None
    source, target = (int.from_bytes(payload[at : at + 4], "big") for at in (12, 16))
    start = 4 * (payload[0] & 15)
    number = payload[9]
    port = None
    if number in (6, 17) and len(payload) >= start + 4:
        port = int.from_bytes(payload[start + 2 : start + 4], "big")
    return (
        _PROTOCOLS.get(number, f"protocol {number}"),
        shown_address(source),
        shown_address(target),
        port,
    )
