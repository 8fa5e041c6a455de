"""The four connections to the inside: made before it is, so that no path is ever shared with it."""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sandbox_kernel.runtime import state

from .zmtp import Link

CHANNELS = ("shell", "control", "stdin", "iopub")
IDENTITY = b"relay"
REPLY_BUDGET = 64 << 20
PREFIX = "relay-"


class Channels:
    """Our ends as links, and the listening ends that the inside gets as descriptors."""

    def __init__(self, output_budget: int) -> None:
        self.listeners: dict[str, socket.socket] = {}
        self.links: dict[str, Link] = {}
        with _folder() as folder:
            for name in CHANNELS:
                listener, stream = _connected(folder)
                self.listeners[name] = listener
                self.links[name] = Link(
                    stream,
                    "SUB" if name == "iopub" else "DEALER",
                    # ipykernel asks for input at the identity that the cell came from.
                    identity=b"" if name == "iopub" else IDENTITY,
                    budget=output_budget if name == "iopub" else REPLY_BUDGET,
                )

    def handed_over(self) -> None:
        """The inside has its ends."""
        while self.listeners:
            self.listeners.popitem()[1].close()

    def close(self) -> None:
        """Let all go."""
        self.handed_over()
        for link in self.links.values():
            link.close()


def _connected(folder: int) -> tuple[socket.socket, socket.socket]:
    """A listening socket and a socket connected to it. The name between them is gone again."""
    # libzmq takes a descriptor only for a socket that accepts, so `socketpair` will not do. The
    # path through the descriptor is short enough for sun_path, and all that getsockname(2) tells.
    name = f"{PREFIX}{secrets.token_hex(6)}"
    path = f"/proc/self/fd/{folder}/{name}"
    listener = socket.socket(socket.AF_UNIX)
    stream = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(path)
        listener.listen(1)
        stream.connect(path)
    except BaseException:
        listener.close()
        stream.close()
        raise
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
    return listener, stream


@contextmanager
def _folder() -> Iterator[int]:
    """The user's runtime folder, locked against other relays; what a killed one left is removed."""
    path = state.runtime_folder()
    folder = os.open(path, os.O_DIRECTORY | os.O_CLOEXEC)
    lock = os.open("relay.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name in os.listdir(folder):
            if name.startswith(PREFIX):
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=folder)
        yield folder
    finally:
        os.close(lock)
        os.close(folder)
