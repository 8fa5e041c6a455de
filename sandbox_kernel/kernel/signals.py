"""What tells a kernel to end, for a loop that waits for descriptors: SIGINT and SIGTERM as bytes in
a socket, and the process that Jupyter names."""

from __future__ import annotations

import os
import signal
import socket

CAUGHT = (signal.SIGINT, signal.SIGTERM)


def caught() -> tuple[socket.socket, socket.socket]:
    """The end to read, one byte for each signal with its number, and the one that Python writes.

    Both have to be kept. Only the main thread may call it (see `signal.set_wakeup_fd`).
    """
    receiving, sending = socket.socketpair()
    for end in (receiving, sending):
        end.setblocking(False)
    signal.set_wakeup_fd(sending.fileno(), warn_on_full_buffer=False)
    for number in CAUGHT:
        signal.signal(number, lambda *_: None)
    return receiving, sending


def parent() -> int | None:
    """A descriptor of the process without which a kernel has no reason to be; None: none was named.

    Raises ProcessLookupError when it has ended already.
    """
    try:
        return os.pidfd_open(int(os.environ.get("JPY_PARENT_PID", "")))
    except ProcessLookupError:
        raise
    except (ValueError, OSError):
        return None
