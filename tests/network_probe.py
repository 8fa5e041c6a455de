"""What hostile code in a container tries with a network; the whole file is the program it runs.

It reads attempts from its environment, tries all of them at once, and prints what came of each:
`reached ...`, or the name of the error. Standard library only, any Python from 3.8.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import threading
import urllib.request

SECONDS = 2.0
ETH_P_IP, ETH_P_ARP, ETH_P_IPV6 = 0x0800, 0x0806, 0x86DD


def http(url: str, host: str | None = None) -> str:
    """GET; redirects are followed. `host`: another name than that of the address."""
    request = urllib.request.Request(url, headers={"Host": host} if host else {})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=SECONDS) as answer:
        return str(answer.read(100).decode(errors="replace").strip())


def tcp(address: str, port: int) -> str:
    with socket.create_connection((address, port), timeout=SECONDS) as opened:
        opened.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return str(opened.recv(100).decode(errors="replace").splitlines()[:1])


def udp(address: str, port: int) -> str:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as opened:
        opened.settimeout(SECONDS / 2)
        opened.connect((address, port))
        opened.send(b"hello")
        return str(opened.recv(100).decode(errors="replace"))


def name(wanted: str) -> str:
    found = socket.getaddrinfo(wanted, 80, socket.AF_INET, socket.SOCK_STREAM)
    return ",".join(sorted(each[4][0] for each in found))


def twice(wanted: str) -> str:
    """What a name means the first time, and the second time."""
    return f"{name(wanted)} {name(wanted)}"


def gateway() -> str:
    with open("/proc/net/route", encoding="ascii") as table:
        for line in table.read().splitlines()[1:]:
            words = line.split()
            if words[1] == "00000000":
                return socket.inet_ntoa(struct.pack("<I", int(words[2], 16)))
    raise OSError("no way out")


def at_gateway(kind: str, port: int) -> str:
    return (tcp if kind == "tcp" else udp)(gateway(), port)


def flood(address: str, port: int, count: int) -> str:
    """As many connections as it may have, none of which says anything."""
    opened = []
    for _ in range(count):
        each = socket.socket()
        each.setblocking(False)
        each.connect_ex((address, port))
        opened.append(each)
    KEPT.extend(opened)
    return f"{count} connections"


def abstract(path: str) -> str:
    with socket.socket(socket.AF_UNIX) as opened:
        opened.settimeout(SECONDS)
        opened.connect("\0" + path)
        return "connected"


def raw(source: str, destination: str, port: int, mac: str | None, to_mac: str | None) -> str:
    """A UDP packet over a packet socket: any source address, any hardware address."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as opened:
        opened.bind(("eth0", 0))
        own = opened.getsockname()[4]
        body = struct.pack(">HHHH", 7, port, 12, 0) + b"evil"
        head = struct.pack(
            ">BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 7, 0, 64, 17, 0,
            socket.inet_aton(source), socket.inet_aton(destination),
        )  # fmt: skip
        total = sum(struct.unpack(">10H", head))
        total = (total & 0xFFFF) + (total >> 16)
        head = head[:10] + struct.pack(">H", ~total & 0xFFFF) + head[12:]
        target = bytes.fromhex((to_mac or gateway_mac()).replace(":", ""))
        origin = bytes.fromhex(mac.replace(":", "")) if mac else own
        for _ in range(3):
            opened.send(target + origin + struct.pack(">H", ETH_P_IP) + head + body)
        return "sent"


def arp(pretended: str, victim: str) -> str:
    """Says three times that an address of another one is ours."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as opened:
        opened.bind(("eth0", 0))
        own = opened.getsockname()[4]
        body = struct.pack(
            ">HHBBH6s4s6s4s", 1, ETH_P_IP, 6, 4, 2, own, socket.inet_aton(pretended),
            b"\xff" * 6, socket.inet_aton(victim),
        )  # fmt: skip
        for _ in range(3):
            opened.send(b"\xff" * 6 + own + struct.pack(">H", ETH_P_ARP) + body)
        return "sent"


def gateway_mac() -> str:
    with open("/proc/net/arp", encoding="ascii") as table:
        for line in table.read().splitlines()[1:]:
            words = line.split()
            if words[3] != "00:00:00:00:00:00":
                return words[3]
    return "ff:ff:ff:ff:ff:ff"


def listen(port: int, address: str = "0.0.0.0") -> str:
    opened = socket.create_server((address, port))
    KEPT.append(opened)
    return "listens"


KEPT: list[socket.socket] = []
KINDS = {
    "http": http, "tcp": tcp, "udp": udp, "name": name, "abstract": abstract, "raw": raw,
    "arp": arp, "listen": listen, "twice": twice, "gateway": at_gateway, "flood": flood,
}  # fmt: skip


def attempt(outcomes: dict[str, str], what: str, words: list[object]) -> None:
    try:
        outcomes[what] = f"reached {KINDS[str(words[0])](*words[1:])}"  # type: ignore[operator]
    except Exception as error:  # what it was is what is wanted
        reason = getattr(error, "reason", error)
        code = getattr(reason, "errno", None)
        outcomes[what] = f"{type(reason).__name__} {code if code is not None else reason}"


def main(attempts: dict[str, list[object]]) -> None:
    outcomes: dict[str, str] = {}
    threads = [
        threading.Thread(target=attempt, args=(outcomes, what, words), daemon=True)
        for what, words in attempts.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS * 2)
    print(json.dumps({what: outcomes.get(what, "hangs") for what in attempts}), flush=True)


if __name__ == "__main__":
    main(json.loads(os.environ.get("ATTEMPTS") or sys.argv[1]))
