"""Packets of a container: a socket that sees them, a pcap file of them, and what each one says.

The holder opens the socket at the host's end of the container's link, so packets are seen before a
rule drops them. Who asked for it reads them, and writes the file: it costs the holder nothing, and
ends with its reader. packet(7); the file is as pcap-savefile(5) of libpcap says, with nanoseconds.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

ETH_P_ALL, ETH_P_IP, ETH_P_ARP, ETH_P_IPV6 = 0x0003, 0x0800, 0x0806, 0x86DD
SOL_PACKET, PACKET_STATISTICS = 263, 6
SO_TIMESTAMPNS = 35
_MAGIC, _LINK_IS_ETHERNET = 0xA1B23C4D, 1
_ROOM = 4 << 20
LONGEST = 262144
"""Longer than a frame can be, also one that the card will cut."""
MOST_PACKETS = 1_000_000
_FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG")
_ICMP = {0: "echo reply", 3: "unreachable", 8: "echo request", 11: "time exceeded"}
_ADMINISTRATIVELY = (9, 10, 13)


class Frame(NamedTuple):
    """One frame as it was on the link, in nanoseconds since 1970."""

    moment: int
    data: bytes


class Packet(NamedTuple):
    """What a frame says, for people."""

    time: float
    source: str
    destination: str
    protocol: str
    source_port: int | None
    port: int | None
    length: int
    says: str


class Talk(NamedTuple):
    """All that one said to another by one protocol."""

    source: str
    destination: str
    protocol: str
    port: int | None
    packets: int
    bytes: int


def open_socket(interface: str) -> socket.socket:
    """A socket that sees every frame of an interface, from now on. Raises OSError."""
    # With no protocol it sees nothing until it is bound: no frame of another interface gets in.
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ROOM)
        opened.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        opened.bind((interface, ETH_P_ALL))
    except OSError:
        opened.close()
        raise
    return opened


def frames(
    opened: socket.socket, *, count: int, seconds: float | None, until: int | None = None
) -> Iterator[Frame]:
    """What the socket sees: so many frames, or for so long, or until a descriptor is readable.

    The end of the link ends it too.
    """
    opened.setblocking(False)
    end = None if seconds is None else time.monotonic() + seconds
    poll = select.poll()
    poll.register(opened, select.POLLIN)
    if until is not None:
        poll.register(until, select.POLLIN)
    while count:
        left = None if end is None else end - time.monotonic()
        ready = poll.poll(None if left is None else max(left, 0) * 1000)
        if not ready or (until is not None and until in {number for number, _ in ready}):
            return
        try:
            data, ancillary, _, _ = opened.recvmsg(LONGEST, 128)
        except BlockingIOError:
            continue
        except OSError:  # the link is gone, and the container with it
            return
        yield Frame(_moment(ancillary), data)
        count -= 1


def lost(opened: socket.socket) -> int:
    """How many frames there was no room for, since it was asked last."""
    told = opened.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
    return int(struct.unpack("=II", told)[1])


class Writer:
    """A pcap file. Whole after each frame."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        head = struct.pack("=IHHiIII", _MAGIC, 2, 4, 0, 0, LONGEST, _LINK_IS_ETHERNET)
        file.write(head)
        file.flush()

    def write(self, frame: Frame) -> None:
        """One frame more."""
        seconds, rest = divmod(frame.moment, 10**9)
        head = struct.pack("=IIII", seconds, rest, len(frame.data), len(frame.data))
        self._file.write(head + frame.data)
        self._file.flush()


def read_file(data: bytes) -> Iterator[Frame]:
    """The frames of a file that `Writer` wrote. Raises ValueError for another one."""
    if len(data) < 24 or struct.unpack_from("=I", data)[0] != _MAGIC:
        raise ValueError("not a pcap file of this program")
    at = 24
    while at + 16 <= len(data):
        seconds, rest, kept, _ = struct.unpack_from("=IIII", data, at)
        at += 16
        yield Frame(seconds * 10**9 + rest, data[at : at + kept])
        at += kept


def dissect(frame: Frame) -> Packet:
    """What a frame says. Frames are what anybody may have sent: nothing in them is trusted."""
    moment = frame.moment / 1e9
    try:
        source, destination, protocol, ports, says = _dissected(frame.data)
    except (struct.error, IndexError, ValueError, OSError):  # OSError: an address cut off
        source, destination, protocol, ports, says = "?", "?", "broken", (None, None), ""
    return Packet(moment, source, destination, protocol, *ports, len(frame.data), says)


