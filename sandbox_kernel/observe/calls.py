"""The system calls of a container, counted by name while somebody asks, and those refused.

Counted by ptrace(2) in a process of its own (see `runtime.counting`): only a container's owner and
root may, which the kernel checks. Whoever does it makes the container's calls slower for as long.
"""

from __future__ import annotations

import base64
import errno
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sandbox_kernel import errors
from sandbox_kernel.linux import messages, seccomp, seccomp_cache
from sandbox_kernel.observe import filters, processes
from sandbox_kernel.observe.observed import Observed
from sandbox_kernel.policy import ContainerPlan

SOURCE = "ptrace(PTRACE_GET_SYSCALL_INFO)"
END_SECONDS = 5.0
_PACKAGE_PARENT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from sandbox_kernel.runtime.counting import main; main()"
)


@dataclass(frozen=True, slots=True)
class Refused:
    """Calls that got an error from somebody who may say no."""

    name: str
    error: str
    """EPERM, ENOSYS, ..., or SIGSYS where the process was ended."""
    layer: str
    """filter, or kernel: it passed the filter, and its capabilities or a mount did not suffice."""
    count: int


@dataclass(frozen=True, slots=True)
class Counted:
    """The sums since counting began, the most frequent first."""

    calls: tuple[tuple[str, int], ...] = ()
    refused: tuple[Refused, ...] = ()
    followed: int = 0
    """Threads that are followed now."""
    not_followed: tuple[tuple[int, str], ...] = ()
    """Processes that the caller may not follow, and why."""
    source: str = SOURCE

    @property
    def total(self) -> int:
        """All calls."""
        return sum(count for _, count in self.calls)


class Calls:
    """Counts from now on until `close`. `find` tells which processes; `profile`, their filter's."""

    def __init__(
        self, find: Callable[[], Iterable[int]], profile: seccomp.Profile | None = None
    ) -> None:
        self._find = find
        self._asked: set[int] = set()
        self._last = Counted()
        program = (
            None if profile is None else base64.b64encode(seccomp_cache.program(profile)).decode()
        )
        ours, theirs = messages.pair()
        self._channel = ours
        with theirs:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    *("-I", "-S", "-c", _PROGRAM, _PACKAGE_PARENT),
                    str(theirs.fileno()),
                ],
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
            )
        try:
            self._say({"program": program})
            self.follow()
        except BaseException:
            self.close()
            raise

    @classmethod
    def of(cls, container: Observed, plan: ContainerPlan) -> Calls:
        """Those of a container, without its pid 1, which waits in one call for ever."""
        return cls(
            lambda: (pid for pid in processes.pids(container) if pid != container.pid),
            filters.profile_of(plan),
        )

    def fileno(self) -> int:
        """Readable when there are new sums."""
        return self._channel.fileno()

    def follow(self) -> None:
        """Those processes, too, that have come in by no process that is followed already.

        What a followed process starts is followed from its beginning. Raises StepFailed.
        """
        there = set(self._find())
        new = there - self._asked
        self._asked = there
        if new:
            self._say({"follow": sorted(new)})

    def read(self) -> Counted:
        """The newest sums. Raises StepFailed when the counting process is gone."""
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        answer: dict[str, Any] | None = None
        while poll.poll(0):
            received = messages.receive(self._channel)
            if received is None:
                raise errors.StepFailed("count", "system calls", "the counting process has ended")
            answer = received[0]
        if answer is not None:
            self._last = _counted(answer)
        return self._last

    def close(self) -> None:
        """Let all go that are followed: when this returns they run at their own speed."""
        self._channel.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()

    def __enter__(self) -> Calls:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _say(self, message: dict[str, Any]) -> None:
        try:
            messages.send(self._channel, message)
        except OSError as error:
            raise errors.StepFailed(
                "count", "system calls", "the counting process ended"
            ) from error


def _counted(answer: Mapping[str, Any]) -> Counted:
    calls = {seccomp.name_of(int(number)): count for number, count in answer["calls"].items()}
    refused = [
        Refused(seccomp.name_of(number), error_name(error), layer, count)
        for number, error, layer, count in answer["refused"]
    ]
    return Counted(
        tuple(sorted(calls.items(), key=lambda item: (-item[1], item[0]))),
        tuple(sorted(refused, key=lambda each: (-each.count, each.name, each.error))),
        answer["followed"],
        tuple((int(pid), why) for pid, why in answer["not_followed"].items()),
    )


def error_name(number: int) -> str:
    """EPERM for 1; SIGSYS for 0, where a filter ended the process."""
    return errno.errorcode.get(number, str(number)) if number else "SIGSYS"
