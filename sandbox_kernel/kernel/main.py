"""`python -m sandbox_kernel [--cells] -f CONNECTION_FILE`: the two kernels, in this process.

That with one container for its life starts the launcher first, then the inside, then all the rest:
each of them gets ready while the next is imported here.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from sandbox_kernel.errors import InvalidOption, SandboxError

from . import stub

if TYPE_CHECKING:
    import socket

    from .connection import Connection
    from .start import Inside

CELLS = "--cells"
HEAD_START = 0.25
"""Seconds at most that the start of the inside, which takes longest, has Python for itself."""


def main(words: list[str]) -> None:
    """Runs the kernel and ends the process with its status."""
    # Until the loop is there an interrupt has nothing to interrupt, and must not end the start.
    signal.signal(signal.SIGINT, lambda *_: None)
    if words[:1] == [CELLS]:
        where = _connection(words[1:])
        if where is None:
            sys.exit(2)
        from .cells.loop import CellsKernel

        _leave(CellsKernel(where).run())
    _start_launcher()
    import threading

    from .start import Inside

    inside = Inside()
    threading.Thread(target=inside.start, name="start", daemon=True).start()
    inside.settled.wait(HEAD_START)
    where = _connection(words)
    if where is None:
        _leave(2)  # and the inside with us

    from .relay import Relay  # libzmq is loaded while ipykernel loads inside

    _leave(Relay(where, inside).run())


def _start_launcher() -> None:
    """Our own, where there is no holder to ask. Whoever needs it hears why there is none."""
    from sandbox_kernel.runtime import client

    with suppress(SandboxError, OSError):
        if client.find_holder() is None:
            client.shared()


def run_for(face: socket.socket, words: list[str], inside: Inside) -> NoReturn:
    """Runs the kernel for a stub, in a fork of the template that has all of it imported.

    A kernel whose settings want nothing kept ready is the stub's own. What settings lack is for the
    first cell to hear.
    """
    import threading

    from .start import plan

    try:
        inside.plan = plan()
    except (SandboxError, OSError):
        pass  # the same again, where it is told
    if inside.plan and not inside.plan.from_holder:
        face.sendall(stub.DECLINED)
        os._exit(0)
    face.sendall(stub.ACCEPTED)
    status = 2
    where = _connection(words)
    if where is not None:
        from .relay import Relay

        relay = Relay(where, inside, face)
        threading.Thread(target=inside.start, name="start", daemon=True).start()
        status = relay.run()
    face.sendall(stub.ENDED + bytes((status & 0xFF,)))
    _leave(status)


def _leave(status: int) -> NoReturn:
    sys.stderr.flush()
    # Threads in libraries that wait for nothing any more are no reason to stay.
    os._exit(status)


def _connection(words: list[str]) -> Connection | None:
    """Where to listen, now that it is our turn; None when that can't be known, which was said."""
    from . import connection

    try:
        path = _connection_file(words)
        where = connection.read(path)
    except SandboxError as error:
        print(f"sandbox-kernel: {error}", file=sys.stderr)
        return None
    connection.take_turn(path)
    return where


def _connection_file(words: list[str]) -> str:
    match words:
        case ["-f", path]:
            return path
        case [word] if word.startswith(("-f=", "--f=")):
            return word.partition("=")[2]
        case _:
            raise InvalidOption("sandbox_kernel", " ".join(words), "-f CONNECTION_FILE")
