"""The launcher's side of the network holder: where it listens, and what it is asked. Light.

The holder itself is in `network/`, which the launcher could not afford to import.
"""

from __future__ import annotations

import os
import socket

from sandbox_kernel import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def folder(runtime: str) -> str:
    """Where the holder for the network namespace of this thread has its lock and its socket."""
    space = os.stat("/proc/thread-self/ns/net").st_ino
    return f"{runtime}/networks/{space:x}"


def connect(path: str) -> socket.socket | None:
    """A connection to the holder of this folder, None when there is none."""
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        channel.connect(f"{path}/socket")
    except OSError:
        channel.close()
        return None
    return channel


def as_exception(answer: Mapping[str, Any]) -> errors.SandboxError:
    """The exception that an answer tells of."""
    kind = getattr(errors, str(answer.get("kind")), None)
    arguments = answer.get("arguments")
    if isinstance(kind, type) and issubclass(kind, errors.SandboxError):
        found: errors.SandboxError = kind(*arguments) if arguments else kind(answer["text"])
        return found
    return errors.StepFailed("ask", "the holder of networks", str(answer.get("text")))
