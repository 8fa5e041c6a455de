"""Waiting for a program in the foreground: its signals, and the terminal of the caller if it has
one of its own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import sys
import termios
import tty

from sandbox_kernel.linux import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sandbox_kernel.oci.creating import Wish

CHUNK = 65536


class Shown:
    """What a foreground program is shown on."""

    def __init__(self, listening: socket.socket | None) -> None:
        self._listening = listening
        self._master = -1

    def wait(self, pid: int, passed_on: Sequence[signal.Signals]) -> int:
        """Until a child of ours ends; returns its status as a shell has it.

        Signals that we get are for the program.
        """
        pidfd = processes.pidfd_open(pid)

        def pass_on(number: int, frame: object) -> None:
            with contextlib.suppress(ProcessLookupError):
                processes.send_signal(pidfd, number)

        for number in passed_on:
            signal.signal(number, pass_on)
        if self._listening is not None:
            self._take_master()
            signal.signal(signal.SIGWINCH, lambda *_: self._resize())
            self._copy(pidfd)
        else:
            processes.wait_ended(pidfd)
        _, status = os.waitpid(pid, 0)
        os.close(pidfd)
        code = os.waitstatus_to_exitcode(status)
        return 128 - code if code < 0 else code

    def _take_master(self) -> None:
        assert self._listening is not None
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
                    _write_all(1, data)
                elif over:
                    return
                if 0 in ready:
                    data = os.read(0, CHUNK)
                    if data:
                        _write_all(self._master, data)
                    else:
                        poll.unregister(0)
                over = over or pidfd in ready
                if over:
                    with contextlib.suppress(KeyError):
                        poll.unregister(pidfd)


@contextlib.contextmanager
def offered(wish: Wish, *, wanted: bool) -> Iterator[Shown]:
    """With a console socket of ours in `wish`, when the program wants a terminal."""
    if not wanted:
        yield Shown(None)
        return
    import shutil
    import tempfile

    folder = tempfile.mkdtemp(prefix="sandbox-kernel-console-")
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        wish.console_socket = f"{folder}/socket"
        listening.bind(wish.console_socket)
        listening.listen(1)
        yield Shown(listening)
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


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
