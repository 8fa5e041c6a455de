"""One user namespace for all launchers of an ordinary user, and for the holder of his networks.

So that the holder has rights over the network namespaces of all his containers, which belong to
namespaces below, and nobody else has. The first makes it; later ones join who lives. It is found by
the socket that each listens on: the kernel says who listens, and that he still does when his files
are open. When the last of them ends, the namespace does (user_namespaces(7)).
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import sys

from sandbox_kernel.linux.user_namespaces import become_root_of_own_namespace, join

_UCRED_SIZE = 12  # struct ucred of unix(7): pid, uid, gid
PLACES = (("networks", "socket"), ("launchers", "control.sock"))
"""In this order: whoever is to be connected has to be where the holder of networks is."""


def enter(runtime: str) -> tuple[int, int]:
    """Enter the shared user namespace, and a mount namespace of our own.

    Returns how many ids there are, and a lock: to be closed when we listen where others look.
    Raises HostLacks.
    """
    lock = os.open(f"{runtime}/namespace", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    for folder, name in PLACES:
        for each in _names(f"{runtime}/{folder}"):
            ids = _join(f"{runtime}/{folder}/{each}/{name}")
            if ids is not None:
                return ids, lock
    return become_root_of_own_namespace(), lock


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []


def _join(path: str) -> int | None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as channel:
        channel.setblocking(False)
        try:
            channel.connect(path)
        except OSError:
            return None  # nobody listens there any more, or too many wait
        credentials = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED_SIZE)
        pid, uid = (int.from_bytes(credentials[at : at + 4], sys.byteorder) for at in (0, 4))
        if uid != os.getuid() or pid <= 0:
            return None

        def alive() -> bool:
            poll = select.poll()
            poll.register(channel, select.POLLIN | select.POLLRDHUP)
            return not poll.poll(0)

        return join(pid, alive)
