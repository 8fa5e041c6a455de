"""How the world looks from inside a container, and what a system call made there is answered.

Both are done by a process of ours that has become one of the container's (see `runtime.trying`), so
no image needs a program for it. What it says is data, strictly read.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec

from sandbox_kernel import errors
from sandbox_kernel.container.container import Container
from sandbox_kernel.container.process import ProcessSpec

SECONDS = 10.0
_MOST_BYTES = 1 << 20
_PIECE = 1 << 16

Text = Annotated[str, msgspec.Meta(max_length=4096)]
Argument = int | Mapping[str, str]


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What a process in the container sees."""

    hostname: Text
    uid: int
    gid: int
    pid: int
    processes: list[tuple[int, Text]]
    """Number and name of those that it sees, without itself."""
    mounts: list[tuple[Text, Text, Text]]
    """Target, file system, and ro or rw."""
    links: list[Text]
    users: list[tuple[Text, int]]
    files: list[Text]
    """Names in its root directory."""


class Answered(msgspec.Struct, frozen=True):
    """What a call returned. `signal`: it never returned, since it ended the process."""

    result: int
    errno: int
    signal: int | None = None


_seen = msgspec.json.Decoder(Seen)
_answered = msgspec.json.Decoder(Answered)


def look(container: Container) -> Seen:
    """What a process of the container's first user sees there now.

    Raises NoSuchContainer, StepFailed.
    """
    said, _ = _ask(container, {"do": "look"})
    try:
        return _seen.decode(said)
    except msgspec.MsgspecError as error:
        raise errors.StepFailed("look into", container.name, str(error)) from error


def call(container: Container, number: int, arguments: Sequence[Argument] = ()) -> Answered:
    """Have a process of the container make one system call; it ends then, and changes nothing else.

    An argument is a number, `{"text": ...}`, or `{"room": hexadecimal}`: memory of that beginning.
    Raises NoSuchContainer, StepFailed.
    """
    order = {"do": "call", "number": number, "arguments": list(arguments)}
    said, signal = _ask(container, order)
    if signal is not None:
        return Answered(-1, 0, signal)
    try:
        return _answered.decode(said)
    except msgspec.MsgspecError as error:
        raise errors.StepFailed("try a call in", container.name, str(error)) from error


def _ask(container: Container, order: Mapping[str, Any]) -> tuple[bytes, int | None]:
    """What it wrote, and the signal that ended it."""
    source, sink = os.pipe2(os.O_CLOEXEC)
    try:
        try:
            process = container.run(
                ProcessSpec(argv=("look",), transfer=order, descriptors={1: sink}, cwd="/")
            )
        finally:
            os.close(sink)
        try:
            if not process.started():
                raise process.wait(SECONDS).error() or errors.NoSuchContainer(container.name)
            said = _read(source, container.name)
            ended = process.wait(SECONDS)
        finally:
            if not process.ended():
                process.kill()
            process.close()
    except TimeoutError as error:
        raise errors.StepFailed("look into", container.name, "no answer in time") from error
    finally:
        os.close(source)
    failure = ended.error()
    if failure is not None:
        raise failure
    return said, ended.signal


def _read(source: int, name: str) -> bytes:
    """All that comes until the other side ends. Raises StepFailed."""
    deadline = time.monotonic() + SECONDS
    poll = select.poll()
    poll.register(source, select.POLLIN)
    pieces: list[bytes] = []
    size = 0
    while size <= _MOST_BYTES:
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise errors.StepFailed("look into", name, f"no answer within {SECONDS:g} s")
        piece = os.read(source, _PIECE)
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)
        size += len(piece)
    raise errors.StepFailed("look into", name, f"an answer of more than {_MOST_BYTES} bytes")
