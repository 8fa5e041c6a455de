"""Links, addresses and routes: a bridge for each network, a veth pair for each container.

One end of a pair is a port of the bridge, the other is in the container's namespace from its first
moment. A port learns no addresses and floods no strangers' frames: where a container is, the holder
says. Sources: rtnetlink(7), bridge(8), include/uapi/linux/if_link.h.
"""

from __future__ import annotations

import errno
import socket

from pyroute2.netlink import NLM_F_CREATE, NLM_F_EXCL, nlmsg
from pyroute2.netlink.rtnl import RTM_DELLINK, RTM_NEWADDR, RTM_NEWLINK, RTM_NEWNEIGH, RTM_NEWROUTE
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfbase, ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from sandbox_kernel.errors import HostLacks
from sandbox_kernel.network import netlink
from sandbox_kernel.network.netlink import Netlink
from sandbox_kernel.network.protocol import RESOLVER
from sandbox_kernel.network.spaces import Spaces, write_switch

LOOPBACK = 1
NEW = NLM_F_CREATE | NLM_F_EXCL
FIRST_INTERFACE = 2
"""Of a container: the number of its eth0; `lo` is 1."""
LONGEST_SEGMENT = 3 << 16
"""Bytes of TCP that pass a pair at once, where the kernel can (6.3 and later); else 64 KiB."""
_IFF_UP = 1
_NTF_MASTER = 0x04
_NUD_STATIC = 0x40  # NUD_NOARP; a permanent one would be an address of the bridge itself
# Of the bridge, IFLA_BR_MULTI_BOOLOPT: frames for the link itself teach it no addresses.
_NO_LINK_LOCAL_LEARN = 1

