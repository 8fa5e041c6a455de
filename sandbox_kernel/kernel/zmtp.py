"""One connection to a ZeroMQ socket of the inside, spoken by hand (ZMTP 3.0, mechanism NULL).

libzmq would keep a message of endless frames in memory before anyone could count it, and would
connect again to a path. Here one stream socket, connected once, is read under a budget: a message
that is larger is skipped as it comes, its first frames are handed on, and `cut` says so.
The protocol: https://rfc.zeromq.org/spec/23/ .
"""

from __future__ import annotations

import mmap
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from sandbox_kernel.errors import BadMessage

Buffer = bytes | bytearray | memoryview

GREETING = b"\xff" + bytes(7) + b"\x01\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
MORE, LONG, COMMAND = 1, 2, 4
MOST_FRAMES = 1024
HUGE = 4 << 20
"""Bytes of a frame from which on huge pages pay: each small page costs a fault of its own."""
AT_ONCE = 1 << 20
"""Bytes that one call of `read` takes in, so that no channel keeps the loop from the others."""


class Digest(Protocol):
    """A hash that is fed with a frame while the rest of it is still on its way."""

    def update(self, msg: Buffer, /) -> None:
        """Take in the next bytes."""

    def hexdigest(self) -> str:
        """The hash of all of it."""


class Received(NamedTuple):
    """One message; of one over the budget only the first frames, and the size of it all.

    `digest`: what `begin_digest` of the link began with a huge frame, fed with all of that frame.
    """

    frames: list[Buffer]
    cut: bool
    size: int
    digest: Digest | None = None


