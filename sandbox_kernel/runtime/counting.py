"""Counts the system calls of a container's processes, by number, and those that were refused.

A process of its own, started when somebody switches it on and ended by the end of its channel: then
the kernel lets go of all that it followed. It stops a followed process twice in each call, which
makes calls several times slower, so nobody is followed unasked.

From its program: `program` (the compiled filter, base64), then `follow` (process ids). To it, at
most four times a second and never waiting for a reader: `calls` (number -> count), `refused`
([number, errno, layer, count]; errno 0: the process was ended), `followed`, `not_followed`
(pid -> why). What is told are sums since the beginning.
"""

from __future__ import annotations

import base64
import errno
import os
import select
import signal
import socket
import sys
import time

from sandbox_kernel.linux import messages, processes, tracing, waiting
from sandbox_kernel.linux.seccomp_answers import Answers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

INTERVAL = 0.25
BY_FILTER, BY_KERNEL = "filter", "kernel"
REFUSALS = (errno.EPERM, errno.EACCES, errno.EROFS)
"""What the kernel itself answers to one who may not; a filter may answer anything."""
_ASKED = (*REFUSALS, errno.ENOSYS, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT)


class Counter:
    """Who is followed, where each one stands, and the sums."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._answers: Answers | None = None
        self._at: dict[int, tracing.SystemCall | None] = {}
        self._calls: dict[int, int] = {}
        self._refused: dict[tuple[int, int, str], int] = {}
        self._not_followed: dict[int, str] = {}
        self._new = False
        self._due = time.monotonic()

    def serve(self) -> None:
        """Until the channel ends."""
        children = processes.child_signal_descriptor()
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        poll.register(children, select.POLLIN)
        while True:
            self._take_stops()
            left = max(0.0, self._due - time.monotonic()) if self._new else None
            for descriptor, _ in poll.poll(None if left is None else left * 1000 + 1):
                if descriptor == children:
                    _drain(children)
                elif not self._hear():
                    return
            self._tell()

    def _hear(self) -> bool:
        received = messages.receive(self._channel)
        if received is None:
            return False
        message, _ = received
        if message.get("program"):
            self._answers = Answers(base64.b64decode(message["program"]))
        for pid in message.get("follow", ()):
            self._follow(pid)
        return True

    def _follow(self, pid: int) -> None:
        """All threads of a process. One that ended meanwhile is nobody to follow."""
        try:
            threads = [int(name) for name in os.listdir(f"/proc/{pid}/task")]
        except OSError:
            return
        for thread in threads:
            if thread in self._at:
                continue
            try:
                tracing.follow(thread)
            except OSError as error:
                if error.errno != errno.ESRCH:
                    self._not_followed[pid] = os.strerror(error.errno or 0)
                    self._new = True
                continue
            self._at[thread] = None
            self._new = True

    def _take_stops(self) -> None:
        """All that have stopped or ended; until nobody has, or it is time to tell."""
        while not (self._new and time.monotonic() >= self._due):
            try:
                thread, status = os.waitpid(-1, tracing.WAIT)
            except ChildProcessError:
                return
            if thread == 0:
                return
            if os.WIFSTOPPED(status):
                try:
                    self._stopped(thread, status)
                except ProcessLookupError:
                    self._at.pop(thread, None)  # it was killed while it stood there
            else:
                self._ended(thread, status)

    def _stopped(self, thread: int, status: int) -> None:
        number = os.WSTOPSIG(status)
        if thread not in self._at:
            self._at[thread] = None  # a child, told of before its parent's fork is
            self._new = True
        if number == tracing.SYSCALL_STOP:
            self._at_call(thread)
            tracing.go_on(thread)
        elif tracing.is_group_stop(status):
            tracing.listen(thread)
        elif status >> 16:
            tracing.go_on(thread)  # it forked, or executes a program, or was stopped by us
        else:
            tracing.go_on(thread, number)

    def _at_call(self, thread: int) -> None:
        call = tracing.system_call(thread)
        if call is None:
            return
        if call.entry:
            self._at[thread] = call
            self._calls[call.number] = self._calls.get(call.number, 0) + 1
            self._new = True
            return
        entered, self._at[thread] = self._at.get(thread), None
        if entered is not None and call.failed and -call.result in _ASKED:
            layer = self._layer(entered, -call.result)
            if layer is not None:
                self._count(entered.number, -call.result, layer)

    def _layer(self, call: tracing.SystemCall, number: int) -> str | None:
        if self._answers is not None:
            said = self._answers.refuses(call.number, call.arguments, call.architecture)
            if said == number:
                return BY_FILTER
        return BY_KERNEL if number in REFUSALS else None

    def _ended(self, thread: int, status: int) -> None:
        call = self._at.pop(thread, None)
        if call is not None and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGSYS:
            self._count(call.number, 0, BY_FILTER)
        self._new = True

    def _count(self, number: int, error: int, layer: str) -> None:
        key = (number, error, layer)
        self._refused[key] = self._refused.get(key, 0) + 1

    def _tell(self) -> None:
        if not self._new or time.monotonic() < self._due:
            return
        self._due = time.monotonic() + INTERVAL
        if not waiting.writable(self._channel):
            return  # nobody reads: the next time there are more
        self._new = False
        answer: dict[str, Any] = {
            "calls": self._calls,
            "refused": [[*key, count] for key, count in self._refused.items()],
            "followed": len(self._at),
            "not_followed": self._not_followed,
        }
        messages.send(self._channel, answer)


def _drain(descriptor: int) -> None:
    try:
        os.read(descriptor, 4096)
    except BlockingIOError:
        return


def main() -> None:
    """`counting DESCRIPTOR`, as `observe.calls` starts it."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.set_inheritable(False)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # of a terminal, for the program
    processes.set_name("sandbox-count")
    try:
        Counter(channel).serve()
    except (BrokenPipeError, ConnectionError):
        return  # its program has ended
