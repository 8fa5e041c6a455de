"""Connections as httpcore uses them: addresses admitted, deadlines kept, ended from another thread.

httpx's timeouts are for one read, so a server that sends a byte now and then is never late. Here
whoever asks sets a deadline for all that follows (`deadline`), and each read waits at most so long.
A name is resolved here and the address that was looked at is the one connected to, so that no
second answer of a name server can lead elsewhere.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any

import httpcore

from sandbox_kernel.image.registry.endpoints import Address, literal
from sandbox_kernel.workers import wait

_UNTIL: ContextVar[float | None] = ContextVar("until", default=None)
Admit = Callable[[str, Address], None]
_Lookup = queue.SimpleQueue[list[str] | httpcore.ConnectError | None]
"""Where one look-up of a name tells its end; None: it is not wanted any more."""


class Cancelled(Exception):
    """What was being done is not wanted any more."""


class NoNameServer(httpcore.ConnectError):
    """No name server said what address a host has, nor that it has none."""


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """All reads and writes of this thread within the block end by then, with a timeout.

    Within another such block the earlier end holds.
    """
    until, outer = time.monotonic() + seconds, _UNTIL.get()
    token = _UNTIL.set(until if outer is None else min(until, outer))
    try:
        yield
    finally:
        _UNTIL.reset(token)


class Cancellation:
    """Ends, from any thread, the connections and the waits that stand under it."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._lookups: set[_Lookup] = set()

    def cancel(self) -> None:
        """Every read and write fails from now on, those under way too."""
        with self._lock:
            self._asked.set()
            for held in self._sockets:
                with contextlib.suppress(OSError):
                    held.shutdown(socket.SHUT_RDWR)
            for lookup in self._lookups:
                lookup.put(None)

    def check(self) -> None:
        """Raises Cancelled when it was asked for."""
        if self._asked.is_set():
            raise Cancelled

    def wait(self, seconds: float) -> None:
        """Lets time pass. Raises Cancelled as soon as that is asked for."""
        if self._asked.wait(seconds):
            raise Cancelled

    @contextlib.contextmanager
    def wakes(self, lookup: _Lookup) -> Iterator[None]:
        """Whoever waits at that queue within the block gets None from `cancel`."""
        with self._lock:
            self._lookups.add(lookup)
            if self._asked.is_set():
                lookup.put(None)
        try:
            yield
        finally:
            with self._lock:
                self._lookups.discard(lookup)

    def hold(self, connection: socket.socket) -> socket.socket:
        """A second descriptor of a connection, shut down by `cancel`; given back to `release`."""
        held = socket.socket(fileno=os.dup(connection.fileno()))
        with self._lock:
            self._sockets.add(held)
            if self._asked.is_set():
                held.shutdown(socket.SHUT_RDWR)
        return held

    def release(self, held: socket.socket) -> None:
        """The connection was closed."""
        with self._lock:
            self._sockets.discard(held)
        held.close()


class Backend(httpcore.NetworkBackend):
    """Makes connections to addresses that `admit` lets pass; it raises RegistryError for others."""

    def __init__(self, admit: Admit, cancellation: Cancellation) -> None:
        self._admit = admit
        self._cancellation = cancellation
        self._connect = httpcore.SyncBackend().connect_tcp

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Tries the addresses of a host one after another; the first that answers is taken."""
        self._cancellation.check()
        addresses = self._find(host, _within(timeout))
        for address in addresses:
            self._admit(host, ipaddress.ip_address(address.partition("%")[0]))
        for index, address in enumerate(addresses, 1):
            try:
                stream = self._connect(address, port, _within(timeout), local_address)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if index == len(addresses):
                    raise
            else:
                held = self._cancellation.hold(stream.get_extra_info("socket"))
                return _Stream(stream, held, self._cancellation)
        raise httpcore.ConnectError(f"`{host}` has no address")

    def _find(self, host: str, seconds: float | None) -> list[str]:
        """The addresses of a host, asked for in a thread that is left alone when it takes too long.

        The C library asks silent name servers for up to half a minute, and neither a signal nor a
        deadline ends it.
        """
        if literal(host) is not None:
            return [host.strip("[]")]
        found: _Lookup = queue.SimpleQueue()
        with self._cancellation.wakes(found):
            threading.Thread(
                target=lambda: found.put(_looked_up(host)), name=f"name {host[:19]}", daemon=True
            ).start()
            try:
                answer = wait(found, seconds)
            except queue.Empty:
                raise NoNameServer(
                    f"no name server had an answer for `{host}` in {seconds:.2g} s"
                ) from None
        self._cancellation.check()
        if isinstance(answer, list):
            return answer
        raise answer or Cancelled


class _Stream(httpcore.NetworkStream):
    """A connection whose reads and writes keep the deadline of the thread that asks."""

    def __init__(
        self, stream: httpcore.NetworkStream, held: socket.socket, cancellation: Cancellation
    ) -> None:
        self._stream = stream
        self._held = held
        self._cancellation = cancellation

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = self._stream.read(max_bytes, _within(timeout, httpcore.ReadTimeout))
        self._cancellation.check()
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._cancellation.check()
        self._stream.write(buffer, _within(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()
        self._cancellation.release(self._held)

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        try:
            inner = self._stream.start_tls(ssl_context, server_hostname, _within(timeout))
        except BaseException:
            self._cancellation.release(self._held)
            raise
        return _Stream(inner, self._held, self._cancellation)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _within(
    timeout: float | None,
    late: type[httpcore.TimeoutException] = httpcore.ConnectTimeout,
) -> float | None:
    """The time that is left of both."""
    until = _UNTIL.get()
    if until is None:
        return timeout
    left = until - time.monotonic()
    if left <= 0:
        raise late("the deadline of the whole has passed")
    return left if timeout is None else min(timeout, left)


def _looked_up(host: str) -> list[str] | httpcore.ConnectError:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        if isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN:
            return NoNameServer(f"no name server had an answer for `{host}`")
        return httpcore.ConnectError(f"`{host}` has no address: {error}")
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
