"""Which name servers the host asks: the lines of /etc/resolv.conf, see resolv.conf(5).

They are asked from the network of the host, so one on its loopback (systemd-resolved) is well.
"""

from __future__ import annotations

import ipaddress
import os

from sandbox_kernel.network.resolver import PORT

FILE = "/etc/resolv.conf"
MOST = 3
"""As many as the C library reads."""
_LONGEST = 65536


class NameServers:
    """The servers; the file is read again when it has changed."""

    def __init__(self, path: str = FILE) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._known: tuple[tuple[str, int], ...] = ()

    def __call__(self) -> tuple[tuple[str, int], ...]:
        """Addresses and ports, in their order; none when there is no file."""
        try:
            found = os.stat(self._path)
        except OSError:  # a host without names: questions are answered so
            return ()
        stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
        if stamp != self._stamp:
            with open(self._path, encoding="utf-8", errors="replace") as file:
                self._known = read(file.read(_LONGEST))
            self._stamp = stamp
        return self._known


def read(text: str) -> tuple[tuple[str, int], ...]:
    """The servers that a text of resolv.conf(5) names; what is no address is passed over.

    >>> read("search lan\\nnameserver 127.0.0.53 \\nnameserver none")
    (('127.0.0.53', 53),)
    """
    found = []
    for line in text.splitlines():
        words = line.split()
        if words[:1] != ["nameserver"] or len(words) < 2:
            continue
        try:
            address = ipaddress.ip_address(words[1])
        except ValueError:
            continue
        found.append((str(address), PORT))
    return tuple(found[:MOST])
