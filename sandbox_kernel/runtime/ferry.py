"""The outside of `inside/carrier.py`: descriptors of a program over one stream each way.

A fork of the keeper, which stands for the program: it has its control group, gets its signals and
ends as it ended. What it hears from inside is bytes for descriptors that it was given, and no more.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import stat
import struct

from sandbox_kernel.errors import StepFailed
from sandbox_kernel.linux import waiting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, NoReturn

HEADER = struct.Struct("<cBI")  # as `inside/carrier.py` has it
START = b"\0\0carrier\0\0"  # as `inside/machine.py` has it
LONGEST_START = 1 << 16
CHUNK = 1 << 16
MOST_WAITING = 8 << 20
"""Bytes that may wait for slow readers before no more are taken from inside."""
LARGEST_FRAME = 1 << 20
F_GET_SEALS, F_SEAL_WRITE = 1034, 0x0008  # include/uapi/linux/fcntl.h
PASSED_ON = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2,
             signal.SIGTERM, signal.SIGCONT, signal.SIGWINCH)  # fmt: skip
NULL = (1, 3)


def kind_of(number: int, descriptor: int) -> str:
    """What is to be made of a descriptor inside. Raises StepFailed where nothing can be."""
    seen = os.fstat(descriptor)
    access = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
    if stat.S_ISREG(seen.st_mode):
        try:
            sealed = fcntl.fcntl(descriptor, F_GET_SEALS) & F_SEAL_WRITE
        except OSError:
            sealed = 1  # a file on a disk
        return "memory" if sealed or number == 0 else f"scratch:{seen.st_size}"
    if stat.S_ISSOCK(seen.st_mode):
        with socket.socket(fileno=os.dup(descriptor)) as known:
            if known.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                return "listen"
        raise StepFailed("carry", f"descriptor {number}", "it is a connection", errno.EINVAL)
    if stat.S_ISCHR(seen.st_mode) and (os.major(seen.st_rdev), os.minor(seen.st_rdev)) == NULL:
        return "null"
    reads = access == os.O_RDONLY or (access == os.O_RDWR and number == 0)
    return "in" if reads else "out"


class Ferry:
    """One program: what it was given, and the stream to its carrier."""

    def __init__(
        self,
        numbers: Mapping[int, int],
        stream_in: int,
        stream_out: int,
        *,
        window: int | None = None,
        folder: tuple[str, str] | None = None,
    ) -> None:
        """With a `window`, a console: no more bytes may be under way to the inside at once, and a
        kernel may say something before the carrier does. `folder`: here and inside, for files.
        """
        self._given = dict(numbers)
        self._kinds = {number: kind_of(number, each) for number, each in numbers.items()}
        self._in = stream_in
        self._out = stream_out
        self._heard = b""
        self._room = window
        self._starts = window is not None
        self._folder = folder
        self._frames: list[bytes] = []
        self._waiting: dict[int, list[bytes]] = {}

    def run(self, argv: Sequence[str], process: Mapping[str, Any] | None = None) -> NoReturn:
        """Until the program ended; then end as it did. `process`: what it has to become first."""
        woken, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake)
        for passed_on in PASSED_ON:
            signal.signal(passed_on, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        kinds = {number: self._kinds.get(number, "null") for number in {0, 1, 2, *self._kinds}}
        order = {"argv": list(argv), "descriptors": kinds, "process": process}
        self._say(b"S", 0, json.dumps(order).encode())
        for number, kind in self._kinds.items():
            if kind == "memory":
                self._send_memory(number)
            elif kind == "listen":
                self._accept(number)
        self._say(b"G")
        os.set_blocking(self._in, False)
        while True:
            self._turn(woken)

    def _say(self, kind: bytes, number: int = 0, data: bytes = b"") -> None:
        self._frames.append(HEADER.pack(kind, number, len(data)) + data)

    def _send_memory(self, number: int) -> None:
        at, given = 0, self._given[number]
        size = os.fstat(given).st_size
        if self._folder and size:
            here, inside = (f"{folder}/{number}" for folder in self._folder)
            with open(here, "xb") as file:
                while at < size and (sent := os.sendfile(file.fileno(), given, at, size)):
                    at += sent
            self._say(b"F", number, inside.encode())
            return
        while data := os.pread(given, CHUNK, at):
            self._say(b"D", number, data)
            at += len(data)

    def _accept(self, number: int) -> None:
        """The connection that the outside made waits already."""
        with socket.socket(fileno=self._given[number]) as listener:
            connection, _ = listener.accept()
        connection.setblocking(False)
        self._given[number] = connection.detach()

    def _turn(self, woken: int) -> None:
        sources = {self._given[n]: n for n, kind in self._kinds.items() if kind in ("in", "listen")}
        sources = {descriptor: n for descriptor, n in sources.items() if descriptor >= 0}
        held = sum(len(data) for each in self._waiting.values() for data in each)
        inputs = [woken, *(sources if len(self._frames) < 64 else ())]
        inputs += [self._out] if held < MOST_WAITING else []
        sinks = {self._given[n]: n for n in self._waiting}
        outputs = [*sinks, *([self._in] if self._frames and self._room != 0 else [])]
        ready, writable = waiting.ready(inputs, outputs, None)
        for descriptor in writable:
            if descriptor == self._in:
                self._feed_inside()
            else:
                self._feed(sinks[descriptor])
        for descriptor in ready:
            if descriptor == woken:
                for number in os.read(woken, 64):
                    self._say(b"K", 0, str(number).encode())
            elif descriptor == self._out:
                self._hear()
            elif self._given[sources[descriptor]] == descriptor:
                self._pass_in(sources[descriptor])

    def _feed_inside(self) -> None:
        try:
            done = os.write(self._in, self._frames[0][: self._room])
        except BlockingIOError:
            return
        except BrokenPipeError:
            os._exit(128 + signal.SIGKILL)  # the carrier was ended
        if self._room is not None:
            self._room -= done
        self._frames[0] = self._frames[0][done:]
        if not self._frames[0]:
            del self._frames[0]

    def _feed(self, number: int) -> None:
        waiting = self._waiting[number]
        try:
            done = os.write(self._given[number], waiting[0])
        except BlockingIOError:
            return
        except OSError:
            waiting.clear()  # nobody reads it any more
        else:
            waiting[0] = waiting[0][done:]
            if not waiting[0]:
                del waiting[0]
        if not waiting:
            del self._waiting[number]

    def _pass_in(self, number: int) -> None:
        try:
            data = os.read(self._given[number], CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._say(b"D", number, data)
        if not data:
            self._drop(number)

    def _drop(self, number: int) -> None:
        if self._given[number] >= 0:
            os.close(self._given[number])
            self._given[number] = -1
        self._waiting.pop(number, None)

    def _hear(self) -> None:
        data = os.read(self._out, CHUNK)
        if not data:
            os._exit(128 + signal.SIGKILL)
        self._heard += data
        if self._starts:
            _, found, rest = self._heard.partition(START)
            self._heard = rest if found else self._heard[-LONGEST_START:]
            self._starts = not found
            if self._starts:
                return
        while len(self._heard) >= HEADER.size:
            kind, number, length = HEADER.unpack_from(self._heard)
            if length > LARGEST_FRAME:
                os._exit(128 + signal.SIGKILL)  # no carrier of ours says that
            end = HEADER.size + length
            if len(self._heard) < end:
                return
            body, self._heard = self._heard[HEADER.size : end], self._heard[end:]
            self._take(kind, number, body)

    def _take(self, kind: bytes, number: int, body: bytes) -> None:
        if kind == b"E":
            self._end(body)
        if kind == b"A" and self._room is not None:
            self._room += int.from_bytes(body[:4], "little")
        wanted = {b"D": ("out", "listen"), b"W": ("scratch",)}.get(kind, ())
        if self._kinds.get(number, "").partition(":")[0] not in wanted or self._given[number] < 0:
            return
        if kind == b"W":
            self._write_memory(number, int.from_bytes(body[:8], "little"), memoryview(body)[8:])
        elif body:
            self._waiting.setdefault(number, []).append(body)

    def _write_memory(self, number: int, offset: int, view: memoryview) -> None:
        """Its size is sealed: what lies beyond it is not written."""
        room = os.fstat(self._given[number]).st_size - offset
        view = view[: max(0, room)]
        while view:
            done = os.pwrite(self._given[number], view, offset)
            view, offset = view[done:], offset + done

    def _end(self, body: bytes) -> NoReturn:
        """All that the program wrote came before this: give it out, and end as it did."""
        for number in list(self._waiting):
            os.set_blocking(self._given[number], True)
            while number in self._waiting:
                self._feed(number)
        try:
            said = json.loads(body)
            number, status = int(said.get("signal", 0)), int(said.get("status", 1))
        except (ValueError, AttributeError, TypeError, OverflowError, RecursionError):
            os._exit(1)
        if 0 < number < signal.NSIG:
            signal.signal(number, signal.SIG_DFL) if number not in (9, 19) else None
            os.kill(os.getpid(), number)
        os._exit(status & 0xFF)
