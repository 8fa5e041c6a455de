"""Servers of tests on loopback: each in a thread of its own, from `with` to the end of it."""

from __future__ import annotations

import socketserver
import threading
from typing import Self


class Patient(socketserver.ThreadingMixIn):
    """Comes before a server's own class: closing it waits for what it still answers."""

    daemon_threads = False

    def handle_error(self, *_: object) -> None:
        """A client that goes away in the middle is what these tests are about."""


class Serving:
    """`with` it, the server answers; afterwards all of it has ended."""

    def __init__(self, server: socketserver.BaseServer) -> None:
        self._server = server
        self.ended = threading.Event()
        """Set before it ends: who keeps a client waiting waits for that."""

    def __enter__(self) -> Self:
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
