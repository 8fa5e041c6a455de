"""Captured packets: the file that others can read, and what each frame says."""

from __future__ import annotations

import io
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_kernel.network import capture
from sandbox_kernel.network.capture import Frame, Packet, Talk

ETHERNET = bytes.fromhex("020000000002020000000001")


def ip(protocol: int, body: bytes, *, fragment: int = 0) -> bytes:
    length = 20 + len(body)
    head = struct.pack(  # what is longer than the field says 0 there, as the kernel does
        ">BBHHHBBH4s4s", 0x45, 0, length if length < 1 << 16 else 0, 0, fragment, 64, protocol, 0,
        socket.inet_aton("10.88.0.2"), socket.inet_aton("9.9.9.9"),
    )  # fmt: skip
    return ETHERNET + b"\x08\x00" + head + body


def tcp(flags: int, data: bytes = b"") -> bytes:
    return struct.pack(">HHIIBBHHH", 40000, 443, 0, 0, 5 << 4, flags, 0, 0, 0) + data


def udp(port: int, data: bytes, source: int = 40001) -> bytes:
    return struct.pack(">HHHH", source, port, 8 + len(data), 0) + data


QUESTION = bytes.fromhex("0001010000010000000000000467 6f6f64076578616d706c650000010001")
DENIED = b"\0\1\x81\x83" + QUESTION[4:]
ARP = struct.pack(
    ">HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, b"\2\0\0\0\0\1", b"\x0a\x58\0\2", b"\0" * 6,
    b"\x0a\x58\0\1",
)  # fmt: skip


@pytest.mark.parametrize(
    ("data", "protocol", "port", "says"),
    [
        (ip(6, tcp(2)), "tcp", 443, "SYN"),
        (ip(6, tcp(0x18, b"hello")), "tcp", 443, "PSH ACK, 5 bytes"),
        (ip(6, tcp(0x10, bytes(100_000))), "tcp", 443, "ACK, 100000 bytes"),
        (ip(17, udp(53, QUESTION)), "udp", 53, "asks for good.example"),
        (ip(17, udp(40001, DENIED, 53)), "udp", 40001, "no such name good.example"),
        (ip(17, udp(123, b"1234")), "udp", 123, "4 bytes"),
        (ip(1, b"\x08\0\0\0"), "icmp", None, "echo request"),
        (ip(1, b"\x03\x0d\0\0"), "icmp", None, "not allowed"),
        (ip(17, b"rest", fragment=7), "ip", None, "fragment"),
        (ip(47, b""), "ip 47", None, ""),
        (ETHERNET + b"\x08\x06" + ARP, "arp", None, "who has 10.88.0.1?"),
        (ETHERNET + b"\x88\xcc", "0x88cc", None, ""),
        (b"short", "broken", None, ""),
    ],
)
def test_a_frame_says_what_it_is(data: bytes, protocol: str, port: int | None, says: str) -> None:
    packet = capture.dissect(Frame(0, data))

    assert (packet.protocol, packet.port, packet.says) == (protocol, port, says)


@given(st.binary(max_size=120))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    capture.dissect(Frame(0, data))
    capture.dissect(Frame(0, ip(17, udp(53, data))))
    capture.dissect(Frame(0, ip(6, data)))


def test_a_file_is_whole_after_each_frame_and_others_can_read_it() -> None:
    file = io.BytesIO()
    frames = [Frame(1_700_000_000_123_456_789, ip(6, tcp(2))), Frame(5, b"short")]
    writer = capture.Writer(file)
    for number, frame in enumerate(frames, 1):
        writer.write(frame)
        assert list(capture.read_file(file.getvalue())) == frames[:number]

    # magic with nanoseconds, version 2.4, Ethernet: the header that libpcap documents
    head = struct.unpack("=IHHiIII", file.getvalue()[:24])
    assert (head[0], head[1:3], head[6]) == (0xA1B23C4D, (2, 4), 1)
    with pytest.raises(ValueError, match="not a pcap"):
        list(capture.read_file(b"\0" * 40))


def test_who_talks_to_whom_is_counted_by_service() -> None:
    def packet(source: str, to: str, ports: tuple[int, int], length: int) -> Packet:
        return Packet(0.0, source, to, "tcp", *ports, length, "")

    found = capture.talks(
        [
            packet("a", "b", (40000, 80), 100),
            packet("a", "b", (40001, 80), 50),
            packet("b", "a", (80, 40000), 1000),
        ]
    )

    assert found == [Talk("b", "a", "tcp", 80, 1, 1000), Talk("a", "b", "tcp", 80, 2, 150)]
