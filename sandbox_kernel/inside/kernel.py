"""Starts the image's own ipykernel on sockets that came as descriptors. ipykernel 6 and 7.

The outside made the listening sockets and is connected to them; no path leads to them. The
configuration, with the key of this inner connection, comes on a descriptor that is then closed.
"""

import codecs
import json
import os
import sys
from contextlib import nullcontext
from threading import Event, current_thread
from typing import Any, Optional

CONFIGURATION = 4
CHANNELS = {"shell": 5, "control": 6, "stdin": 7, "iopub": 8}
CHUNK = 1 << 18  # characters of one stream message
MOST_WAITING = 8 << 20  # characters that may wait to be sent before a write waits for them
MOST_MESSAGES = 64  # of any size, that may wait behind those
PIPE_READ = 1 << 16
OURS = ("<sandbox ", "<string>")  # names of the code that comes with this file, and of its start


def main() -> None:
    """Becomes the kernel; returns when it is shut down."""
    with os.fdopen(CONFIGURATION, "rb") as file:
        configuration = json.loads(file.read().decode())
    for descriptor in (3, *CHANNELS.values()):
        os.set_inheritable(descriptor, False)
    os.close(3)

    # The modules that debugpy warns of, to stderr at each start, are those of the standard library.
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    import zmq
    from ipykernel.iostream import OutStream
    from ipykernel.kernelapp import IPKernelApp

    class Stream(OutStream):
        """Sends in pieces, and lets the writer wait when what it wrote is not taken."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            self._waiting = 0
            self._unsent = False
            self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
            super().__init__(*arguments, **options)

        def write(self, string: str) -> Optional[int]:
            if not isinstance(string, str) or len(string) <= CHUNK:
                written = super().write(string)
                self._count(len(string))
                return written
            for start in range(0, len(string), CHUNK):
                super().write(string[start : start + CHUNK])
                self._count(CHUNK)
            return len(string)

        def flush(self) -> None:
            """Returns when what was written is sent: the original, when it is about to be. A call
            that holds the interpreter's lock after a flush would keep it in here."""
            unsent, self._unsent = self._unsent, False
            super().flush()
            sender = self.pub_thread
            if unsent and sender and sender.thread and sender.thread is not current_thread():
                sent = Event()
                sender.schedule(sent.set)  # behind the message that the flush has scheduled
                sent.wait(self.flush_timeout)

        def _count(self, length: int) -> None:
            self._unsent = True
            self._waiting += length
            if self._waiting > MOST_WAITING and self._is_master_process():
                self.flush()

        def _flush_buffers(self) -> Any:
            self._waiting = 0
            for parent, data in super()._flush_buffers():
                for start in range(0, len(data), CHUNK):
                    yield parent, data[start : start + CHUNK]

        def _watch_pipe_fd(self) -> None:
            # What programs and libraries write to descriptors 1 and 2. The original reads a
            # thousand bytes at a time and cuts characters in two.
            if self._fid is None:
                return
            try:
                while self._should_watch:
                    data = os.read(self._fid, PIPE_READ)
                    if not data:
                        return
                    self.write(self._decoder.decode(data))
                    if self.name == "stderr":  # the outside keeps its end for a death report
                        os.write(self._original_stdstream_copy, data)
            except Exception:
                self._exc = sys.exc_info()

    class App(IPKernelApp):
        """Ports are descriptor numbers; there is no connection file and no inner heartbeat."""

        def _bind_socket(self, s: Any, port: int) -> int:
            if s.type in (zmq.PUB, zmq.XPUB):
                # An `idle` that is dropped would hang the front end: sending waits instead.
                s.setsockopt(zmq.XPUB_NODROP, 1)
                s.setsockopt(zmq.SNDHWM, MOST_MESSAGES)
            s.setsockopt(zmq.USE_FD, port)
            s.bind("ipc:///sandbox-kernel/%d" % port)  # the name is only for messages of libzmq
            if port == CHANNELS["shell"]:
                # The debugger asks the shell channel for things; LAST_ENDPOINT is then this one.
                s.bind("inproc://sandbox-kernel-shell")
            return port

        def init_connection_file(self) -> None:
            self.session.key = configuration["key"].encode()
            # What is not copied is freed by a thread that hardly gets its turn in a flood.
            self.session.copy_threshold = MOST_WAITING

        def write_connection_file(self, **_: Any) -> None:
            pass

        def init_heartbeat(self) -> None:
            pass

        def init_poller(self) -> None:
            pass

        def log_connection_info(self) -> None:
            self._ports = dict(CHANNELS)

    globals()["Stream"] = Stream  # ipykernel takes it by name
    ports = {"%s_port" % name: number for name, number in CHANNELS.items()}
    app: Any = App.instance(
        transport="ipc", ip="inside", outstream_class=__name__ + ".Stream", parent_handle=0, **ports
    )
    app.initialize([])
    # The sleep before each reply gives outputs a head start; the outside keeps them in order.
    app.kernel._execute_sleep = 0.0
    # IPython keeps a copy of all that is printed, for `%notebook`: a flood would fill the memory.
    app.kernel.shell._tee = lambda channel: nullcontext()
    app.kernel.do_history = numbered(app.kernel)
    handlers = getattr(getattr(app.kernel, "debugger", None), "started_debug_handlers", {})
    if "stackTrace" in handlers:
        handlers["stackTrace"] = without_ours(handlers["stackTrace"])
    app.start()


def without_ours(original: Any) -> Any:
    """The debugger's `stackTrace` without the frames that started the kernel, last in the list."""

    async def stack_trace(message: Any) -> Any:
        reply = await original(message)
        frames = reply.get("body", {}).get("stackFrames", [])
        while frames and str(frames[-1].get("source", {}).get("path")).startswith(OURS):
            frames.pop()
        return reply

    return stack_trace


def numbered(kernel: Any) -> Any:
    """`do_history` with the number of this session, where IPython says 0 in a range."""
    original = kernel.do_history

    def do_history(*arguments: Any, **options: Any) -> Any:
        reply = original(*arguments, **options)
        number = kernel.shell.history_manager.session_number
        reply["history"] = [(row[0] or number, *row[1:]) for row in reply["history"]]
        return reply

    return do_history
