"""Messages with descriptors over a SOCK_SEQPACKET socket: unix(7), SCM_RIGHTS.

A message is one JSON object in one packet. One that is too long for a packet travels in a memfd,
whose descriptor is then the last of the packet.
"""

from __future__ import annotations

import _socket as socket  # all that is needed here of `socket`, which is slow to import
import _struct as struct  # the same of `struct`
import os

from sandbox_kernel import plain_json
from sandbox_kernel.linux import writing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from socket import socket as whole_socket
    from typing import Any

LONGEST_PACKET = 64 * 1024
LONGEST_MESSAGE = 16 * 1024 * 1024
# SCM_MAX_FD of include/net/scm.h is 253; one is for the memory of a long message.
MOST_DESCRIPTORS = 252
DONT_WAIT = socket.MSG_DONTWAIT
"""A plain number: those of `socket` are enumerations, of which each `|` makes another."""
_IN_MEMORY = b"memfd"
_SPACE = socket.CMSG_SPACE(4 * (MOST_DESCRIPTORS + 1))


def pair() -> tuple[whole_socket, whole_socket]:
    """Both ends of a new channel for such messages. Raises OSError."""
    from socket import socketpair

    return socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)


def channel(descriptor: int) -> whole_socket:
    """An end of one, whose kind need not be asked for. Takes the descriptor."""
    from socket import socket as whole

    return whole(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, descriptor)


def bare_pair() -> tuple[socket.socket, socket.socket]:
    """The same, as the C module has them: without `with`, and without a slow import."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)


def send(channel: socket.socket, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Send one message; the descriptors stay open here. Raises OSError."""
    body = plain_json.written(message, compact=True).encode()
    if len(body) <= LONGEST_PACKET:
        _send(channel, body, descriptors)
        return
    memory = os.memfd_create("message", os.MFD_CLOEXEC)
    try:
        writing.whole(memory, body)
        _send(channel, _IN_MEMORY, [*descriptors, memory])
    finally:
        os.close(memory)


def _send(channel: socket.socket, body: bytes, descriptors: Sequence[int]) -> None:
    control = (
        [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(descriptors)}i", *descriptors))]
        if descriptors
        else []
    )
    channel.sendmsg([body], control, socket.MSG_NOSIGNAL)


def receive(channel: socket.socket, flags: int = 0) -> tuple[dict[str, Any], list[int]] | None:
    """The next message and its descriptors (owned by the caller), None at the end.

    Raises OSError (BlockingIOError when nothing is there and flags has MSG_DONTWAIT) and
    ValueError for a packet that is no message; its descriptors are closed then.
    """
    body, control, bits, _ = channel.recvmsg(
        LONGEST_PACKET, _SPACE, flags | socket.MSG_CMSG_CLOEXEC
    )
    descriptors: list[int] = []
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            count = len(data) // 4
            descriptors.extend(struct.unpack_from(f"{count}i", data))
    if not body and not descriptors:
        return None
    try:
        if bits & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise ValueError("a packet is longer than a message may be")
        if body == _IN_MEMORY:
            if not descriptors:
                raise ValueError("a long message came without its memory")
            body = _take_memory(descriptors.pop())
        message = parsed(body)
        if not isinstance(message, dict):
            raise ValueError("a message is a JSON object")
    except ValueError:
        for descriptor in descriptors:
            os.close(descriptor)
        raise
    return message, descriptors


def parsed(body: bytes) -> Any:
    """The JSON of a packet. Raises ValueError, also for one that is nested too deep to be read."""
    try:
        return plain_json.read(body)
    except RecursionError:
        raise ValueError("a message is nested too deep") from None


def _take_memory(memory: int) -> bytes:
    try:
        size = os.fstat(memory).st_size
        if size > LONGEST_MESSAGE:
            raise ValueError(f"a message of {size} bytes is longer than {LONGEST_MESSAGE}")
        return os.pread(memory, size, 0)
    finally:
        os.close(memory)
