"""The kernel's own word on every fork, execution and exit: its process connector, for root alone.

Sources: include/uapi/linux/connector.h, include/uapi/linux/cn_proc.h, netlink(7).
"""

from __future__ import annotations

import os
import socket
import struct
from typing import NamedTuple

NETLINK_CONNECTOR = 11
CN_IDX_PROC = 1
CN_VAL_PROC = 1
PROC_CN_MCAST_LISTEN = 1
PROC_EVENT_NONE = 0x00000000
PROC_EVENT_FORK = 0x00000001
PROC_EVENT_EXEC = 0x00000002
PROC_EVENT_EXIT = 0x80000000
KINDS = {PROC_EVENT_FORK: "fork", PROC_EVENT_EXEC: "exec", PROC_EVENT_EXIT: "exit"}

_NLMSG_DONE = 3
# struct nlmsghdr { __u32 nlmsg_len; __u16 nlmsg_type, nlmsg_flags; __u32 nlmsg_seq, nlmsg_pid; }
_HEADER = struct.Struct("=IHHII")
# struct cn_msg { struct cb_id { __u32 idx, val; } id; __u32 seq, ack; __u16 len, flags; }
_CONNECTOR = struct.Struct("=IIIIHH")
# struct proc_event { __u32 what, cpu; __u64 timestamp_ns; union ... } with, of a fork: parent_pid,
# parent_tgid, child_pid, child_tgid; of an exec: process_pid, process_tgid; of an exit: these too.
_EVENT = struct.Struct("=IIQ")
_ROOM = 1 << 16
_BUFFER = 1 << 20


class ProcessEvent(NamedTuple):
    """What a process did. Of a fork `pid` is the child's; threads are not told of."""

    kind: str
    """fork, exec or exit."""
    pid: int
    parent: int
    """Of a fork, else 0."""


def listen() -> socket.socket:
    """A socket that is readable when there is news; the caller's. Raises OSError: EPERM, not root.

    All processes of the machine are told of, in the numbers of its first pid namespace.
    """
    channel = socket.socket(
        socket.AF_NETLINK,
        socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
        NETLINK_CONNECTOR,
    )
    try:
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        channel.bind((0, CN_IDX_PROC))
        body = struct.pack("=I", PROC_CN_MCAST_LISTEN)
        message = _CONNECTOR.pack(CN_IDX_PROC, CN_VAL_PROC, 0, 0, len(body), 0) + body
        size = _HEADER.size + len(message)
        channel.send(_HEADER.pack(size, _NLMSG_DONE, 0, 0, os.getpid()) + message)
    except BaseException:
        channel.close()
        raise
    return channel


def read(channel: socket.socket) -> list[ProcessEvent] | None:
    """What came since. None: more happened than the kernel keeps, and something is missing."""
    found: list[ProcessEvent] = []
    while True:
        try:
            data = channel.recv(_ROOM)
        except BlockingIOError:
            return found
        except OSError:  # ENOBUFS
            return None
        event = _parse(data[_HEADER.size + _CONNECTOR.size :])
        if event is not None:
            found.append(event)


def _parse(data: bytes) -> ProcessEvent | None:
    if len(data) < _EVENT.size + 16:
        return None
    what, _, _ = _EVENT.unpack_from(data)
    kind = KINDS.get(what)
    numbers = struct.unpack_from("=4I", data, _EVENT.size)
    if kind is None:
        return None
    if kind == "fork":
        parent, child, group = numbers[1], numbers[2], numbers[3]
        return ProcessEvent(kind, group, parent) if child == group else None
    thread, group = numbers[0], numbers[1]
    return ProcessEvent(kind, group, 0) if thread == group else None
