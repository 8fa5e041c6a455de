"""Ports of this machine that lead to ports of containers.

The listener is in the machine's network namespace, the connection to the container starts in the
holder's. Bytes go through pipes in the kernel (splice(2)), and no rule of the machine is touched:
so it is the same for root and for an ordinary user, and a port is bound where it was said, only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import Any

from sandbox_kernel.errors import InvalidOption
from sandbox_kernel.network.loop import READ, WRITE, Loop
from sandbox_kernel.network.protocol import Port
from sandbox_kernel.network.spaces import Outside

MOST_CONNECTIONS = 256
"""Of one container, at once."""
_AT_ONCE = 1 << 16
_FLAGS = os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE
_NEEDS = {
    errno.EADDRINUSE: "a port of this machine that is free: it is taken",
    errno.EACCES: "a port from 1024 on: lower ones are for root",
    errno.EPERM: "a port from 1024 on: lower ones are for root",
    errno.EADDRNOTAVAIL: "an address of this machine, such as 127.0.0.1",
}


class Publishing:
    """All published ports of a holder."""

    def __init__(self, loop: Loop, outside: Outside) -> None:
        self._loop = loop
        self._outside = outside
        self._listeners: dict[str, list[_Listener]] = {}

    def begin(self, container: str, port: Port, address: str) -> dict[str, Any]:
        """Lead a port to the container's address. Raises InvalidOption."""
        wanted = f"{port.address}:{port.port}:{port.inside}"

        def listen() -> socket.socket:
            made = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            try:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                made.bind((port.address, port.port))
                made.listen(128)
            except BaseException:
                made.close()
                raise
            return made

        try:
            made = self._outside.call(listen)
        except OSError as error:
            allowed = _NEEDS.get(error.errno or 0, f"a port that can be had: {error.strerror}")
            raise InvalidOption("--publish", wanted, allowed) from error
        listener = _Listener(self._loop, made, (address, port.inside))
        self._listeners.setdefault(container, []).append(listener)
        bound = made.getsockname()
        return {"address": bound[0], "port": bound[1], "inside": port.inside}

    def of(self, container: str) -> list[dict[str, Any]]:
        """The ports of a container, as `begin` told them, with the connections that there are."""
        return [each.describe() for each in self._listeners.get(container, ())]

    def end(self, container: str) -> None:
        """All ports of a container, and the connections through them."""
        for listener in self._listeners.pop(container, ()):
            listener.close()


class _Listener:
    def __init__(self, loop: Loop, listener: socket.socket, target: tuple[str, int]) -> None:
        self._loop = loop
        self._socket = listener
        self._target = target
        self.connections: set[_Connection] = set()
        loop.watch(listener.fileno(), self._accept)

    def describe(self) -> dict[str, Any]:
        address, port = self._socket.getsockname()
        return {
            "address": address,
            "port": port,
            "inside": self._target[1],
            "connections": len(self.connections),
        }

    def _accept(self, _: int) -> None:
        try:
            accepted, _address = self._socket.accept()
        except OSError:
            return  # it went away, or no descriptor is left: the next turn tries again
        if len(self.connections) >= MOST_CONNECTIONS:
            accepted.close()
            return
        try:
            self.connections.add(_Connection(self, self._loop, accepted, self._target))
        except OSError:
            accepted.close()

    def close(self) -> None:
        self._loop.forget(self._socket.fileno())
        self._socket.close()
        for connection in list(self.connections):
            connection.close()


class _Half:
    """One direction of a connection: what was read waits in a pipe until it can be written."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source = source
        self.sink = sink
        self.out, self.into = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.waiting = 0
        self.ended = False
        self.over = False

    def move(self) -> None:
        """As much as goes now. Raises OSError when an end is gone."""
        if not self.waiting and not self.ended:
            with contextlib.suppress(BlockingIOError):
                self.waiting = os.splice(self.source.fileno(), self.into, _AT_ONCE, flags=_FLAGS)
                self.ended = self.waiting == 0
        if self.waiting:
            with contextlib.suppress(BlockingIOError):
                self.waiting -= os.splice(self.out, self.sink.fileno(), self.waiting, flags=_FLAGS)
        if self.ended and not self.waiting and not self.over:
            self.over = True
            with contextlib.suppress(OSError):  # the other end has closed all of it
                self.sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        os.close(self.out)
        os.close(self.into)


class _Connection:
    """Somebody of this machine, and the container."""

    def __init__(
        self, listener: _Listener, loop: Loop, accepted: socket.socket, target: tuple[str, int]
    ) -> None:
        self._listener = listener
        self._loop = loop
        self._accepted = accepted
        self._halves: tuple[_Half, ...] = ()
        accepted.setblocking(False)
        kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._inner = socket.socket(socket.AF_INET, kind)
        try:
            for end in (accepted, self._inner):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with contextlib.suppress(BlockingIOError):
                self._inner.connect(target)
        except BaseException:
            self._inner.close()
            raise
        loop.watch(self._inner.fileno(), self._connected, WRITE)

    def _connected(self, _: int) -> None:
        if self._inner.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.close()
            return
        self._halves = (
            _Half(self._accepted, self._inner),
            _Half(self._inner, self._accepted),
        )
        self._move(0)

    def _move(self, _: int) -> None:
        try:
            for half in self._halves:
                half.move()
        except OSError:
            self.close()
            return
        if all(half.over for half in self._halves):
            self.close()
            return
        for end in (self._accepted, self._inner):
            wanted = 0
            for half in self._halves:
                if half.source is end and not half.waiting and not half.ended:
                    wanted |= READ
                if half.sink is end and half.waiting:
                    wanted |= WRITE
            if wanted:
                self._loop.watch(end.fileno(), self._move, wanted)
            else:
                self._loop.forget(end.fileno())

    def close(self) -> None:
        for end in (self._accepted, self._inner):
            self._loop.forget(end.fileno())
            end.close()
        for half in self._halves:
            half.close()
        self._halves = ()
        self._listener.connections.discard(self)
