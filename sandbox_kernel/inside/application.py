"""ipykernel's application on sockets that came as descriptors. ipykernel 6 and 7.

Its start has two parts. `begin` needs no thread, no socket and no file of the container, so that a
template can do it once for all kernels; `initialize` does what is left.
"""

import codecs
import os
import socket
import sys
from contextlib import contextmanager
from threading import Event, current_thread
from types import SimpleNamespace
from typing import Any, Iterator, Optional

import zmq

from .debugging import debugger  # isort: skip - before anybody imports it who takes all of debugpy

from ipykernel import ipkernel, kernelapp
from ipykernel.compiler import XCachingCompiler
from ipykernel.iostream import IOPubThread, OutStream
from ipykernel.kernelapp import IPKernelApp
from ipykernel.zmqshell import ZMQInteractiveShell
from IPython.core.application import BaseIPythonApplication
from zmq.eventloop.zmqstream import ZMQStream

CHANNELS = {"shell": 5, "control": 6, "stdin": 7, "iopub": 8}
CHUNK = 1 << 18  # characters of one stream message
MOST_WAITING = 8 << 20  # characters that may wait to be sent before a write waits for them
MOST_MESSAGES = 64  # of any size, that may wait behind those
PIPE_READ = 1 << 16
LARGE = 1 << 16  # characters of a string that is worth it to pack in another way
FEW = 64


class Stream(OutStream):
    """Sends in pieces, and lets the writer wait when what it wrote is not taken."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._waiting = 0
        self._written = self._sent = object()  # stand for the last write, and the last one sent
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
        that holds the interpreter's lock after a flush would keep it in here. Each cell flushes
        four times, so where nothing was written the other thread is not waited for."""
        written = self._written
        if written is self._sent:
            return
        super().flush()
        sender = self.pub_thread
        if sender and sender.thread and sender.thread is not current_thread():
            sent = Event()
            sender.schedule(sent.set)  # behind the message that the flush has scheduled
            sent.wait(self.flush_timeout)
        self._sent = written

    def _count(self, length: int) -> None:
        self._written = object()
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


class Publisher(IOPubThread):
    """Hears what forks of the kernel print by a local socket: not every container has TCP."""

    def _setup_pipe_in(self) -> None:
        self._pipe_uuid = os.urandom(16)
        self._pipe_port = "ipc://@sandbox-kernel-" + os.urandom(8).hex()
        pipe = self.socket.context.socket(zmq.PULL)
        pipe.linger = 0
        pipe.bind(self._pipe_port)
        self._pipe_in = ZMQStream(pipe, self.io_loop)
        self._pipe_in.on_recv(self._handle_pipe_msg)

    def _setup_pipe_out(self) -> Any:
        context = zmq.Context()  # that of the parent is of no use after a fork
        pipe = context.socket(zmq.PUSH)
        pipe.linger = 3000
        pipe.connect(self._pipe_port)
        return context, pipe


kernelapp.IOPubThread = Publisher


def packer(original: Any) -> Any:
    """Packs as `original` does, but what has a large string at a fifth of the time, by msgspec.

    That makes no copy on its way; in a container each new page costs.
    """

    def pack(value: Any) -> bytes:
        if type(value) is dict and has_large(value) and is_plain(value):
            try:
                from msgspec.json import encode

                return encode(value)
            except (ImportError, UnicodeEncodeError):
                pass  # not in this image; or half of a pair: what becomes of it is not ours to say
        return original(value)

    return pack


def has_large(value: Any) -> bool:
    """Whether a large string is in a dictionary, or in one that is in it."""
    return any(
        (type(item) is str and len(item) > LARGE)
        or (type(item) is dict and any(type(i) is str and len(i) > LARGE for i in item.values()))
        for item in value.values()
    )


def is_plain(value: Any, depth: int = 4) -> bool:
    """Whether it is of a few values that all packers pack alike: so no float may be in it."""
    if type(value) is dict:
        return (
            depth > 0
            and len(value) <= FEW
            and all(type(name) is str and is_plain(item, depth - 1) for name, item in value.items())
        )
    return value is None or type(value) in (str, int, bool)


