"""One run in a held container: what to start, the handle of it, and how it ended."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

from sandbox_kernel import errors
from sandbox_kernel.linux import processes
from sandbox_kernel.records import Record
from sandbox_kernel.runtime.client import Channel, wait_until

Reason = Literal["exited", "signal", "out-of-memory", "timed-out", "killed", "not-started"]
Usage = dict[str, Any]
START_SECONDS = 60.0


class ProcessSpec(Record):
    """What to run. `env` is added to the plan's; `descriptors` maps numbers inside to ours.

    An absent 0, 1 or 2 is /dev/null. Our descriptors stay ours: they are copied.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = {}
    cwd: str | None = None
    user: str | None = None
    descriptors: Mapping[int, int] = {}
    timeout: float | None = None
    transfer: Mapping[str, Any] | None = None
    """Instead of a program: our own copying of files, see `runtime.transfer`."""
    root_only: bool = False
    """The plan's capabilities are root's alone, as builds have it: another user has none."""
    recorder: int | None = None
    """One of `descriptors` in the run, over which its calls are told: see `recording`."""
    logged: bool = False
    """Outputs that are not in `descriptors` go to the container's log."""


class Exit(Record):
    """How a run ended. `status` and `signal` as wait(2) has them, one of them None.

    `usage` is that of the container when the run ended: cpu_seconds, memory_bytes,
    memory_peak_bytes, pids, pids_peak, throttled_seconds, read_bytes, written_bytes, oom_kills,
    storage_bytes, storage_limit; None where the host has no counter.
    """

    status: int | None
    signal: int | None
    reason: Reason
    usage: Usage
    limits: Mapping[str, Any]
    message: str = ""
    timeout: float | None = None

    def error(self) -> errors.SandboxError | None:
        """The exception for an end that the code did not choose; None for an ordinary end."""
        match self.reason:
            case "out-of-memory":
                return errors.OutOfMemory(
                    self.limits.get("memory"), self.usage.get("memory_peak_bytes")
                )
            case "timed-out":
                return errors.TimedOut(self.timeout or 0.0)
            case "killed":
                return errors.Killed(f"the container was ended: {self.message or 'killed'}")
            case "not-started":
                return errors.ContainerError(self.message)
            case _:
                return None

    @property
    def shell_status(self) -> int:
        """As a shell has it: the status, 128 + the signal, 124 for a time-out."""
        if self.reason == "timed-out":
            return 124
        if self.signal is not None:
            return 128 + self.signal
        return self.status or 0


class Process:
    """A run that was started, seen from outside."""

    def __init__(
        self, channel: Channel, container: str, connect: Callable[[], Channel], pidfd: int = -1
    ) -> None:
        self._channel = channel
        self._container = container
        self._connect = connect
        self._exit: Exit | None = None
        self._started = threading.Event()
        # Reentrant: a signal handler passes a signal on in the thread that may just be waiting.
        self._lock = threading.RLock()
        self._pidfd = pidfd
        if pidfd >= 0:
            self._started.set()
        self._run = 0

    def fileno(self) -> int:
        """Readable when there is news of the run; then `wait(0)`."""
        return self._channel.fileno()

    @property
    def pidfd(self) -> int:
        """A descriptor of the process, ours until `close`."""
        self._hear_start()
        return self._pidfd

    @property
    def pid(self) -> int:
        """Its number on the host, -1 once it is reaped."""
        return processes.pid_of(self.pidfd) if self._pidfd >= 0 or self.pidfd >= 0 else -1

    def wait(self, timeout: float | None = None) -> Exit:
        """How it ended. Raises TimeoutError when it has not after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            while self._exit is None:
                left = wait_until(deadline)
                poll = select.poll()
                poll.register(self._channel, select.POLLIN)
                if not poll.poll(None if left is None else left * 1000):
                    raise TimeoutError(f"the run goes on after {timeout:g} s")
                self._hear()
            return self._exit

    def signal(self, number: int) -> None:
        """Send a signal to the process itself; nothing happens when it is over."""
        try:
            processes.send_signal(self.pidfd, number)
        except (ProcessLookupError, OSError):
            if self._exit is None and not self.ended():
                raise

    def started(self) -> bool:
        """Whether it was; waits until that is known. If not, `wait` says why."""
        self._hear_start()
        return self._started.is_set()

    def ended(self) -> bool:
        """Whether the process itself is over, though its exit may not be read yet."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def kill(self, reason: str = "killed") -> None:
        """End everything of this run, what daemonised too."""
        self._hear_start()
        channel = self._connect()
        try:
            channel.request(
                "kill-run", {"container": self._container, "run": self._run, "reason": reason}
            )
        except errors.NoSuchContainer:
            pass  # it ended by itself meanwhile
        finally:
            channel.close()

    def finish(self, status: int) -> None:
        """Its code said that it is over, with this status: end the container that it had alone.

        `wait` has the exit then. Nothing happens when it ended meanwhile.
        """
        with self._lock, contextlib.suppress(errors.LauncherGone):  # which `wait` tells
            if self._exit is None:
                self._channel.ask("finish", {"container": self._container, "status": status})

    def close(self) -> None:
        """Let the descriptors go; a run that still goes on is ended."""
        with self._lock:
            if self._pidfd >= 0:
                os.close(self._pidfd)
                self._pidfd = -1
            self._channel.close()

    def _hear_start(self) -> None:
        if self._started.is_set() or self._exit is not None:
            return  # without the lock, which another thread may have until the end
        with self._lock:
            while not self._started.is_set() and self._exit is None:
                self._hear(START_SECONDS)

    def _hear(self, timeout: float | None = None) -> None:
        try:
            answer, descriptors = self._channel.hear(timeout)
        except errors.LauncherGone as gone:
            self._exit = Exit(
                None, int(signal.SIGKILL), "killed", {}, {}, f"the launcher ended: {gone}"
            )
            return
        event = answer["event"]
        if event == "started":
            self._pidfd = descriptors.pop()
            self._run = answer["run"]
            self._started.set()
        elif event == "exited":
            self._exit = _exit(answer)
        for descriptor in descriptors:
            os.close(descriptor)


def _exit(answer: Mapping[str, Any]) -> Exit:
    failure = answer.get("failure")
    said = answer.get("reason")
    reason: Reason
    message = ""
    if failure:
        reason = "not-started"
        message = f"{failure['step']} `{failure['subject']}`: {failure['why']}"
    elif said in ("out-of-memory", "timed-out"):
        reason = said
    elif said and said != "over":
        reason, message = "killed", said
    else:
        reason = "exited" if answer.get("status") is not None else "signal"
    return Exit(
        status=answer.get("status"),
        signal=answer.get("signal"),
        reason=reason,
        usage=answer.get("usage") or {},
        limits=answer.get("limits") or {},
        message=message,
        timeout=answer.get("timeout"),
    )
