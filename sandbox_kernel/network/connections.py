"""Connections and listeners of a network namespace, as the kernel tells them: sock_diag(7)."""

from __future__ import annotations

import socket
from typing import NamedTuple

from pyroute2.netlink import NETLINK_SOCK_DIAG
from pyroute2.netlink.diag import SOCK_DIAG_BY_FAMILY, inet_diag_msg, inet_diag_req

from sandbox_kernel.network.netlink import Netlink

# include/net/tcp_states.h; a datagram socket that is connected is ESTABLISHED, else CLOSE.
STATES = (
    "", "established", "syn sent", "syn received", "fin wait 1", "fin wait 2", "time wait",
    "close", "close wait", "last ack", "listen", "closing",
)  # fmt: skip
_LISTEN, _CLOSE = 10, 7
_ALL_STATES = 0xFFF


class Connection(NamedTuple):
    """One socket. `waiting` bytes were not read yet, `unsent` ones not confirmed."""

    protocol: str
    state: str
    local: str
    local_port: int
    remote: str
    remote_port: int
    waiting: int
    unsent: int


def here() -> list[Connection]:
    """Those of the network namespace that this thread is in. Raises OSError."""
    netlink = Netlink(NETLINK_SOCK_DIAG)
    try:
        return [
            connection
            for name, protocol in (("tcp", socket.IPPROTO_TCP), ("udp", socket.IPPROTO_UDP))
            for connection in _of_protocol(netlink, name, protocol)
        ]
    finally:
        netlink.close()


def _of_protocol(netlink: Netlink, name: str, protocol: int) -> list[Connection]:
    question = inet_diag_req()
    question["sdiag_family"] = socket.AF_INET
    question["sdiag_protocol"] = protocol
    question["idiag_states"] = _ALL_STATES
    found = netlink.dump(SOCK_DIAG_BY_FAMILY, question, inet_diag_msg)
    return sorted(_read(name, message) for message in found)


def _read(protocol: str, message: inet_diag_msg) -> Connection:
    state = message["idiag_state"]
    listens = state == _LISTEN
    shown = "open" if protocol == "udp" and state == _CLOSE else STATES[state]
    return Connection(
        protocol=protocol,
        state=shown,
        local=message["idiag_src"],
        local_port=message["idiag_sport"],
        remote=message["idiag_dst"],
        remote_port=message["idiag_dport"],
        # of a listener the kernel tells how many connections wait, and how many may
        waiting=0 if listens else message["idiag_rqueue"],
        unsent=0 if listens else message["idiag_wqueue"],
    )
