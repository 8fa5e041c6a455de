"""The way out of a cell: frames on one pipe, and standard streams that keep their order with them.

A frame is two little-endian numbers (length of the header, 4 bytes; length of the body, 8 bytes),
a header in JSON with a field `kind`, and a body. Nothing that the outside sends back is more than
a byte that says "I have read all that you wrote before".
"""

import _thread
import io
import os
import sys

try:
    from _json import encode_basestring_ascii as _quoted
except ImportError:  # pragma: no cover - another implementation of Python
    from json.encoder import py_encode_basestring_ascii as _quoted  # type: ignore

DEEP = 64


def dumps(value, depth=0):  # noqa: PLR0911 - a table of types
    """JSON of plain values. The module `json` costs more time to import than Python to start."""
    if value is None or value is True or value is False:
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        return "null" if value - value != 0 else float.__repr__(value)  # nan and inf are no JSON
    if depth > DEEP:
        return "null"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join([dumps(item, depth + 1) for item in value]) + "]"
    if isinstance(value, dict):
        items = [_quoted(str(key)) + ":" + dumps(item, depth + 1) for key, item in value.items()]
        return "{" + ",".join(items) + "}"
    return _quoted(str(value))


class Channel:
    """The frames of one cell. `busy` is true while the main thread writes one."""

    def __init__(self, events, answers):
        self.events = events
        self.answers = answers
        self.lock = _thread.allocate_lock()
        self.main = _thread.get_ident()
        self.busy = True
        self.interrupted = False
        self.sent = 0
        self.last_stream = 0
        self.process = 0
        self.waiting = b""

    def begin(self):
        """From here on it is used: its numbers are the descriptors that it was made for."""
        self.busy = False
        self.last_stream = 0
        self.process = os.getpid()

    def send(self, header, body=b"", wait=False, later=False):
        """Writes one frame; with `wait`, returns when the outside has read what came before it.

        One that may go `later` goes with the next one, or by `let_go`: each write wakes the outside
        up. Nothing forks, or runs for long, before that."""
        mine = _thread.get_ident() == self.main
        if mine:
            self.busy = True
        try:
            with self.lock:
                self._send(header, body, wait, later)
        except BrokenPipeError:  # the outside has stopped listening; the cell goes on
            pass
        finally:
            if mine:
                self.busy = False
        if mine and self.interrupted:
            self.interrupted = False
            raise KeyboardInterrupt

    def let_go(self):
        """Writes what was to go later."""
        try:
            with self.lock:
                if self.waiting:
                    self._write(self.waiting)
                self.waiting = b""  # an interrupt before it: better twice than never
        except BrokenPipeError:
            pass

    def _send(self, header, body, wait, later):
        if wait:
            self.sent += 1
            header["sequence"] = self.sent
        head = dumps(header).encode("ascii")
        start = len(head).to_bytes(4, "little") + len(body).to_bytes(8, "little") + head
        start, self.waiting = self.waiting + start, b""
        if later:
            self.waiting = start + bytes(body)
            return
        # One write for a small frame: a fork of the cell may write to the same pipe.
        if len(body) < 65536:
            self._write(start + bytes(body))
        else:
            self._write(start)
            self._write(body)
        if wait and os.getpid() == self.process:
            self._wait(self.sent)

    def _write(self, data):
        view = memoryview(data).cast("B")
        while view:
            view = view[os.write(self.events, view) :]

    def _wait(self, sequence):
        while True:
            answer = os.read(self.answers, 4)
            if len(answer) < 4 or int.from_bytes(answer, "little") >= sequence:
                return

    def on_interrupt(self, number, frame):
        """The handler of SIGINT: never in the middle of a frame."""
        if self.busy:
            self.interrupted = True
        else:
            raise KeyboardInterrupt


class Stream(io.FileIO):
    """Standard output or error. When a cell turns from one to the other, the outside is told how
    much of the one to read first, so that prints and warnings appear in the order of the cell."""

    def __init__(self, number, channel):
        super().__init__(number, "w", closefd=False)
        self.number = number
        self.channel = channel
        self.position = 0

    def seekable(self):
        """It is a pipe, also where the stream is made before the outside gives it."""
        return False

    def write(self, data):
        """Writes all of it. An interrupt waits for that: what is written counts as written, so
        that nothing comes out twice."""
        channel = self.channel
        if channel.last_stream != self.number:
            last = channel.last_stream
            channel.last_stream = self.number
            if last and not channel.busy:
                stream = channel.streams[last]
                channel.send({"kind": "turn", "stream": last, "position": stream.position})
        view = memoryview(data).cast("B")
        length = len(view)
        mine = _thread.get_ident() == channel.main and not channel.busy
        if mine:
            channel.busy = True
        try:
            while view:
                count = super().write(view) or 0
                self.position += count
                view = view[count:]
        finally:
            if mine:
                channel.busy = False
        if mine and channel.interrupted:
            channel.interrupted = False
            raise KeyboardInterrupt
        return length


def redirect(channel):
    """Makes sys.stdout and sys.stderr streams of this channel: UTF-8, flushed at each line."""
    channel.streams = {1: Stream(1, channel), 2: Stream(2, channel)}
    for name, number, errors in (
        ("stdout", 1, "surrogateescape"),
        ("stderr", 2, "backslashreplace"),
    ):
        getattr(sys, name).flush()
        stream = text_stream(channel.streams[number], errors)
        setattr(sys, name, stream)
        setattr(sys, "__" + name + "__", stream)


def text_stream(stream, errors):
    """A text stream on a `Stream`, as sys.stdout is one."""
    # No BufferedWriter between them: it would keep what an interrupted write has written.
    text = io.TextIOWrapper(stream, encoding="utf-8", errors=errors, line_buffering=True)
    text.mode = "w"
    return text


def flush():
    """What the cell has printed goes out, whatever it has done to sys.stdout."""
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        try:
            stream.flush()
        except Exception:  # noqa: S110 - a cell may put anything there
            pass