class Once(BaseIPythonApplication):
    """Stands between ipykernel's application and IPython's, whose start is not done twice."""

    begun = False

    def initialize(self, argv: Any = None) -> None:
        if not self.begun:
            super().initialize(argv)
            self.begun = True


class App(IPKernelApp, Once):
    """Ports are descriptor numbers; there is no connection file and no inner heartbeat."""

    key = b""
    prepared: Any = None  # the shell that a template has made
    seen: Any = None  # what configured it
    modules: Any = None  # by name, those that were imported before the shell was made

    def begin(self) -> None:
        """Reads what configures IPython, and makes a shell that has no history yet.

        Raises RuntimeError where something is configured: what that does is not ours to know.
        """
        Once.initialize(self, [])
        if self.config:
            raise RuntimeError("IPython is configured in this image")
        self.init_pdb()
        self.seen = self.configured()
        self.modules = {
            name: SimpleNamespace(__file__="".join(list(module.__file__)))
            for name, module in sys.modules.copy().items()
            if getattr(module, "__file__", None)
        }
        with without_history():
            self.prepared = ZMQInteractiveShell.instance(
                parent=self, profile_dir=self.profile_dir, compiler_class=XCachingCompiler
            )

    def configured(self) -> Any:
        """Where this container has files that configure IPython, and their times."""
        found = []
        for folder in (self.profile_dir.location, *self.config_file_paths):
            try:
                names = sorted(name for name in os.listdir(folder) if "config" in name)
            except OSError:
                continue
            found += [
                (folder, name, os.stat(os.path.join(folder, name)).st_mtime) for name in names
            ]
        return found, os.environ.get("HOME"), os.environ.get("IPYTHONDIR")

    def init_pdb(self) -> None:
        if self.prepared is None:
            super().init_pdb()

    def init_kernel(self) -> None:
        if not has_tcp():
            # libzmq ends the process when it finds none, as the debugger would have it look.
            debugger._is_debugpy_available = ipkernel._is_debugpy_available = False
        shell = self.prepared
        if shell is None:
            super().init_kernel()
            return
        with known_modules(self.modules):
            super().init_kernel()  # finds the shell that is there
        os.makedirs(self.profile_dir.location, exist_ok=True)
        self.profile_dir.check_dirs()
        shell.parent = shell.kernel = self.kernel
        # Those steps of the shell's start that look at the container.
        shell.starting_dir = os.getcwd()
        shell.init_environment()
        shell.save_sys_module_state()
        shell.init_history()
        shell.init_user_ns()

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
        self.session.key = self.key
        self.session.pack = packer(self.session.pack)
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


def has_tcp() -> bool:
    """Not in a container with `--strict` and no network."""
    try:
        socket.socket(socket.AF_INET).close()
    except OSError:
        return False
    return True


@contextmanager
def known_modules(known: Any) -> Iterator[None]:
    """The kernel notes where all modules come from, for its debugger, which touches each of them.

    In a fork, what is touched is copied: these few strings that lie together stand for them.
    """
    original = ipkernel.sys
    ipkernel.sys = SimpleNamespace(**{**vars(original), "modules": known})
    try:
        yield
    finally:
        ipkernel.sys = original


@contextmanager
def without_history() -> Iterator[None]:
    """A shell that is made meanwhile has no history, which is a file and a thread."""
    original = ZMQInteractiveShell.init_history
    ZMQInteractiveShell.init_history = lambda shell: None
    try:
        yield
    finally:
        ZMQInteractiveShell.init_history = original


def made() -> App:
    """The application of this process, made by the first call."""
    ports = {"%s_port" % name: number for name, number in CHANNELS.items()}
    return App.instance(
        transport="ipc", ip="inside", outstream_class=__name__ + ".Stream", parent_handle=0, **ports
    )