# Bridged frames are no matter of the rules for routed packets; IPv6 is off; each packet that is
# refused is answered, so that no program waits for a time-out.
_SWITCHES = (
    ("ipv6/conf/all/disable_ipv6", "1"),
    ("ipv6/conf/default/disable_ipv6", "1"),
    ("ipv4/ip_forward", "1"),
    ("ipv4/icmp_ratelimit", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("bridge/bridge-nf-call-iptables", "0"),
    ("bridge/bridge-nf-call-arptables", "0"),
)

# Root of a container has no capability, and low ports are only its own.
_OF_A_CONTAINER = (
    ("ipv6/conf/all/disable_ipv6", "1"),
    ("ipv6/conf/default/disable_ipv6", "1"),
    ("ipv4/ip_unprivileged_port_start", "0"),
)

Message = tuple[int, int, object]


class _Pair(ifinfbase, nlmsg):  # type: ignore[misc] # pyroute2 has no types
    """As `ifinfmsg`, with attributes of the kernel that follow those which pyroute2 knows."""

    nla_map = (
        *ifinfbase.nla_map,
        ("IFLA_DEVLINK_PORT", "hex"),
        ("IFLA_GSO_IPV4_MAX_SIZE", "uint32"),
    )


def prepare() -> Netlink:
    """The holder's new namespace: loopback with the resolver's address, and packets pass. There.

    Raises HostLacks, OSError.
    """
    links = netlink.route()
    switch_on(links, LOOPBACK)
    add_address(links, LOOPBACK, RESOLVER, 32)
    # What leads nowhere is refused by the rules, which say so, and not for want of a route.
    nowhere = rtmsg()
    nowhere["family"], nowhere["table"], nowhere["type"] = socket.AF_INET, 254, 1
    nowhere["scope"] = 253  # on the link
    nowhere["attrs"] = [("RTA_OIF", LOOPBACK), ("RTA_PRIORITY", 4096)]
    links.request([(RTM_NEWROUTE, NEW, nowhere)])
    for path, value in _SWITCHES:
        try:
            write_switch(path, value)
        except FileNotFoundError:
            continue  # a kernel without it
        except OSError as error:
            raise HostLacks(
                f"set `/proc/sys/net/{path}` in a network namespace of ours: {error.strerror}: "
                "/proc/sys has to be writable here: run it outside of that container"
            ) from error
    return links


def add_bridge(links: Netlink, name: str, mac: str, address: str, bits: int) -> int:
    """A bridge that is up, with the addresses that its containers send to. Returns its number.

    One whose hardware address nobody set takes the lowest of its ports: it would be another one
    whenever a container comes or goes, and what the others send would be lost until they ask again.
    """
    made = ifinfmsg()
    made["flags"] = made["change"] = _IFF_UP
    options = [
        ("IFLA_BR_STP_STATE", 0),
        ("IFLA_BR_MCAST_SNOOPING", 0),
        ("IFLA_BR_FORWARD_DELAY", 0),
    ]
    made["attrs"] = [
        ("IFLA_IFNAME", name),
        ("IFLA_ADDRESS", mac),
        _kind("bridge", {"attrs": options}),
    ]
    links.request([(RTM_NEWLINK, NEW, made)])
    index = socket.if_nametoindex(name)
    links.request([(RTM_NEWADDR, NEW, _address(index, address, bits))])
    return index


def remove(links: Netlink, *indexes: int) -> None:
    """Links, and of a pair the other end too. What is gone already is no matter."""
    messages = []
    for index in indexes:
        gone = ifinfmsg()
        gone["index"] = index
        messages.append((RTM_DELLINK, 0, gone))
    try:
        links.request(messages)
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise


def plug(
    links: Netlink,
    spaces: Spaces,
    space: int,
    *,
    port: str,
    bridge: int,
    isolated: bool,
    mac: str,
    address: str,
    bits: int,
    gateway: str,
    interface: int,
    metric: int,
) -> int:
    """A pair between a bridge and a container's namespace. Returns the number of the port.

    Of several default routes that with the lowest `metric` is taken. Raises OSError; a pair that
    was made by then is removed.
    """
    with spaces.inside(space):
        for path, value in _OF_A_CONTAINER:
            try:
                write_switch(path, value)
            except FileNotFoundError:
                continue  # a kernel without it
        within = netlink.route()
    try:
        made = ifinfmsg()
        name = f"eth{interface - FIRST_INTERFACE}"
        peer = {
            "index": interface,
            "attrs": [
                ("IFLA_IFNAME", name),
                ("IFLA_ADDRESS", mac),
                ("IFLA_NET_NS_FD", space),
            ],
        }
        made["attrs"] = [
            ("IFLA_IFNAME", port),
            ("IFLA_MASTER", bridge),
            _kind("veth", {"attrs": [("VETH_INFO_PEER", peer)]}),
        ]
        links.request([(RTM_NEWLINK, NEW, made)])
        index = socket.if_nametoindex(port)
        try:
            links.request([_as_port(index, isolated), _known(index, mac)])
            up = _Pair()
            up["index"] = interface
            up["flags"] = up["change"] = _IFF_UP
            up["attrs"] = [("IFLA_GSO_IPV4_MAX_SIZE", LONGEST_SEGMENT)]
            orders: list[Message] = [
                (RTM_NEWLINK, 0, up),
                (RTM_NEWADDR, NEW, _address(interface, address, bits)),
            ]
            orders.append((RTM_NEWROUTE, NEW, _default(gateway, interface, metric)))
            within.request(orders)
        except BaseException:
            remove(links, index)
            raise
    finally:
        within.close()
    return index


def add_pair(links: Netlink, name: str, peer: str, space: int, address: str, bits: int) -> int:
    """A pair to another namespace; ours is up, with an address. Returns our number."""
    made = ifinfmsg()
    made["flags"] = made["change"] = _IFF_UP
    other = {"attrs": [("IFLA_IFNAME", peer), ("IFLA_NET_NS_FD", space)]}
    made["attrs"] = [
        ("IFLA_IFNAME", name),
        _kind("veth", {"attrs": [("VETH_INFO_PEER", other)]}),
    ]
    links.request([(RTM_NEWLINK, NEW, made)])
    index = socket.if_nametoindex(name)
    add_address(links, index, address, bits)
    return index


def add_address(links: Netlink, index: int, address: str, bits: int) -> None:
    """One more address of a link."""
    links.request([(RTM_NEWADDR, NEW, _address(index, address, bits))])


def switch_on(links: Netlink, index: int) -> None:
    """Bring a link up."""
    up = ifinfmsg()
    up["index"] = index
    up["flags"] = up["change"] = _IFF_UP
    links.request([(RTM_NEWLINK, 0, up)])


def add_default_route(links: Netlink, gateway: str, index: int) -> None:
    """Send what leads nowhere else to a gateway."""
    links.request([(RTM_NEWROUTE, NEW, _default(gateway, index))])


def _kind(kind: str, data: dict[str, object]) -> tuple[str, object]:
    return ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", kind), ("IFLA_INFO_DATA", data)]})


def _as_port(index: int, isolated: bool) -> Message:
    port = _Pair()
    port["index"] = index
    port["flags"] = port["change"] = _IFF_UP
    options = [
        ("IFLA_BRPORT_LEARNING", 0),
        ("IFLA_BRPORT_UNICAST_FLOOD", 0),
        ("IFLA_BRPORT_MCAST_FLOOD", 0),
        ("IFLA_BRPORT_ISOLATED", int(isolated)),
    ]
    slave = [("IFLA_INFO_SLAVE_KIND", "bridge"), ("IFLA_INFO_SLAVE_DATA", {"attrs": options})]
    port["attrs"] = [
        ("IFLA_LINKINFO", {"attrs": slave}),
        ("IFLA_GSO_IPV4_MAX_SIZE", LONGEST_SEGMENT),
    ]
    return (RTM_NEWLINK, 0, port)


def _known(index: int, mac: str) -> Message:
    """Where frames for an address go: told, not learnt."""
    entry = ndmsg()
    entry["family"] = socket.AF_BRIDGE
    entry["ifindex"] = index
    entry["state"] = _NUD_STATIC
    entry["flags"] = _NTF_MASTER
    entry["attrs"] = [("NDA_LLADDR", mac)]
    return (RTM_NEWNEIGH, NEW, entry)


def _address(index: int, address: str, bits: int) -> ifaddrmsg:
    made = ifaddrmsg()
    made["family"] = socket.AF_INET
    made["prefixlen"] = bits
    made["index"] = index
    made["attrs"] = [("IFA_LOCAL", address), ("IFA_ADDRESS", address)]
    return made


def _default(gateway: str, index: int, metric: int = 0) -> rtmsg:
    made = rtmsg()
    made["family"] = socket.AF_INET
    made["table"] = 254  # main
    made["proto"] = 4  # static
    made["type"] = 1  # unicast
    made["attrs"] = [
        ("RTA_GATEWAY", gateway),
        ("RTA_OIF", index),
        ("RTA_PRIORITY", metric),
    ]
    return made
