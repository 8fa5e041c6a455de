"""A proxy on loopback that tunnels to a registry, until a test has it fail."""

from __future__ import annotations

import select
import socket
import socketserver
import threading
from typing import Literal

from serving import Patient, Serving

Fault = Literal["", "answers 502", "says nothing", "cuts off", "stalls"]
"""The first two when a tunnel is asked for, the last two after so many bytes of the registry."""


class _Tunnel(socketserver.BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        owner = self.server.owner
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            if not (part := self.request.recv(4096)):
                return
            head += part
        owner.asked.append(head.decode())
        if owner.fault == "answers 502":
            self.request.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
        elif owner.fault == "says nothing":
            owner.stall()
        else:
            with socket.create_connection(owner.registry) as registry:
                self.request.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                self._carry(owner, registry)

    def _carry(self, owner: Proxy, registry: socket.socket) -> None:
        ends = {self.request: registry, registry: self.request}
        came = 0
        while not owner.ended.is_set():
            for source in select.select(list(ends), [], [], 0.05)[0]:
                if not (data := source.recv(65536)):
                    return
                came += len(data) if source is registry else 0
                if owner.fault and came > owner.after:
                    if owner.fault == "stalls":
                        owner.stall()
                    return
                ends[source].sendall(data)


class _Server(Patient, socketserver.TCPServer):
    owner: Proxy


class Proxy(Serving):
    """`with Proxy(registry) as proxy:`; whatever host is asked for, it is that registry."""

    def __init__(self, registry: tuple[str, int]) -> None:
        self.registry = registry
        self.fault: Fault = ""
        self.after = 0
        self.asked: list[str] = []
        """The heads of the requests for tunnels."""
        self.stalled = threading.Event()
        server = _Server(("127.0.0.1", 0), _Tunnel)
        server.owner = self
        self.authority = "127.0.0.1:{1}".format(*server.server_address)
        super().__init__(server)

    def stall(self) -> None:
        """Nothing more comes, and the connection stays."""
        self.stalled.set()
        self.ended.wait()
