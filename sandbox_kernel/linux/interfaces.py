"""Switching on the loopback interface of a new network namespace: netdevice(7), SIOCSIFFLAGS.

All other networking goes through pyroute2; this one ioctl is here since init has no room for it.
"""

from __future__ import annotations

import _socket as socket  # all that is needed here of `socket`, which is slow to import
import fcntl
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox_kernel.linux.multicall import Calls

SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1
IFF_LOOPBACK = 0x8
IFF_RUNNING = 0x40
# struct ifreq { char ifr_name[16]; short ifr_flags; ... } is 40 bytes.
_FLAGS = (IFF_UP | IFF_LOOPBACK | IFF_RUNNING).to_bytes(2, sys.byteorder)
_REQUEST = b"lo".ljust(16, b"\0") + _FLAGS + bytes(22)


def switch_on_loopback() -> None:
    """Bring `lo` up in the network namespace of the caller. Raises OSError."""
    any_socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, _REQUEST)
    finally:
        any_socket.close()


def switch_on_loopback_by(calls: Calls) -> None:
    """`switch_on_loopback` as a list of calls."""
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
    any_socket = calls.call("socket", socket.AF_INET, kind, 0)
    calls.call("ioctl", any_socket, SIOCSIFFLAGS, _REQUEST)
    calls.close(any_socket)