def talks(packets: Iterable[Packet]) -> list[Talk]:
    """Who said how much to whom; those who said most come first."""
    counted: Counter[tuple[str, str, str, int | None]] = Counter()
    sizes: Counter[tuple[str, str, str, int | None]] = Counter()
    for packet in packets:
        known = [port for port in (packet.source_port, packet.port) if port is not None]
        # The lower port is the service; the other one was only lent to the client.
        who = (packet.source, packet.destination, packet.protocol, min(known, default=None))
        counted[who] += 1
        sizes[who] += packet.length
    found = [Talk(*who, count, sizes[who]) for who, count in counted.items()]
    return sorted(found, key=lambda talk: (-talk.bytes, talk.source, talk.destination))


_Ports = tuple[int | None, int | None]


def _dissected(data: bytes) -> tuple[str, str, str, _Ports, str]:
    to, sender, kind = data[:6].hex(":"), data[6:12].hex(":"), struct.unpack_from(">H", data, 12)[0]
    if kind == ETH_P_ARP:
        return _arp(data[14:], sender, to)
    if kind == ETH_P_IP:
        return _ip(data[14:])
    if kind == ETH_P_IPV6:
        source = socket.inet_ntop(socket.AF_INET6, data[22:38])
        return source, socket.inet_ntop(socket.AF_INET6, data[38:54]), "ipv6", (None, None), ""
    return sender, to, f"0x{kind:04x}", (None, None), ""


def _arp(data: bytes, sender: str, to: str) -> tuple[str, str, str, _Ports, str]:
    operation = struct.unpack_from(">H", data, 6)[0]
    of, wanted = socket.inet_ntoa(data[14:18]), socket.inet_ntoa(data[24:28])
    says = f"who has {wanted}?" if operation == 1 else f"{of} is at {data[8:14].hex(':')}"
    return of, wanted, "arp", (None, None), says


def _ip(data: bytes) -> tuple[str, str, str, _Ports, str]:
    head = (data[0] & 15) * 4
    protocol, fragment = data[9], struct.unpack_from(">H", data, 6)[0] & 0x1FFF
    source, destination = socket.inet_ntoa(data[12:16]), socket.inet_ntoa(data[16:20])
    body = data[head:]
    if fragment:
        return source, destination, "ip", (None, None), "fragment"
    if protocol == socket.IPPROTO_TCP:
        ports = struct.unpack_from(">HH", body)
        flags = " ".join(name for bit, name in enumerate(_FLAGS) if body[13] >> bit & 1)
        # A segment of more than 64 KiB, which stays on this machine, says 0 (BIG TCP).
        total = struct.unpack_from(">H", data, 2)[0] or len(data)
        length = total - head - (body[12] >> 4) * 4
        says = flags + (f", {length} bytes" if length > 0 else "")
        return source, destination, "tcp", ports, says
    if protocol == socket.IPPROTO_UDP:
        ports = struct.unpack_from(">HH", body)
        says = _name_asked(body[8:]) if 53 in ports else f"{len(body) - 8} bytes"
        return source, destination, "udp", ports, says
    if protocol == socket.IPPROTO_ICMP:
        says = _ICMP.get(body[0], f"type {body[0]}")
        says = "not allowed" if body[0] == 3 and body[1] in _ADMINISTRATIVELY else says
        return source, destination, "icmp", (None, None), says
    return source, destination, f"ip {protocol}", (None, None), ""


def _name_asked(data: bytes) -> str:
    """The question of a DNS message: RFC 1035, 4.1."""
    answers = bool(data[2] & 0x80)
    at, labels = 12, []
    while length := data[at]:
        if length > 63:
            return "dns"
        labels.append(data[at + 1 : at + 1 + length].decode("ascii", "replace"))
        at += 1 + length
    status = data[3] & 15
    outcome = "no such name" if status == 3 else f"status {status}" if status else "answer of"
    return f"{outcome if answers else 'asks for'} {'.'.join(labels)}"


def _moment(ancillary: list[tuple[int, int, bytes]]) -> int:
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS and len(data) >= 16:
            seconds, rest = struct.unpack("=qq", data[:16])
            return int(seconds * 10**9 + rest)
    return time.time_ns()
