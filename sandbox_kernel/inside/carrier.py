"""Gives a program descriptors where none can be passed in: all of them over one stream each way.

For runtimes with a kernel of their own, which get standard input and output of the host and no
more. Comes as the text of `python -c`. What it hears on descriptor 0 and says on 1 are frames: kind
(one byte), descriptor (one), length (four, little-endian), bytes.

    from outside   S  what to start: JSON {"argv", "descriptors": {number: kind}}
                   D  bytes for a descriptor; none: its end
                   F  path of a file with its bytes, where a folder is in both
                   G  start it now
                   K  a signal for the program, as text
    to outside     D  as above, of pipes and connections
                   W  offset (eight bytes), and what is there in the memory file for its values
                   A  how many bytes of the stream were taken (four bytes), where it has a window
                   E  how it ended: JSON {"status"} or {"signal"}, or {"errno"}: it did not start

Kinds of descriptors: `memory` (its bytes come before the start), `in`, `out`, `scratch:SIZE` (a
memory file to write; what was written is announced by frames of the program, see `channel`),
`listen` (a listening socket with one connection waiting), `null`.
"""

import fcntl
import json
import os
import select
import signal
import socket
import struct
import sys

HEADER = struct.Struct("<cBI")
CHUNK = 1 << 16


class Carrier:
    """One program and its descriptors."""

    def __init__(self):
        self.pid = 0
        self.argv = []
        self.wanted = {}
        self.given = {}
        self.outer = {}
        self.sockets = set()
        self.kinds = {}
        self.scratch = -1
        self.announced = {}
        self.skipped = {}
        self.heard = b""
        self.pending = {}
        self.ended = False

    def say(self, kind, number=0, data=b""):
        """One frame to outside."""
        view = memoryview(HEADER.pack(kind, number, len(data)) + data)
        while view:
            view = view[os.write(1, view) :]

    def prepare(self, wanted):
        """Make what the program is to have; `given` are its ends, `outer` ours."""
        self.argv, self.wanted = wanted["argv"], wanted
        for text, kind in wanted["descriptors"].items():
            number = int(text)
            self.kinds[number] = kind
            if kind == "memory" or kind.startswith("scratch"):
                inner = os.memfd_create("given", 2)  # MFD_ALLOW_SEALING
                if kind != "memory":
                    os.ftruncate(inner, int(kind.partition(":")[2]))
                    self.scratch = inner
            elif kind == "null":
                inner = os.open("/dev/null", os.O_RDWR)
            elif kind == "listen":
                inner = self.listening(number)
            else:
                reading, writing = os.pipe()
                inner, ours = (reading, writing) if kind == "in" else (writing, reading)
                self.outer[number] = ours
            self.given[number] = inner

    def listening(self, number):
        """A listening socket of no lasting name, and our connection to it."""
        path = "\0carrier-%d-%d" % (os.getpid(), number)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(1)
        ours = socket.socket(socket.AF_UNIX)
        ours.connect(path)
        self.outer[number] = ours.detach()
        self.sockets.add(number)
        return listener.detach()

    def start(self):
        """Fork the program; its descriptors are moved to their numbers."""
        for number, inner in self.given.items():
            if self.kinds[number] == "memory":
                os.lseek(inner, 0, os.SEEK_SET)
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.setsid()
                for number in list(self.outer.values()):
                    os.close(number)
                above = max([*self.given, *self.given.values(), 2]) + 1
                high = {n: fcntl.fcntl(fd, fcntl.F_DUPFD, above) for n, fd in self.given.items()}
                for number in range(max([*self.given, 2]) + 1):
                    if number in high:
                        os.dup2(high[number], number, inheritable=True)
                    elif number > 2:
                        self.close(number)
                os.closerange(max([*self.given, 2]) + 1, above + 64)
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                self.before_program()
                os.execvp(self.argv[0], self.argv)
            except OSError as error:
                os._exit(127 if error.errno == 2 else 126)
            finally:
                os._exit(126)
        for inner in self.given.values():
            if inner != self.scratch:
                os.close(inner)
        for number in [n for n, kind in self.kinds.items() if kind == "out" and n > 2]:
            self.announced[number] = b""

    def before_program(self):
        """In the process that becomes the program: what it still has to be made."""

    def taken(self, count):
        """So much of the stream was read."""

    @staticmethod
    def close(number):
        try:
            os.close(number)
        except OSError:
            pass

    def take(self, kind, number, data):
        """One frame of the outside."""
        if kind == b"S":
            self.prepare(json.loads(data.decode()))
        elif kind == b"G":
            self.start()
        elif kind == b"K":
            if self.pid:
                os.kill(self.pid, int(data))
        elif kind == b"F":
            with open(data, "rb") as file:
                while part := file.read(CHUNK):
                    self.put(number, part)
            os.unlink(data)
        elif number in self.outer:
            self.pending.setdefault(number, []).append(data)
        elif data and number in self.given:
            self.put(number, data)

    def put(self, number, data):
        """Bytes into what a descriptor of the program is made of."""
        view = memoryview(data)
        while view:
            view = view[os.write(self.given[number], view) :]

    def feed(self, number):
        """Write what waits for a descriptor, as far as it goes without waiting."""
        waiting = self.pending[number]
        try:
            if waiting[0]:
                done = os.write(self.outer[number], waiting[0])
                waiting[0] = waiting[0][done:]
                if not waiting[0]:
                    del waiting[0]
            else:
                self.shut(number)
                del waiting[0]
        except BlockingIOError:
            return
        except OSError:
            waiting.clear()
        if not waiting:
            del self.pending[number]

    def shut(self, number):
        """No more bytes come for it."""
        if number in self.sockets:
            with socket.socket(fileno=os.dup(self.outer[number])) as ours:
                ours.shutdown(socket.SHUT_WR)
        else:
            os.close(self.outer.pop(number))

    def tell_values(self, number, data):
        """Tell what lies in the memory file before the frame that announces it is told."""
        text = self.announced[number] + data
        while len(text) >= 12:
            head = int.from_bytes(text[:4], "little")
            body = int.from_bytes(text[4:12], "little")
            if len(text) < 12 + head:
                break
            try:
                said = json.loads(text[12 : 12 + head].decode("ascii"))
            except ValueError:
                said = {}
            if said.get("kind") == "value":
                self.tell_memory(int(said["offset"]), int(said["length"]))
            whole = 12 + head + body
            if len(text) < whole:  # the rest of a body is of no interest
                self.skipped[number] = whole - len(text)
                text = b""
            else:
                text = text[whole:]
        self.announced[number] = text

    def tell_memory(self, offset, length):
        """A part of the memory file."""
        while length > 0:
            data = os.pread(self.scratch, min(CHUNK, length), offset)
            if not data:
                return
            self.say(b"W", self.scratch_number(), offset.to_bytes(8, "little") + data)
            offset, length = offset + len(data), length - len(data)

    def scratch_number(self):
        return next(n for n, inner in self.given.items() if inner == self.scratch)

    def look_for_values(self, number, data):
        """The bytes of the program's frames pass here."""
        if self.scratch < 0 or number not in self.announced:
            return
        skipped = min(len(data), self.skipped.get(number, 0))
        self.skipped[number] = self.skipped.get(number, 0) - skipped
        if len(data) > skipped:
            self.tell_values(number, data[skipped:])

    def pass_on(self, number):
        """Bytes of the program, or the end of them."""
        try:
            data = os.read(self.outer[number], CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.look_for_values(number, data)
        self.say(b"D", number, data)
        if not data:
            os.close(self.outer.pop(number))
            self.pending.pop(number, None)

    def readers(self):
        """Descriptors of ours that the program writes to."""
        return [n for n in self.outer if n in self.sockets or self.kinds.get(n) == "out"]

    def serve(self):
        """Until the program ended and all that it wrote is told."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        said = None
        while True:
            sources = {self.outer[n]: n for n in self.readers()}
            sinks = {self.outer[n]: n for n in self.pending if n in self.outer}
            inputs = [reading, *sources] + ([] if self.ended else [0])
            ready, writable, _ = select.select(inputs, list(sinks), [], 0 if said else None)
            if 0 in ready and not self.hear():
                if self.pid:  # who asked for it is gone
                    os.killpg(self.pid, signal.SIGKILL)
                return
            for descriptor in writable:
                self.feed(sinks[descriptor])
            busy = False
            for descriptor in ready:
                if descriptor in sources:
                    busy = True
                    self.pass_on(sources[descriptor])
            if reading in ready:
                os.read(reading, CHUNK)
            if said and not busy:
                self.say(b"E", 0, json.dumps(said).encode())
                return
            said = said or self.reap()

    def hear(self):
        """Frames of the outside; false when it is gone."""
        data = os.read(0, CHUNK)
        if not data:
            return False
        self.taken(len(data))
        self.heard += data
        while len(self.heard) >= HEADER.size:
            kind, number, length = HEADER.unpack_from(self.heard)
            end = HEADER.size + length
            if len(self.heard) < end:
                break
            body, self.heard = self.heard[HEADER.size : end], self.heard[end:]
            self.take(kind, number, body)
            if kind == b"S":
                self.kinds = {
                    int(n): k for n, k in json.loads(body.decode())["descriptors"].items()
                }
                for descriptor in self.outer.values():
                    os.set_blocking(descriptor, False)
        return True

    def reap(self):
        """How the program ended, None while it goes on."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return None
            if pid == 0:
                return None
            if pid == self.pid:
                if os.WIFSIGNALED(status):
                    return {"signal": os.WTERMSIG(status)}
                return {"status": os.WEXITSTATUS(status)}


def main():
    """Serve, and end."""
    try:
        Carrier().serve()
    finally:
        sys.stdout = sys.stderr = None
        os._exit(0)
