"""Corpus group H, entry 89: a container without a network has its own loopback and nothing else."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.everybody

# include/linux/socket.h; of netlink include/uapi/linux/netlink.h
OTHERS = {"AX25": 3, "IPX": 4, "PACKET": 17, "BLUETOOTH": 31, "ALG": 38, "VSOCK": 40, "XDP": 44}


def test_h89_there_is_only_loopback_and_no_other_family(inside, canaries):
    found = inside.tell(
        """
        import socket
        others, port = json.loads(sys.argv[1]), int(sys.argv[2])
        def connect(family, address, kind=socket.SOCK_STREAM):
            with socket.socket(family, kind) as one:
                one.settimeout(3)
                one.connect(address)
                if kind == socket.SOCK_DGRAM:
                    one.send(b"x")
        names = [line.split(":")[0].strip() for line in open("/proc/net/dev").readlines()[2:]]
        tell({
            "links": names,
            "families": {name: attempt(socket.socket, number, socket.SOCK_RAW)
                         for name, number in others.items()},
            "raw": attempt(socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
            "netlink": {number: attempt(socket.socket, 16, socket.SOCK_RAW, number)
                        for number in (4, 9, 12, 15, 16)},
            "out": [attempt(connect, socket.AF_INET, ("192.0.2.1", 80)),
                    attempt(connect, socket.AF_INET, ("8.8.8.8", 53), socket.SOCK_DGRAM),
                    attempt(connect, socket.AF_INET6, ("2001:db8::1", 80))],
            "host": attempt(connect, socket.AF_INET, ("127.0.0.1", port)),
            "names": [line for line in read("/etc/resolv.conf").splitlines()
                      if line.startswith("nameserver")],
        })
        """,
        json.dumps(OTHERS),
        str(canaries.port),
    )
    assert found["links"] == ["lo"]
    assert set(found["families"].values()) <= {"EAFNOSUPPORT", "EPERM"}
    assert found["raw"] in ("EPERM", "EPROTONOSUPPORT")
    assert set(found["netlink"].values()) == {"EPROTONOSUPPORT"}
    assert set(found["out"]) <= {"ENETUNREACH", "EADDRNOTAVAIL"}
    assert found["host"] == "ECONNREFUSED"
    assert found["names"] == []


def test_h89_the_links_can_not_be_changed(inside):
    found = inside.tell(
        """
        import socket, struct
        def ask(kind, body):
            with socket.socket(16, socket.SOCK_RAW, 0) as one:
                head = struct.pack("=IHHII", 16 + len(body), kind, 0x605, 1, 0)
                one.send(head + body)
                answer = one.recv(4096)
            number = -struct.unpack_from("=i", answer, 16)[0]
            return errno.errorcode.get(number, number)
        link = struct.pack("=BxHiII", 0, 0, 0, 0, 0)
        address = struct.pack("=BBBBI", 2, 24, 0, 0, 1) + struct.pack("=HH4s", 8, 2, bytes(4))
        tell([ask(16, link), ask(20, address)])
        """
    )
    assert found == ["EPERM", "EPERM"]
