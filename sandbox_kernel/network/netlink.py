"""One netlink socket that waits for its answers: messages are pyroute2's, many go in one packet.

pyroute2's own sockets turn an event loop for each request, and wait for each by itself. Here a
batch is one system call, and the first refusal is an OSError that says which message it was.
Sources: netlink(7), rtnetlink(7), include/uapi/linux/netfilter/nfnetlink.h.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Sequence

from pyroute2.netlink import (
    NETLINK_NETFILTER,
    NETLINK_ROUTE,
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    nlmsg,
)
from pyroute2.netlink.nfnetlink import NFNL_SUBSYS_NFTABLES, nfgen_msg

_HEADER = struct.Struct("=IHHII")
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_ROOM = 1 << 20
_ANSWER_SECONDS = 10.0
# The kernel copies a batch into one buffer, which the socket's sending limit bounds.
_LONGEST = 160_000


class Netlink:
    """A socket in the network namespace of the thread that makes it."""

    def __init__(self, family: int) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, family)
        self._socket.bind((0, 0))
        self._socket.settimeout(_ANSWER_SECONDS)
        self._number = 0

    def close(self) -> None:
        """What belongs to the socket ends with it."""
        self._socket.close()

    def request(self, messages: Sequence[tuple[int, int, nlmsg]]) -> None:
        """Have all of them done in order: (type, further flags, message). Raises OSError.

        What came after the first that was refused may be done all the same.
        """
        packets = [
            self._packed(kind, flags | NLM_F_REQUEST | NLM_F_ACK, message)
            for kind, flags, message in messages
        ]
        self._send(packets, [message for _, _, message in messages])

    def fileno(self) -> int:
        """Readable when the kernel says something by itself."""
        return self._socket.fileno()

    def read(self) -> bytes | None:
        """A packet that the kernel sent by itself, None when there is none. Raises OSError."""
        try:
            # A socket with a timeout does not block, but its `recv` waits whatever the flags are.
            return os.read(self._socket.fileno(), _ROOM)
        except BlockingIOError:
            return None

    def dump(self, kind: int, message: nlmsg, read_as: type[nlmsg] | None = None) -> list[nlmsg]:
        """All objects of a kind, decoded by that class or by the message's own. Raises OSError."""
        _, packet = self._packed(kind, NLM_F_REQUEST | NLM_F_DUMP, message)
        self._socket.send(packet)
        found: list[nlmsg] = []
        while True:
            for answer, _, data in self._answers():
                if answer == NLMSG_DONE:
                    return found
                if answer == NLMSG_ERROR:
                    _refused(data, message)
                    return found
                read = (read_as or type(message))(data)
                read.decode()
                found.append(read)

    def _packed(self, kind: int, flags: int, message: nlmsg) -> tuple[int, bytes]:
        self._number += 1
        header = message["header"]
        header["type"], header["flags"] = kind, flags
        header["sequence_number"] = self._number
        message.encode()
        return self._number, bytes(message.data)

    def _send(self, packets: list[tuple[int, bytes]], messages: list[nlmsg]) -> None:
        waiting = {number: message for (number, _), message in zip(packets, messages, strict=True)}
        self._socket.send(b"".join(packet for _, packet in packets))
        failure: OSError | None = None
        while waiting:
            for answer, number, data in self._answers():
                if answer != NLMSG_ERROR:
                    continue
                if number not in waiting:
                    _refused(data, messages[0])  # of a batch as a whole
                    continue
                try:
                    _refused(data, waiting.pop(number))
                except OSError as error:
                    failure = failure or error
        if failure is not None:
            raise failure

    def _answers(self) -> Iterator[tuple[int, int, bytes]]:
        data = self._socket.recv(_ROOM)
        at = 0
        while at + _HEADER.size <= len(data):
            length, kind, _, number, _ = _HEADER.unpack_from(data, at)
            yield kind, number, data[at : at + length]
            at += (length + 3) & ~3


def _refused(data: bytes, message: nlmsg) -> None:
    (status,) = struct.unpack_from("=i", data, _HEADER.size)
    if status:
        raise OSError(-status, f"{type(message).__name__}: {os.strerror(-status)}")


def route() -> Netlink:
    """For links, addresses, routes and queueing disciplines."""
    return Netlink(NETLINK_ROUTE)


class Rules(Netlink):
    """For nftables: all messages of a batch come into force together, or none does."""

    def __init__(self) -> None:
        super().__init__(NETLINK_NETFILTER)

    def request(self, messages: Sequence[tuple[int, int, nlmsg]]) -> None:
        """As one transaction; one that is too long for the kernel's buffer as several."""
        subsystem = NFNL_SUBSYS_NFTABLES << 8
        packets: list[tuple[int, bytes]] = []
        asked: list[nlmsg] = []
        length = 0
        for kind, flags, message in messages:
            packet = self._packed(subsystem | kind, flags | NLM_F_REQUEST | NLM_F_ACK, message)
            if length + len(packet[1]) > _LONGEST:
                self._commit(packets, asked)
                packets, asked, length = [], [], 0
            packets.append(packet)
            asked.append(message)
            length += len(packet[1])
        if packets:
            self._commit(packets, asked)

    def objects(self, kind: int, message: nlmsg) -> list[nlmsg]:
        """All objects of a kind (NFT_MSG_GET...)."""
        return self.dump(NFNL_SUBSYS_NFTABLES << 8 | kind, message)

    def _commit(self, packets: list[tuple[int, bytes]], asked: list[nlmsg]) -> None:
        begin, end = (self._edge(kind) for kind in (_BATCH_BEGIN, _BATCH_END))
        around = [(begin[0], begin[1] + packets[0][1]), *packets[1:-1]]
        if len(packets) > 1:
            around.append((packets[-1][0], packets[-1][1] + end[1]))
        else:
            around[0] = (around[0][0], around[0][1] + end[1])
        # An edge is answered only when the whole was refused.
        numbered = [(number, data) for (number, _), (_, data) in zip(packets, around, strict=True)]
        self._send(numbered, asked)

    def _edge(self, kind: int) -> tuple[int, bytes]:
        message = nfgen_msg()
        message["nfgen_family"] = socket.AF_UNSPEC
        message["res_id"] = NFNL_SUBSYS_NFTABLES
        return self._packed(kind, NLM_F_REQUEST, message)
