"""The network of the machine itself, as far as the holder has to know it: routes and addresses."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from ipaddress import IPv4Network

from pyroute2.netlink.rtnl import RTM_GETADDR, RTM_GETLINK, RTM_GETROUTE
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from sandbox_kernel.network import netlink
from sandbox_kernel.network.spaces import Outside

_ADDRESSES_CHANGED = 0x10  # RTMGRP_IPV4_IFADDR
_IFF_LOOPBACK = 0x8
PREFIX = "sandbox-"
"""Of the links of ours that are in the machine's namespace; 15 letters are the most."""


class Machine:
    """Asks in the machine's namespace, from wherever it is asked."""

    def __init__(self, outside: Outside) -> None:
        self.links = outside.call(netlink.route)
        self._news = outside.call(_listen)

    def close(self) -> None:
        """Ask no more."""
        self.links.close()
        self._news.close()

    def fileno(self) -> int:
        """Readable when its addresses may have changed."""
        return self._news.fileno()

    def turn(self, changed: Callable[[set[str]], None]) -> None:
        """Read the news, and tell the addresses that there are now."""
        with contextlib.suppress(OSError):  # more news than fits are lost: all are asked for anyway
            self._news.recv(1 << 16)
        changed(self.addresses())

    def addresses(self) -> set[str]:
        """All of them, of all its links."""
        asked = ifaddrmsg()
        asked["family"] = socket.AF_INET
        found = self.links.dump(RTM_GETADDR, asked)
        return {str(each.get_attr("IFA_LOCAL") or each.get_attr("IFA_ADDRESS")) for each in found}

    def routes(self) -> list[IPv4Network]:
        """Where its routes lead, but the default one and those to networks of ours."""
        asked = rtmsg()
        asked["family"] = socket.AF_INET
        ours = {index for name, index in self._interfaces().items() if name.startswith(PREFIX)}
        found = []
        for route in self.links.dump(RTM_GETROUTE, asked):
            target, bits = route.get_attr("RTA_DST"), route["dst_len"]
            if target and bits and route.get_attr("RTA_OIF") not in ours:
                found.append(IPv4Network((target, bits), strict=False))
        return found

    def interfaces(self) -> dict[str, int]:
        """Links over which packets come: name to number, without loopback and ours."""
        return {
            name: index for name, index in self._interfaces().items() if not name.startswith(PREFIX)
        }

    def interfaces_of_ours(self) -> dict[str, int]:
        """The links of ours that are there: name to number."""
        return {
            name: index for name, index in self._interfaces().items() if name.startswith(PREFIX)
        }

    def _interfaces(self) -> dict[str, int]:
        found = self.links.dump(RTM_GETLINK, ifinfmsg())
        return {
            str(each.get_attr("IFLA_IFNAME")): int(each["index"])
            for each in found
            if not each["flags"] & _IFF_LOOPBACK
        }


def _listen() -> socket.socket:
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    made = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
    made.bind((0, _ADDRESSES_CHANGED))
    return made
