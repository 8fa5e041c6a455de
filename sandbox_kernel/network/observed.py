"""What a network namespace looks like from inside: links, addresses, routes, connections, as data.

Read from the kernel each time, in the namespace itself; nothing here is what this program believes
to have set.
"""

from __future__ import annotations

import socket
from typing import Any

from pyroute2.netlink import NETLINK_ROUTE, nlmsg
from pyroute2.netlink.rtnl import RTM_GETADDR, RTM_GETLINK, RTM_GETROUTE
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from sandbox_kernel.network import connections
from sandbox_kernel.network.netlink import Netlink

_UP = 0x1
_MAIN_TABLE = 254
_COUNTED = {
    "received_bytes": "rx_bytes",
    "received_packets": "rx_packets",
    "received_dropped": "rx_dropped",
    "sent_bytes": "tx_bytes",
    "sent_packets": "tx_packets",
    "sent_dropped": "tx_dropped",
}


def here() -> dict[str, Any]:
    """The facts of the network namespace that this thread is in. Raises OSError."""
    netlink = Netlink(NETLINK_ROUTE)
    try:
        links = {
            message["index"]: _link(message) for message in netlink.dump(RTM_GETLINK, ifinfmsg())
        }
        for message in netlink.dump(RTM_GETADDR, ifaddrmsg()):
            if (link := links.get(message["index"])) is not None:
                address = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
                link["addresses"].append(f"{address}/{message['prefixlen']}")
        routes = [
            _route(message, links)
            for message in netlink.dump(RTM_GETROUTE, rtmsg())
            if message["table"] == _MAIN_TABLE and message["family"] == socket.AF_INET
        ]
    finally:
        netlink.close()
    return {
        "links": list(links.values()),
        "routes": routes,
        "connections": [each._asdict() for each in connections.here()],
    }


def _link(message: nlmsg) -> dict[str, Any]:
    counted = message.get_attr("IFLA_STATS64") or {}
    return {
        "name": message.get_attr("IFLA_IFNAME"),
        "mac": message.get_attr("IFLA_ADDRESS"),
        "mtu": message.get_attr("IFLA_MTU"),
        "up": bool(message["flags"] & _UP),
        "queueing": message.get_attr("IFLA_QDISC"),
        "addresses": [],
        **{name: counted.get(kernels, 0) for name, kernels in _COUNTED.items()},
    }


def _route(message: nlmsg, links: dict[int, dict[str, Any]]) -> dict[str, Any]:
    to = message.get_attr("RTA_DST")
    link = links.get(message.get_attr("RTA_OIF") or 0)
    return {
        "to": f"{to}/{message['dst_len']}" if to else "default",
        "via": message.get_attr("RTA_GATEWAY"),
        "link": link["name"] if link else None,
    }