class Link:
    """Frames in and out over a connected stream socket. Never blocks."""

    begin_digest: Callable[[Sequence[Buffer]], Digest | None] | None = None
    """Called with the frames before a huge one: then that one is hashed as it comes, while its
    sender makes the rest of it ready, and not afterwards."""

    def __init__(
        self, stream: socket.socket, kind: str, *, identity: bytes = b"", budget: int
    ) -> None:
        stream.setblocking(False)
        self._stream = stream
        self._kind = kind
        self._identity = identity
        self._budget = budget
        self._outgoing: deque[memoryview] = deque([memoryview(GREETING)])
        self._held: list[Sequence[Buffer]] | None = []  # until the handshake is done
        self._incoming = bytearray()
        self._greeted = False
        self._begin()
        self.ended = False
        self.waiting = 0  # bytes that are not sent yet

    def fileno(self) -> int:
        """The descriptor to poll: always to read, to write while `writing`."""
        return self._stream.fileno()

    @property
    def writing(self) -> bool:
        """Whether there is something to send."""
        return bool(self._outgoing)

    def close(self) -> None:
        """Let the connection go."""
        self.ended = True
        self._stream.close()

    def send(self, frames: Sequence[Buffer]) -> None:
        """Queue a message, and send what goes at once."""
        if self._held is not None:
            self._held.append(frames)
            self.waiting += sum(map(len, frames))
            return
        last = len(frames) - 1
        for number, frame in enumerate(frames):
            view = memoryview(frame)
            flags = MORE if number < last else 0
            self._queue(flags, view)
        self.flush()

    def _queue(self, flags: int, body: memoryview) -> None:
        if body.nbytes > 255:
            head = bytes((flags | LONG,)) + body.nbytes.to_bytes(8, "big")
        else:
            head = bytes((flags, body.nbytes))
        self._outgoing.append(memoryview(head))
        self.waiting += len(head) + body.nbytes
        if body.nbytes:
            self._outgoing.append(body)

    def flush(self) -> None:
        """Send what the socket takes now."""
        while self._outgoing and not self.ended:
            batch = [self._outgoing[i] for i in range(min(len(self._outgoing), 32))]
            try:
                sent = self._stream.sendmsg(batch)
            except BlockingIOError:
                return
            except OSError:
                self.ended = True
                return
            self.waiting = max(0, self.waiting - sent)
            while sent:
                first = self._outgoing[0]
                if sent < first.nbytes:
                    self._outgoing[0] = first[sent:]
                    break
                sent -= first.nbytes
                self._outgoing.popleft()

    def read(self) -> list[Received]:
        """The messages that are complete. Raises BadMessage when the peer does not speak ZMTP."""
        messages: list[Received] = []
        taken = 0
        while taken < AT_ONCE and not self.ended:
            try:
                count = self._fill()
            except BlockingIOError:
                break
            except OSError:
                count = 0
            if not count:
                self.ended = True
                break
            taken += count
            self._parse(messages)
        return messages

    # The frame that is being read: `_body` takes its bytes (None: they are skipped), `_left` are
    # still to come, `_flags` is -1 between frames.

    def _begin(self) -> None:
        self._frames: list[Buffer] = []
        self._size = 0
        self._cut = False
        self._flags = -1
        self._left = 0
        self._body: memoryview | None = None
        self._digest: Digest | None = None
        self._hashing = False

    def _fill(self) -> int:
        if self._flags >= 0 and self._body is not None and not self._incoming:
            free = self._body[-self._left :]
            count = self._stream.recv_into(free, min(self._left, AT_ONCE))
            if self._hashing and self._digest is not None:
                self._digest.update(free[:count])
            self._left -= count
            return count
        data = self._stream.recv(256 << 10)
        self._incoming += data
        return len(data)

    def _parse(self, messages: list[Received]) -> None:
        data = self._incoming
        at = 0
        if not self._greeted:
            if len(data) < len(GREETING):
                return
            if data[0] != 0xFF or data[10] < 3 or data[12:32] != GREETING[12:32]:
                raise BadMessage("connect to", "inside", "it does not speak ZMTP 3")
            self._greeted = True
            at = len(GREETING)
            self._queue(COMMAND, memoryview(self._ready()))
            self.flush()
        while True:
            if self._flags < 0:
                head = self._head(data, at)
                if head is None:
                    break
                at += head
            step = min(self._left, len(data) - at)
            if step:
                if self._body is not None:
                    start = self._body.nbytes - self._left
                    self._body[start : start + step] = memoryview(data)[at : at + step]
                    if self._hashing and self._digest is not None:
                        self._digest.update(self._body[start : start + step])
                self._left -= step
                at += step
            if self._left:
                break
            self._end_of_frame(messages)
        del data[:at]

    def _head(self, data: bytearray, at: int) -> int | None:
        """Start a frame; how long its head is, or None when it has not come yet."""
        if len(data) - at < 2:
            return None
        flags = data[at]
        if flags & ~(MORE | LONG | COMMAND):
            raise BadMessage("read from", "inside", "a frame with unknown flags")
        if flags & LONG:
            if len(data) - at < 9:
                return None
            size, used = int.from_bytes(data[at + 1 : at + 9], "big"), 9
        else:
            size, used = data[at + 1], 2
        self._flags = flags
        self._left = size
        fits = self._size + size <= self._budget and len(self._frames) < MOST_FRAMES
        if flags & COMMAND:
            fits = size <= 4096
        else:
            self._size += size
        self._cut = self._cut or not fits
        self._body = _room(size) if fits and not self._cut else None
        if self._body is not None and size >= HUGE and self._digest is None and self.begin_digest:
            self._digest = self.begin_digest(self._frames)
            self._hashing = True
        return used

    def _end_of_frame(self, messages: list[Received]) -> None:
        flags, body = self._flags, self._body
        self._flags, self._body = -1, None
        self._hashing = False
        if flags & COMMAND:
            self._cut = False
            if self._held is not None and body is not None and bytes(body[:6]) == b"\x05READY":
                held, self._held, self.waiting = self._held, None, 0
                if self._kind == "SUB":
                    self._queue(0, memoryview(b"\x01"))
                for frames in held:
                    self.send(frames)
                self.flush()
            return
        if body is not None:
            self._frames.append(body)
        if not flags & MORE:
            messages.append(Received(self._frames, self._cut, self._size, self._digest))
            self._begin()

    def _ready(self) -> bytes:
        command = b"\x05READY"
        for name, value in ((b"Socket-Type", self._kind.encode()), (b"Identity", self._identity)):
            command += bytes((len(name),)) + name + len(value).to_bytes(4, "big") + value
        return command


def _room(size: int) -> memoryview:
    """Memory for a frame; of a large one, no more is taken than has come."""
    if size < HUGE:
        return memoryview(bytearray(size))
    mapped = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    mapped.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(mapped)
