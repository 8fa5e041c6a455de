"""One workload behind several walls, measured here and now: a process, a container, and others.

What this machine lacks is named with the reason; nothing is estimated. The workload stands in
`workload.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from sandbox_kernel import engine, errors, policy, settings
from sandbox_kernel.container import events
from sandbox_kernel.linux import seccomp
from sandbox_kernel.observe import filters, open_files, processes, workload
from sandbox_kernel.observe.calls import Calls
from sandbox_kernel.observe.fact import Fact, fact, read

PROCESS = "process"
RUNTIMES = {
    "container": "embedded",
    "runc": "runc",
    "crun": "crun",
    "gvisor": "runsc",
    "machine": "vm",
}
"""A wall, and the `--runtime` of it."""
WALLS = (PROCESS, *RUNTIMES)
SECONDS = 60.0
_QUIET_SECONDS = 0.6
_LONGEST_WAIT_FOR_QUIET = 5.0
"""A machine has a clock that ticks, and is never quiet."""
_MOST_NAMES = 8


_NOT_READ: Fact[int] = Fact(None, "")


@dataclass(frozen=True, slots=True)
class Measured:
    """What one wall costs and hides. Without `start_seconds`, `reason` says why it is not here."""

    wall: str
    reason: str = ""
    start_seconds: float | None = None
    """From asking for it until its first output."""
    kernel: str = ""
    """Which kernel it believes to run on."""
    files_seen: int | None = None
    """Names in its root directory."""
    processes_seen: int | None = None
    memory: Fact[int] = _NOT_READ
    """Bytes of all processes on the host that are there for it, shared pages divided."""
    calls: int | None = None
    """System calls that reached the host's kernel while it made `workload.CALLS` of three kinds."""
    calls_reason: str = ""
    names: tuple[str, ...] = ()
    """Names of its processes as the host's administrator sees them."""
    file_found: bool | None = None
    """Whether the file that it holds open is seen from outside."""


class _Running(Protocol):
    """A workload that has begun."""

    def line(self) -> dict[str, Any]: ...
    def pids(self) -> tuple[int, ...]: ...
    def tell(self) -> None: ...
    def profile(self) -> seccomp.Profile | None: ...


def measure(wall: str, image: str = "host") -> Measured:
    """Start the workload behind a wall, look at it, end it. Raises InvalidOption."""
    if wall not in WALLS:
        raise errors.InvalidOption("wall", wall, f"one of {', '.join(WALLS)}")
    mark = secrets.token_hex(6)
    began = time.monotonic()
    try:
        with _process(mark) if wall == PROCESS else _contained(wall, image, mark) as running:
            said = running.line()
            seconds = time.monotonic() - began
            return _looked_at(wall, running, said, seconds, mark)
    except (errors.SandboxError, OSError, TimeoutError) as error:
        return Measured(wall, errors.shown(error))


def _looked_at(
    wall: str, running: _Running, said: dict[str, Any], seconds: float, mark: str
) -> Measured:
    there = running.pids()
    found = [known.value for pid in there if (known := processes.of_process(pid)).value]
    memory, file_found = _memory(there), _is_open(there, workload.MARK_OF_FILE + mark)
    calls, reason = _count(running)
    return Measured(
        wall=wall,
        start_seconds=seconds,
        kernel=str(said.get("kernel", ""))[:100],
        files_seen=int(said["files"]),
        processes_seen=int(said["processes"]),
        memory=memory,
        calls=calls,
        calls_reason=reason,
        names=tuple(dict.fromkeys(each.name for each in found if each))[:_MOST_NAMES],
        file_found=file_found,
    )


def _count(running: _Running) -> tuple[int | None, str]:
    """The calls that the host's kernel got while it worked, and why they can't be counted."""
    with Calls(running.pids, running.profile()) as calls:
        poll = select.poll()
        poll.register(calls, select.POLLIN)
        _until_quiet(calls, poll)
        before = calls.read()
        if not before.followed:
            whys = sorted({why for _, why in before.not_followed})
            return None, "nobody could be followed: " + (", ".join(whys) or "all have ended")
        running.tell()
        if not running.line().get("done"):
            return None, "it did not do its work"
        _until_quiet(calls, poll)
        return calls.read().total - before.total, ""


