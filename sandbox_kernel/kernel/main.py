"""`python -m sandbox_kernel [--cells] -f CONNECTION_FILE`: the two kernels, as Jupyter starts them.

That with one container for its life starts the inside first, then all the rest.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import NoReturn

from sandbox_kernel.errors import InvalidOption, SandboxError

from . import connection
from .start import Inside

CELLS = "--cells"
HEAD_START = 0.25
"""Seconds at most that the start of the inside, which takes longest, has Python for itself."""


def main(words: list[str] | None = None) -> None:
    """Runs the kernel and ends the process with its status."""
    words = sys.argv[1:] if words is None else words
    cells = words[:1] == [CELLS]
    try:
        where = connection.read(_connection_file(words[1:] if cells else words))
    except SandboxError as error:
        print(f"sandbox-kernel: {error}", file=sys.stderr)
        sys.exit(2)
    # Until the loop is there an interrupt has nothing to interrupt, and must not end the start.
    signal.signal(signal.SIGINT, lambda *_: None)
    if cells:
        from .cells.loop import CellsKernel

        _leave(CellsKernel(where).run())
    inside = Inside()
    threading.Thread(target=inside.start, name="start", daemon=True).start()
    inside.settled.wait(HEAD_START)

    from .relay import Relay  # libzmq is loaded while ipykernel loads inside

    _leave(Relay(where, inside).run())


def _leave(status: int) -> NoReturn:
    sys.stderr.flush()
    # Threads in libraries that wait for nothing any more are no reason to stay.
    os._exit(status)


def _connection_file(words: list[str]) -> str:
    match words:
        case ["-f", path]:
            return path
        case [word] if word.startswith(("-f=", "--f=")):
            return word.partition("=")[2]
        case _:
            raise InvalidOption("sandbox_kernel", " ".join(words), "-f CONNECTION_FILE")
