"""Processes inside that hold a state of a notebook: what is said to them, strictly read.

They run a stranger's code, so an answer is data of a known form and a bounded size, or the state
is lost. Who they are is known by what the kernel says of the sender, never by what they say.
"""

from __future__ import annotations

import array
import json
import os
import select
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec

from sandbox_kernel.errors import StateLost

ANSWER_SECONDS = 30.0
PING_SECONDS = 5.0
GONE = "a process that holds a state of the notebook was ended, or its container"
LONGEST = 1 << 16
_UCRED = struct.Struct("3i")  # unix(7), struct ucred: pid, uid, gid
_SPACE = socket.CMSG_SPACE(_UCRED.size)
Text = Annotated[str, msgspec.Meta(max_length=400)]
Few = Annotated[list[Text], msgspec.Meta(max_length=100)]


class Said(msgspec.Struct, forbid_unknown_fields=True):
    """Anything that a state says."""

    at: Literal["ready", "over", "answer"]
    status: Annotated[int, msgspec.Meta(ge=-255, le=255)] = 0
    threads: Few = []
    left: Few = []
    mapped: bool = False
    matches: Annotated[list[Text], msgspec.Meta(max_length=1000)] = []
    text: Annotated[str, msgspec.Meta(max_length=LONGEST)] = ""


_said = msgspec.json.Decoder(Said)


class State:
    """One process, by its control socket. `number`: of the cell that it ran, 0 for the first."""

    def __init__(self, control: socket.socket, number: int) -> None:
        self.control = control
        self.number = number
        self.pidfd = -1
        """Of the process, ours; -1 for the first one, which is a run of the container."""
        self.moment = 0
        """Under what number the files are kept as they were in this state."""
        self.limits: Mapping[str, int | None] = {}
        """Of its control group, as the launcher set them."""

    def tell(self, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
        """A request. Raises StateLost."""
        rights = array.array("i", descriptors)
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if descriptors else []
        try:
            self.control.sendmsg([json.dumps(message).encode()], control, socket.MSG_NOSIGNAL)
        except OSError as error:
            raise StateLost(GONE) from error

    def hear(self, expected: str, seconds: float = ANSWER_SECONDS) -> Said:
        """The answer. Raises StateLost for its end, for nonsense, and when none comes in time."""
        return self._hear(expected, seconds)[0]

    def _hear(self, expected: str, seconds: float) -> tuple[Said, int]:
        deadline = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise StateLost("a state of the notebook does not answer")
        return self.take(expected)

    def take(self, expected: str) -> tuple[Said, int]:
        """What lies there now, and the process that said it."""
        pid = 0
        try:
            data, control, flags, _ = self.control.recvmsg(LONGEST, _SPACE, socket.MSG_DONTWAIT)
            for level, kind, packed in control:
                if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                    pid = _UCRED.unpack(packed[: _UCRED.size])[0]
            said = _said.decode(data)
        except (OSError, struct.error, msgspec.MsgspecError, UnicodeError) as error:
            raise StateLost(GONE) from error
        if flags & socket.MSG_TRUNC or said.at != expected:
            raise StateLost("a state of the notebook says what no state says")
        return said, pid

    def fork(self, number: int) -> State:
        """A fork of it, which has its own socket and is known to the kernel. Raises StateLost."""
        ours, theirs = control_pair()
        made = State(ours, number)
        try:
            with theirs:
                self.tell({"do": "fork"}, (theirs.fileno(),))
            _, pid = made._hear("ready", ANSWER_SECONDS)
            made.pidfd = os.pidfd_open(pid)
        except OSError as error:
            made.close()
            raise StateLost(GONE) from error
        except BaseException:
            made.close()
            raise
        return made

    def is_alive(self) -> bool:
        """Whether it could still be forked: it answers, as one that is being killed will not."""
        if self.control.fileno() < 0:
            return False
        try:
            self.tell({"do": "ping"})
            self.hear("answer", PING_SECONDS)
        except StateLost:
            return False
        return True

    def close(self) -> None:
        """Without its socket it ends, if it serves; whoever ran wild in it, its group ends."""
        self.control.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


def control_pair() -> tuple[socket.socket, socket.socket]:
    """Our end, which hears from the kernel who speaks, and theirs."""
    kind = socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    return ours, theirs
