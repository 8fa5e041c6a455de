#!/usr/bin/env python3
"""An internet and a host on it, in namespaces that a test makes itself; root makes them.

The *internet* is one network namespace in which every address there is answers (a local route to
everything): web servers, a name server, an index of packages, metadata services, private networks.
All that comes to it is written down by a packet socket: what a container may not reach has to be
missing there. The *host* is another one, with one link to it, an /etc/resolv.conf of its own, and
listeners on its loopback. What runs in it believes to be on a machine with that network:

    with World() as world:
        world.name("good.example", "45.10.1.1")
        done = world.run(["sandbox-kernel", "run", "--network", "bridge", ...])
        assert world.reached("45.10.1.1", 80)

This file is also the program that runs in both namespaces (by itself: `internet` or `host`).
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import unquote

GATEWAY, HOST, NAME_SERVER = "45.10.0.1", "45.10.0.2", "45.10.9.53"
PUBLIC, OTHER, INDEX = "45.10.1.1", "45.10.1.2", "45.10.1.3"
METADATA = ("169.254.169.254", "100.100.100.200", "192.0.0.192")
PRIVATE = ("10.77.0.1", "172.16.77.1", "192.168.77.1", "100.64.77.1")
SIX, HOST_SIX = "2606:10::1", "2606:10::2"  # each other, and by default everything
TCP_PORTS = (22, 25, 53, 80, 443, 853, 2375, 5432, 6379, 8080, 8888, 9999)
UDP_PORTS = (123, 443, 853, 5353, 9999)
HOST_PORTS = (2375, 6379, 8888, 9999)
ABSTRACT = "\0sandbox-kernel-canary"
CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
IP_PKTINFO = 8


class World:
    """The two namespaces, as a context."""

    def __init__(self, *, name_server: str = NAME_SERVER) -> None:
        self._name_server = name_server
        self._processes: list[subprocess.Popen[str]] = []
        self.stopping: list[list[str]] = []
        """What is run in the host before it goes, such as to end what is kept ready there."""

    def __enter__(self) -> World:
        self._folder = tempfile.TemporaryDirectory(prefix="sandbox-kernel-world-", dir="/var/tmp")
        os.chmod(self._folder.name, 0o755)
        resolv = Path(self._folder.name, "resolv.conf")
        resolv.write_text(f"nameserver {self._name_server}\n")
        resolv.chmod(0o644)
        try:
            self.internet = self._start("internet")
            self.host = self._start("host", str(resolv))
            self._connect()
            for each in (self.internet, self.host):
                self._tell(each, {"do": "listen"})
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for command in self.stopping:
            self.run(command)
        for process in reversed(self._processes):
            assert process.stdin is not None
            process.stdin.close()  # its end is the order to end
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()
        self._folder.cleanup()

    def name(self, name: str, *addresses: str, ttl: int = 60, alias: str | None = None) -> None:
        """What the name server says; more than one call for a name: in turns."""
        record = {"addresses": addresses, "ttl": ttl, "alias": alias}
        self._tell(self.internet, {"do": "name", "name": name, "record": record})

    def site(self, address: str, folder: str | Path) -> None:
        """Serve the files of a folder at an address."""
        self._tell(self.internet, {"do": "site", "address": address, "folder": str(folder)})

    def forget(self) -> None:
        """Count from nothing."""
        for each in (self.internet, self.host):
            self._tell(each, {"do": "forget"})

    def packets(self) -> Counter[tuple[str, str, int]]:
        """What came to the internet: (address, protocol, port) -> how many packets."""
        told = self._tell(self.internet, {"do": "packets"})
        return Counter({(at, protocol, port): n for at, protocol, port, n in told["packets"]})

    def reached(self, address: str, port: int | None = None) -> int:
        """How many packets came to an address of the internet."""
        found = self.packets().items()
        return sum(n for (at, _, p), n in found if at == address and port in (None, p))

    def addresses(self) -> set[str]:
        """Every address to which something came, but the name server and neighbour discovery."""
        return {at for at, _, _ in self.packets()} - {NAME_SERVER}

    def asked(self) -> list[str]:
        """The names that the name server was asked for."""
        names: list[str] = self._tell(self.internet, {"do": "asked"})["names"]
        return names

    def canaries(self) -> dict[str, int]:
        """What came to the listeners of the host: where -> how often."""
        found: dict[str, int] = self._tell(self.host, {"do": "hits"})["hits"]
        return found

    def command(self, argv: list[str]) -> list[str]:
        """The argv that runs `argv` in the host, from root."""
        enter = ["/usr/bin/nsenter", "--target", str(self.host.pid), "--net", "--mount"]
        return [*enter, "--wd=/", "--", *argv]

    def run(self, argv: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        """Runs a program in the host."""
        settings = {"capture_output": True, "text": True, "timeout": 60, "check": False} | options
        check = bool(settings.pop("check"))
        return subprocess.run(self.command(argv), check=check, **settings)

    def from_internet(self, argv: list[str]) -> subprocess.CompletedProcess[str]:
        """Runs a program on a host of the internet."""
        enter = ["/usr/bin/nsenter", "--target", str(self.internet.pid), "--net", "--", *argv]
        return subprocess.run(enter, capture_output=True, text=True, timeout=30, check=False)

    def _start(self, *words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-I", __file__, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def _connect(self) -> None:
        within = ["/usr/bin/nsenter", "--net", "--target"]
        internet = [
            f"link add line type veth peer name uplink netns {self.host.pid}",
            f"addr add {GATEWAY}/24 dev line",
            f"addr add {SIX}/64 dev line nodad",
            "link set line up",
            "link set lo up",
            "route add local default dev lo",
        ]
        host = [
            f"addr add {HOST}/24 dev uplink",
            f"addr add {HOST_SIX}/64 dev uplink nodad",
            "link set uplink up",
            "link set lo up",
            f"route add default via {GATEWAY}",
            f"-6 route add default via {SIX}",
        ]
        for process, lines in ((self.internet, internet), (self.host, host)):
            for line in lines:
                command = [*within, str(process.pid), "/sbin/ip", *line.split()]
                subprocess.run(command, check=True)

    def _tell(self, process: subprocess.Popen[str], order: dict[str, Any]) -> dict[str, Any]:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
        answer: dict[str, Any] = json.loads(process.stdout.readline())
        return answer


# -- the program in the namespaces ----------------------------------------------------------------


class Listeners:
    """What listens in one of the two, and what it heard."""

    def __init__(self) -> None:
        self.hits: Counter[str] = Counter()
        self.packets: Counter[tuple[str, str, int]] = Counter()
        self.names: dict[str, list[dict[str, Any]]] = {}
        self.asked: list[str] = []
        self.sites: dict[str, str] = {}

    async def tcp(self, ports: tuple[int, ...]) -> None:
        for port in ports:
            if port == 53:
                continue
            for host in ("0.0.0.0", "::"):
                await asyncio.start_server(self._serve, host, port)

    def udp(self, ports: tuple[int, ...]) -> None:
        for port in ports:
            opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            opened.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
            opened.bind(("0.0.0.0", port))
            opened.setblocking(False)
            take = self._name if port == 53 else self._echo
            asyncio.get_running_loop().add_reader(opened, take, opened)

    def sniff(self, interface: str) -> None:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0003))
        opened.bind((interface, 0x0003))
        opened.setblocking(False)
        asyncio.get_running_loop().add_reader(opened, self._packet, opened)

    async def abstract(self) -> None:
        await asyncio.start_unix_server(self._serve, ABSTRACT)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sockname = writer.get_extra_info("sockname")
        at = "abstract" if not isinstance(sockname, tuple) else f"{sockname[0]}:{sockname[1]}"
        self.hits[at] += 1
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
            path = unquote(head.split(b" ", 2)[1].decode())
            writer.write(self._page(at.rpartition(":")[0], at, path))
            await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError, IndexError):
            pass
        finally:
            writer.close()

    def _page(self, address: str, at: str, path: str) -> bytes:
        if path.startswith("/to/"):
            return f"HTTP/1.0 302 Found\r\nLocation: {path[4:]}\r\n\r\n".encode()
        body, kind = f"{at} {path}\n".encode(), "text/plain"
        if (folder := self.sites.get(address)) is not None:
            file = Path(folder, path.partition("?")[0].strip("/"))
            if file.is_dir():
                links = (f'<a href="{name}">{name}</a>' for name in sorted(os.listdir(file)))
                body, kind = "\n".join(links).encode(), "text/html"
            elif file.is_file():
                body, kind = file.read_bytes(), "application/octet-stream"
            else:
                return b"HTTP/1.0 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        head = f"HTTP/1.0 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body

    def _echo(self, opened: socket.socket) -> None:
        data, ancillary, _, source = opened.recvmsg(65535, 256)
        local = next(item[2] for item in ancillary if item[1] == IP_PKTINFO)
        at = socket.inet_ntoa(local[8:12])
        self.hits[f"{at}:{opened.getsockname()[1]} udp"] += 1
        # answered from the address that was asked, or nobody would take it for an answer
        info = (socket.IPPROTO_IP, IP_PKTINFO, struct.pack("=I", 0) + local[8:12] + b"\0\0\0\0")
        opened.sendmsg([f"{at} ".encode() + data], [info], 0, source)

    def _name(self, opened: socket.socket) -> None:
        import dns.message
        import dns.rcode
        import dns.rrset

        wire, ancillary, _, source = opened.recvmsg(4096, 256)
        local = next(item[2] for item in ancillary if item[1] == IP_PKTINFO)
        query = dns.message.from_wire(wire)
        name = query.question[0].name.to_text().lower()
        self.asked.append(name.removesuffix("."))
        response = dns.message.make_response(query)
        while records := self.names.get(name.removesuffix(".")):
            record = records.pop(0) if len(records) > 1 else records[0]
            if record["alias"]:
                alias = f"{record['alias']}."
                response.answer.append(
                    dns.rrset.from_text(name, record["ttl"], "IN", "CNAME", alias)
                )
                name = alias
                continue
            found = dns.rrset.from_text(name, record["ttl"], "IN", "A", *record["addresses"])
            response.answer.append(found)
            break
        else:
            response.set_rcode(dns.rcode.NXDOMAIN)
        info = (socket.IPPROTO_IP, IP_PKTINFO, struct.pack("=I", 0) + local[8:12] + b"\0\0\0\0")
        opened.sendmsg([response.to_wire()], [info], 0, source)

    def _packet(self, opened: socket.socket) -> None:
        try:
            packet, origin = opened.recvfrom(65535)
        except OSError:  # said once of a link that was down when it was bound
            return
        if origin[2] == 4:  # our own, going out
            return
        if origin[1] == 0x0800 and len(packet) >= 20:
            head = (packet[0] & 15) * 4
            protocol = {6: "tcp", 17: "udp", 1: "icmp"}.get(packet[9], str(packet[9]))
            first = not struct.unpack(">H", packet[6:8])[0] & 0x1FFF
            whole = protocol in ("tcp", "udp") and first and len(packet) >= head + 4
            port = struct.unpack(">H", packet[head + 2 : head + 4])[0] if whole else 0
            self.packets[socket.inet_ntoa(packet[16:20]), protocol, port] += 1
        elif origin[1] == 0x86DD and len(packet) >= 40 and packet[6] not in (0, 58):
            at = socket.inet_ntop(socket.AF_INET6, packet[24:40])
            self.packets[at, f"ipv6-{packet[6]}", 0] += 1

    def told(self, order: dict[str, Any]) -> dict[str, Any]:
        match order["do"]:
            case "name":
                self.names.setdefault(order["name"], []).append(order["record"])
            case "site":
                self.sites[order["address"]] = order["folder"]
            case "packets":
                return {"packets": [[*what, count] for what, count in self.packets.items()]}
            case "hits":
                return {"hits": dict(self.hits)}
            case "asked":
                return {"names": self.asked}
            case "forget":
                for each in (self.hits, self.packets, self.names, self.asked):
                    each.clear()
        return {}


async def serve(where: str) -> None:
    listeners = Listeners()
    reader = asyncio.StreamReader(limit=1 << 20)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    print("ready", flush=True)
    while line := await reader.readline():
        order = json.loads(line)
        if order["do"] == "listen" and where == "internet":
            await listeners.tcp(TCP_PORTS)
            listeners.udp((53, *UDP_PORTS))
            listeners.sniff("line")
        elif order["do"] == "listen":
            await listeners.tcp(HOST_PORTS)
            listeners.udp((9999,))
            await listeners.abstract()
        print(json.dumps(listeners.told(order)), flush=True)


def main(where: str, *resolv: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(1, signal.SIGKILL, 0, 0, 0) or libc.unshare(
        CLONE_NEWNET | (CLONE_NEWNS if resolv else 0)
    ):
        raise OSError(ctypes.get_errno(), "unshare")
    if resolv:
        file = os.path.realpath("/etc/resolv.conf")
        tunnel = os.path.join(os.path.dirname(resolv[0]), "tun")
        os.mknod(tunnel, stat.S_IFCHR | 0o666, os.makedev(10, 200))
        os.chmod(tunnel, 0o666)  # as udev has it where there is one
        for command in (
            ["/bin/mount", "--make-rprivate", "/"],
            ["/bin/mount", "--bind", resolv[0], file],
            ["/bin/mount", "--bind", tunnel, "/dev/net/tun"],
        ):
            subprocess.run(command, check=True)
    asyncio.run(serve(where))


if __name__ == "__main__":
    main(*sys.argv[1:])
