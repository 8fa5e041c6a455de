"""The five sockets that Jupyter knows, and back-pressure towards those who read from them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

import zmq

from .connection import Connection
from .zmtp import Buffer

LINGER = 1000  # milliseconds
MOST_FRAME = 512 << 20
LARGE = 64 << 10
"""Frames from this size on are handed to libzmq without a copy, and counted until they are sent."""
MOST_IN_FLIGHT = 64 << 20
STUCK_SECONDS = 30.0
AGAIN_SECONDS = 0.002
"""libzmq tells nobody when a subscriber has room again (an XPUB is always writable to `poll`)."""
LISTENER_SECONDS = 1.0
"""The longest that the first request waits for somebody who gets what is published."""


_NOBLOCK, _NOBLOCK_MORE = int(zmq.NOBLOCK), int(zmq.NOBLOCK) | int(zmq.SNDMORE)


class Outer:
    """Shell, control, stdin, iopub and heartbeat, bound to the places of the connection file."""

    def __init__(self, connection: Connection) -> None:
        self._context = zmq.Context()
        self._connection = connection
        self.shell = self._bind(zmq.ROUTER, connection.shell_port)
        self.control = self._bind(zmq.ROUTER, connection.control_port)
        self.stdin = self._bind(zmq.ROUTER, connection.stdin_port)
        self.iopub = self._bind(zmq.XPUB, connection.iopub_port)
        self._start_heartbeat()
        self._waiting: deque[list[Buffer]] = deque()
        self._waiting_bytes = 0
        self._in_flight: deque[tuple[zmq.MessageTracker, int]] = deque()
        self._in_flight_bytes = 0
        self._stuck_since: float | None = None
        self._dropping = False
        self._listened = False
        self._listener_due: float | None = None

    def _bind(self, kind: int, port: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.linger = LINGER
        socket.setsockopt(zmq.MAXMSGSIZE, MOST_FRAME)
        if kind == zmq.ROUTER:
            socket.setsockopt(zmq.ROUTER_HANDOVER, 1)  # a client that comes back is the same one
        else:
            socket.setsockopt(zmq.XPUB_NODROP, 1)
            socket.setsockopt(zmq.XPUB_VERBOSE, 1)
        self._encrypt(socket)
        socket.bind(self._connection.endpoint(port))
        return socket

    def _encrypt(self, socket: zmq.Socket[bytes]) -> None:
        if self._connection.curve_secretkey and self._connection.curve_publickey:
            socket.curve_secretkey = self._connection.curve_secretkey.encode()
            socket.curve_publickey = self._connection.curve_publickey.encode()
            socket.curve_server = True

    def _start_heartbeat(self) -> None:
        """An echo in a thread that never needs the interpreter, so nothing delays it."""
        socket = self._bind(zmq.ROUTER, self._connection.hb_port)
        socket.linger = 0

        def echo() -> None:
            with suppress(zmq.ZMQError), socket:  # the context is ended
                zmq.proxy(socket, socket)

        threading.Thread(target=echo, name="heartbeat", daemon=True).start()

    def publish(self, frames: list[Buffer]) -> None:
        """Send to all subscribers, or queue until they have room."""
        self._waiting.append(frames)
        self._waiting_bytes += _size(frames)
        if len(self._waiting) == 1:
            self.pump()

    def pump(self) -> None:
        """Send what waits, as far as subscribers take it."""
        while self._waiting:
            frames = self._waiting[0]
            size = _size(frames)
            tracker = None
            try:
                if size < LARGE:
                    _send(self.iopub, frames)
                else:
                    tracker = self.iopub.send_multipart(frames, zmq.NOBLOCK, copy=False, track=True)
            except zmq.Again:
                self._stuck()
                if self._dropping:
                    continue
                return
            self._stuck_since = None
            self._waiting.popleft()
            self._waiting_bytes -= size
            if tracker is not None:
                self._in_flight.append((tracker, size))
                self._in_flight_bytes += size

    def _stuck(self) -> None:
        """A subscriber has no room. For a bounded time all wait for it, then it loses messages."""
        now = time.monotonic()
        if self._stuck_since is None:
            self._stuck_since = now
        elif now - self._stuck_since > STUCK_SECONDS:
            self._dropping = True
            self.iopub.setsockopt(zmq.XPUB_NODROP, 0)

    def subscribed(self, event: bytes) -> str | None:
        """The topic of a new subscription, who waits for its welcome; None for an end of one."""
        if event[:1] != b"\x01":
            return None
        self._listened = True
        if self._dropping:  # a newcomer is trusted to read
            self._dropping = False
            self.iopub.setsockopt(zmq.XPUB_NODROP, 1)
        return event[1:257].decode("utf-8", "replace")

    def may_be_asked(self) -> bool:
        """Whether requests may be taken, or wait for the first subscriber.

        The sockets of one client connect each in its own time, and one that tried before we were
        there tries again a tenth of a second later. A kernel that has imported everything would
        have published all of the first cell by then, and nobody would get it.
        """
        if not self._listened and self._listener_due is None:
            self._listener_due = time.monotonic() + LISTENER_SECONDS
        return not self.waits_for_a_listener()

    def waits_for_a_listener(self) -> bool:
        """Whether requests wait now: since the first came, until `listener_due` at the latest."""
        due = self.listener_due
        if due is not None and time.monotonic() >= due:
            self._listened = True  # nobody will, or it is no matter any more
        return self.listener_due is not None

    @property
    def listener_due(self) -> float | None:
        """When `waits_for_a_listener` has to be asked again, by time.monotonic()."""
        return None if self._listened else self._listener_due

    @property
    def congested(self) -> bool:
        """Whether no more should be taken from the inside now."""
        while self._in_flight and self._in_flight[0][0].done:
            self._in_flight_bytes -= self._in_flight.popleft()[1]
        return bool(self._waiting) or self._in_flight_bytes > MOST_IN_FLIGHT

    def answer(
        self, socket: zmq.Socket[bytes], identities: Sequence[bytes], frames: list[Buffer]
    ) -> None:
        """Send to one client. One that reads nothing loses it: the loop waits for no client."""
        try:
            _send(socket, [*identities, *frames])
        except zmq.Again:
            return

    def close(self) -> None:
        """Let what was sent go out, for a bounded time."""
        deadline = time.monotonic() + LINGER / 1000
        while self._waiting and time.monotonic() < deadline:
            self.pump()
            self.iopub.poll(int(AGAIN_SECONDS * 1000))
        for socket in (self.shell, self.control, self.stdin, self.iopub):
            socket.close()
        self._context.term()  # by which the heartbeat closes its own


def receive(socket: zmq.Socket[bytes]) -> list[bytes] | None:
    """The frames of one message that is there, or None."""
    try:
        return socket.recv_multipart(_NOBLOCK)
    except zmq.Again:
        return None


def _send(socket: zmq.Socket[bytes], frames: Sequence[Buffer]) -> None:
    """Send without waiting. Raises zmq.Again, and then nothing of it was sent."""
    # `send_multipart` computes with enumerations for each frame: a fifth of a small message's time.
    for frame in frames[:-1]:
        socket.send(frame, _NOBLOCK_MORE)
    socket.send(frames[-1], _NOBLOCK)


def _size(frames: Sequence[Buffer]) -> int:
    return sum(map(len, frames))
