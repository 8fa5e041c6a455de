"""The terminal of a program in the foreground, shown on the one of the caller."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import termios
import tty

from sandbox_kernel.linux import writing
from sandbox_kernel.oci.foreground import Foreground

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox_kernel.oci.creating import Wish

CHUNK = 65536


class Terminal(Foreground):
    """Shown on our own terminal, through one of the container's, which it sends to our socket."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening
        self._master = -1

    def _show(self, pidfd: int) -> None:
        self._take_master()
        signal.signal(signal.SIGWINCH, lambda *_: self._resize())
        self._copy(pidfd)

    def _take_master(self) -> None:
        channel, _ = self._listening.accept()
        _, descriptors, _, _ = socket.recv_fds(channel, 16, 1)
        self._master = descriptors[0]
        channel.close()
        self._resize()

    def _resize(self) -> None:
        with contextlib.suppress(OSError):  # we have no terminal to go by
            size = fcntl.ioctl(0, termios.TIOCGWINSZ, b"\0" * 8)
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)

    def _copy(self, pidfd: int) -> None:
        poll = select.poll()
        for descriptor in (0, self._master, pidfd):
            poll.register(descriptor, select.POLLIN)
        with _raw(0):
            over = False
            while True:
                ready = dict(poll.poll(0 if over else None))
                if self._master in ready:
                    try:
                        data = os.read(self._master, CHUNK)
                    except OSError:  # EIO: nobody has the other end any more
                        data = b""
                    if not data:
                        return
                    writing.whole(1, data)
                elif over:
                    return
                if 0 in ready:
                    data = os.read(0, CHUNK)
                    if data:
                        writing.whole(self._master, data)
                    else:
                        poll.unregister(0)
                over = over or pidfd in ready
                if over:
                    with contextlib.suppress(KeyError):
                        poll.unregister(pidfd)


@contextlib.contextmanager
def offered(wish: Wish) -> Iterator[Terminal]:
    """With a console socket of ours in `wish`."""
    folder = tempfile.mkdtemp(prefix="sandbox-kernel-console-")
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        wish.console_socket = f"{folder}/socket"
        listening.bind(wish.console_socket)
        listening.listen(1)
        yield Terminal(listening)
    finally:
        listening.close()
        shutil.rmtree(folder)


@contextlib.contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    if not os.isatty(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        sys.stdout.flush()