def _until_quiet(calls: Calls, poll: select.poll) -> None:
    """Until all that was counted is told."""
    deadline = time.monotonic() + _LONGEST_WAIT_FOR_QUIET
    while poll.poll(_QUIET_SECONDS * 1000) and time.monotonic() < deadline:
        calls.read()


def _memory(pids: tuple[int, ...]) -> Fact[int]:
    def proportional() -> int:
        return sum(_proportional(pid) for pid in pids)

    return fact("/proc/PID/smaps_rollup: Pss", proportional)


def _proportional(pid: int) -> int:
    try:
        text = read(f"/proc/{pid}/smaps_rollup")
    except ProcessLookupError:  # a process of a machine ended meanwhile
        return 0
    for line in text.splitlines():
        if line.startswith(b"Pss:"):
            return int(line.split()[1]) << 10
    return 0


def _is_open(pids: tuple[int, ...], name: str) -> bool | None:
    seen = [found.value for pid in pids if (found := open_files.of_process(pid)).value is not None]
    if not seen:
        return None
    return any(name in each.path for opened in seen for each in opened or ())


# -- the walls ------------------------------------------------------------------------------------


class _Lines:
    """Whole lines of JSON, out of text that comes in pieces."""

    def __init__(self, pieces: Callable[[], str]) -> None:
        self._pieces = pieces
        self._text = ""

    def next(self) -> dict[str, Any]:
        while "\n" not in self._text:
            if len(self._text) > workload.LONGEST_LINE:
                raise errors.StepFailed("compare", "the workload", "it says too much")
            self._text += self._pieces()
        line, _, self._text = self._text.partition("\n")
        try:
            said = json.loads(line)
        except ValueError as error:
            raise errors.StepFailed("compare", "the workload", f"it says `{line}`") from error
        if not isinstance(said, dict):
            raise errors.StepFailed("compare", "the workload", f"it says `{line}`")
        return said


class _Plain:
    """As a process of this machine."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self._process = process
        self._output = process.stdout.fileno()
        self._lines = _Lines(self._piece)

    def line(self) -> dict[str, Any]:
        return self._lines.next()

    def pids(self) -> tuple[int, ...]:
        return (self._process.pid,)

    def tell(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def profile(self) -> None:
        return None

    def _piece(self) -> str:
        poll = select.poll()
        poll.register(self._output, select.POLLIN)
        if not poll.poll(SECONDS * 1000):
            raise TimeoutError(f"the workload said nothing for {SECONDS:g} s")
        data = os.read(self._output, workload.LONGEST_LINE)
        if not data:
            raise errors.StepFailed("compare", "the workload", "it has ended")
        return data.decode("utf-8", "replace")


@contextlib.contextmanager
def _process(mark: str) -> Iterator[_Plain]:
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", workload.code(mark)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
    )
    try:
        yield _Plain(process)
    finally:
        process.kill()
        process.communicate()


class _Contained:
    """As a cell in a container of its own."""

    def __init__(self, running: engine.Run, plan: policy.ContainerPlan) -> None:
        self._running = running
        self._plan = plan
        self._events = iter(running)
        self._lines = _Lines(self._piece)

    def line(self) -> dict[str, Any]:
        return self._lines.next()

    def pids(self) -> tuple[int, ...]:
        return processes.pids(self._running.container)

    def tell(self) -> None:
        self._running.interrupt()

    def profile(self) -> seccomp.Profile | None:
        return filters.profile_of(self._plan)

    def _piece(self) -> str:
        for event in self._events:
            if isinstance(event, events.Stdout):
                return event.text
            if isinstance(event, events.Error):
                raise errors.StepFailed("compare", "the workload", f"{event.name}: {event.value}")
        raise errors.StepFailed("compare", "the workload", "it has ended")


@contextlib.contextmanager
def _contained(wall: str, image: str, mark: str) -> Iterator[_Contained]:
    plan = policy.plan(
        settings.PROGRAM,
        image=image,
        runtime=RUNTIMES[wall],
        cold=True,
        timeout=2 * SECONDS,
        interrupt_grace=SECONDS,
    )
    request = engine.cell_request(workload.code(mark))
    running = engine.start(plan, request)
    try:
        yield _Contained(running, plan)
    finally:
        running.close()
