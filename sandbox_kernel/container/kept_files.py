"""The keeper of a container's writable files, from outside: see `runtime.keeping`."""

from __future__ import annotations

import json
import os
import select
import socket
from typing import Annotated, Any

import msgspec

from sandbox_kernel import errors
from sandbox_kernel.container.container import Container
from sandbox_kernel.container.process import ProcessSpec
from sandbox_kernel.grammar import shown_size
from sandbox_kernel.runtime import transfer

SECONDS = 120.0
LONGEST = 1 << 20


class Answer(msgspec.Struct):
    """What the keeper says."""

    bytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    files: int = 0
    restored: int = 0
    problems: list[str] = []
    too_much: str | None = None
    failed: str | None = None


_answer = msgspec.json.Decoder(Answer)


class KeptFiles:
    """The files of one container at several moments."""

    def __init__(self, container: Container) -> None:
        kind = socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC
        self.bytes = 0
        """What all moments keep together."""
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, kind)
        layers: list[int] = []
        try:
            with theirs:
                for folder in container.image.layers:
                    layers.append(os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
                numbered = {transfer.FIRST_LAYER + index: one for index, one in enumerate(layers)}
                self.process = container.run(
                    ProcessSpec(
                        argv=("keep",),
                        transfer={"do": "keep", "layers": len(layers)},
                        descriptors={0: theirs.fileno(), **numbered},
                        cwd="/",
                    )
                )
        except BaseException:
            self._channel.close()
            raise
        finally:
            for layer in layers:
                os.close(layer)

    def keep(self, number: int, *, most: int, thorough: bool) -> bool:
        """Keep them as they are now; False when they and the other moments are above `most`."""
        answer = self._ask(do="keep", number=number, most=most, thorough=thorough)
        return answer.too_much is None

    def restore(self, number: int) -> list[str]:
        """Make them what they were; what could not be put back."""
        return [errors.shown(line) for line in self._ask(do="restore", number=number).problems]

    def drop(self, number: int) -> None:
        """A moment that is wanted no more."""
        self._ask(do="drop", number=number)

    def _ask(self, **message: Any) -> Answer:
        try:
            self._channel.send(json.dumps(message).encode())
            poll = select.poll()
            poll.register(self._channel, select.POLLIN)
            data = self._channel.recv(LONGEST) if poll.poll(SECONDS * 1000) else b""
            answer = _answer.decode(data)
        except (OSError, msgspec.MsgspecError, UnicodeError):
            raise errors.StateLost(
                "keep the files of the notebook: what keeps them was ended inside: "
                "`%sandbox reset` begins anew"
            ) from None
        if answer.failed is not None:
            raise errors.ContainerError(f"keep the files of the notebook: {answer.failed}")
        self.bytes = answer.bytes
        return answer

    def close(self) -> None:
        """Nothing is kept any more."""
        self._channel.close()
        self.process.close()


def too_much(most: int) -> str:
    """The line about files that are not kept."""
    return (
        f"the files are more than {shown_size(most)}, half of what memory is left: they are not "
        "kept, and undo puts variables back alone (raise `--memory`)"
    )
