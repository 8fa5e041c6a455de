"""The program's side of the network holder: finding or starting it, and asking it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

from sandbox_kernel import errors
from sandbox_kernel.linux import inotify, messages, waiting
from sandbox_kernel.network import protocol
from sandbox_kernel.runtime import state, wiring

START_SECONDS = 20.0
ANSWER_SECONDS = 30.0
END_SECONDS = 2.0
_MOMENT = 0.2
_PACKAGE_PARENT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from sandbox_kernel.network.holder import main; main()"
)


class Holder:
    """A connection to the network holder of this user on this machine."""

    def __init__(self, channel: socket.socket, about: Mapping[str, Any]) -> None:
        self._channel = channel
        self.about = about

    @classmethod
    def find(cls) -> Holder | None:
        """The one that lives, None when there is none."""
        channel = wiring.connect(wiring.folder(state.runtime_folder()))
        if channel is None:
            return None
        try:
            return cls(channel, _ask(channel, {"do": "hello"})[0])
        except errors.SandboxError:
            channel.close()
            return None  # it is just ending

    @classmethod
    def start(cls, *, addresses: str | None = None, hardware: str = "02:5b") -> Holder:
        """The one that lives, started if there is none. Raises HostLacks, StepFailed."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            found = cls.find()
            if found is not None:
                return found
            _start({"range": addresses, "hardware": hardware})
            if time.monotonic() > deadline:
                raise errors.StepFailed("start", "the holder of networks", "it does not answer")

    def ask(self, request: protocol.Request) -> dict[str, Any]:
        """The answer. Raises what the holder reports, and StepFailed when it ended."""
        return _ask(self._channel, protocol.write(request))[0]

    def wait_for(self, request: protocol.Request) -> dict[str, Any]:
        """The answer, however long it takes. Raises as `ask`."""
        return _ask(self._channel, protocol.write(request), seconds=None)[0]

    def ask_for_descriptor(self, request: protocol.Request) -> int:
        """The descriptor that comes with the answer, the caller's now. Raises as `ask`."""
        return _ask(self._channel, protocol.write(request))[1][0]

    def stop(self) -> bool:
        """Have it end as soon as nothing is in it. Whether it did, within a moment."""
        self.ask(protocol.Stop())
        return waiting.readable(self._channel, END_SECONDS)

    def close(self) -> None:
        """Let it go; it ends when nobody needs it."""
        self._channel.close()

    def __enter__(self) -> Holder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _ask(
    channel: socket.socket, message: dict[str, Any], *, seconds: float | None = ANSWER_SECONDS
) -> tuple[dict[str, Any], list[int]]:
    try:
        messages.send(channel, message)
        if not waiting.readable(channel, seconds):
            raise errors.StepFailed("ask", "the holder of networks", "it does not answer")
        received = messages.receive(channel)
    except OSError as error:
        raise _ended() from error
    if received is None:
        raise _ended()
    answer, given = received
    if answer.get("event") == "error":
        raise wiring.as_exception(answer)
    return answer, given


def _ended() -> errors.StepFailed:
    why = "it ended, and the networks with it: run the cell again"
    return errors.StepFailed("ask", "the holder of networks", why)


def _start(settings: dict[str, Any]) -> None:
    """Start one, and wait until it listens, or somebody else's does. Raises what it reports."""
    ours, theirs = messages.pair()
    said = os.memfd_create("said", os.MFD_CLOEXEC)
    with ours, theirs, os.fdopen(said, "rb") as complaints:
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", _PROGRAM, _PACKAGE_PARENT, str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=complaints,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        )
        theirs.close()
        folder = wiring.folder(state.runtime_folder())
        messages.send(ours, {**settings, "folder": folder})
        received = None
        if waiting.readable(ours, START_SECONDS):
            with contextlib.suppress(OSError):
                received = messages.receive(ours)
        if received is None:
            process.kill()
            process.wait()
            complaints.seek(0)
            lines = complaints.read().decode(errors="replace").strip().splitlines()
            why = lines[-1] if lines else "it ended at once: try again"
            raise errors.StepFailed("start", "the holder of networks", why)
    if received[0]["event"] == "error":
        process.wait()
        raise wiring.as_exception(received[0])
    if received[0]["event"] == "taken":
        process.wait()
        _await_socket(folder)  # of another one that is just starting, unless that one is ending
    else:
        _started.append(process)


def _await_socket(folder: str) -> None:
    news = inotify.watch_created(folder)
    try:
        if not os.path.exists(f"{folder}/socket"):
            waiting.readable(news, _MOMENT)
    finally:
        os.close(news)


def stop() -> None:
    """End the holder if nothing is in it, which else it does by itself a little later."""
    found = Holder.find()
    if found is not None:
        with found, contextlib.suppress(errors.SandboxError):
            found.stop()
    while _started and _started[-1].poll() is not None:
        _started.pop()


_started: list[subprocess.Popen[bytes]] = []
"""Holders that this program started: children of it, until one of the two ends."""
