"""The launcher's side of the network holder: where it listens, and what it is asked. Light.

The holder itself is in `network/`, which the launcher could not afford to import.
"""

from __future__ import annotations

import errno
import os
import socket

from sandbox_kernel import errors
from sandbox_kernel.linux import messages, waiting
from sandbox_kernel.runtime import open_files

END_SECONDS = 2.0

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Protocol

    class Owner(Protocol):
        """What a launcher does for its connection."""

        def watch(self, descriptor: int, handler: Callable[[], None]) -> None: ...
        def forget(self, descriptor: int) -> None: ...
        def networks_ended(self) -> None: ...


def folder(runtime: str) -> str:
    """Where the holder for the network namespace of this thread has its lock and its socket."""
    return f"{runtime}/networks/{space()}"


def space() -> str:
    """What tells the network namespace of this thread from all others."""
    return f"{os.stat('/proc/thread-self/ns/net').st_ino:x}"


def connect(path: str) -> socket.socket | None:
    """A connection to the holder of this folder, None when there is none."""
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        channel.connect(f"{path}/socket")
    except OSError:
        channel.close()
        return None
    return channel


class Wire:
    """A launcher's connection to the holder, while one of its containers is in a network.

    What was plugged in over it is taken out by the holder when the launcher ends.
    """

    def __init__(self, owner: Owner, runtime: str) -> None:
        self._owner = owner
        self._folder = folder(runtime)
        self._channel: socket.socket | None = None
        self._waiting: dict[int, Callable[[dict[str, Any]], None]] = {}
        self._plugged: set[str] = set()
        self._tag = 0

    def is_there(self) -> bool:
        """Whether there is a holder; if so, we are connected to it."""
        if self._channel is None:
            self._channel = connect(self._folder)
            if self._channel is None:
                return False
            self._channel.setblocking(False)
            self._owner.watch(self._channel.fileno(), self._hear)
        return True

    def plug(
        self,
        container: str,
        order: Mapping[str, Any],
        network: int,
        answered: Callable[[dict[str, Any]], None],
    ) -> None:
        """Have a network namespace connected; `answered` is called once, with what was said.

        Raises StepFailed when there is no holder.
        """
        if not self.is_there():
            raise errors.StepFailed("find", "the holder of networks", "it ended: try again")
        self._plugged.add(container)
        self._ask({**order, "do": "plug", "container": container}, [network], answered)

    def unplug(self, container: str, done: Callable[[], None]) -> None:
        """It is over: `done` is called when its addresses and ports are free, or were none."""
        if container not in self._plugged or self._channel is None:
            done()
            return
        self._plugged.discard(container)

        def answered(_: dict[str, Any]) -> None:
            done()
            self._close_if_idle()

        self._ask({"do": "unplug", "container": container}, [], answered)

    def drain(self) -> None:
        """Wait until the holder has taken out what it was told to; not for long."""
        while self._waiting and self._channel is not None:
            if not waiting.readable(self._channel, END_SECONDS):
                return
            self._hear()

    def _ask(
        self,
        message: dict[str, Any],
        descriptors: list[int],
        answered: Callable[[dict[str, Any]], None],
    ) -> None:
        assert self._channel is not None
        self._tag += 1
        self._waiting[self._tag] = answered
        try:
            messages.send(self._channel, {**message, "tag": self._tag}, descriptors)
        except OSError:
            self._ended()

    def _close_if_idle(self) -> None:
        """The holder ends when nobody needs it: a connection means somebody does."""
        if not self._plugged and not self._waiting:
            self._close()

    def _hear(self) -> None:
        assert self._channel is not None
        try:
            received = messages.receive(self._channel, messages.DONT_WAIT)
        except BlockingIOError:
            return
        except (OSError, ValueError):
            received = None
        if received is None:
            self._ended()
            return
        answer, given = received
        for descriptor in given:
            os.close(descriptor)
        answered = self._waiting.pop(answer.get("tag", 0), None)
        if answered is not None:
            answered(answer)

    def _ended(self) -> None:
        """The networks are gone, and with them the links of the containers."""
        self._close()
        self._plugged.clear()
        self._owner.networks_ended()
        waiting, self._waiting = self._waiting, {}
        why = ["connect", "the container", "the holder of networks ended: try again", 0]
        for answered in waiting.values():
            answered({"event": "error", "kind": "StepFailed", "text": why[2], "arguments": why})

    def _close(self) -> None:
        if self._channel is not None:
            self._owner.forget(self._channel.fileno())
            self._channel.close()
            self._channel = None


def as_message(error: BaseException) -> dict[str, Any]:
    """An exception as a message, of which whoever asked makes the same one again."""
    if getattr(error, "errno", 0) == errno.EMFILE:
        error = _without_descriptors(error)
    answer: dict[str, Any] = {"event": "error", "kind": type(error).__name__, "text": str(error)}
    if isinstance(error, errors.LimitNotEnforceable):
        answer["arguments"] = [error.option, str(error.asked), error.host, error.remedy]
    elif isinstance(error, errors.StepFailed):
        answer["arguments"] = [error.step, error.subject, error.why, error.errno]
    elif isinstance(error, errors.InvalidOption):
        answer["arguments"] = [error.option, str(error.value), error.allowed]
    return answer


def _without_descriptors(error: BaseException) -> errors.StepFailed:
    """The same, with what to do."""
    step, subject = "open", "one more descriptor"
    if isinstance(error, errors.StepFailed):
        step, subject = error.step, error.subject
    return errors.StepFailed(step, subject, open_files.why(), errno.EMFILE)


def as_exception(answer: Mapping[str, Any]) -> errors.SandboxError:
    """The exception that an answer tells of."""
    kind = getattr(errors, str(answer.get("kind")), None)
    arguments = answer.get("arguments")
    if isinstance(kind, type) and issubclass(kind, errors.SandboxError):
        found: errors.SandboxError = kind(*arguments) if arguments else kind(answer["text"])
        return found
    return errors.StepFailed("ask", "the holder of networks", str(answer.get("text")))
