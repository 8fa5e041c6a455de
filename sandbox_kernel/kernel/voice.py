"""What the relay says to Jupyter: every outer header, signature and parent is made here."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from . import contents
from .contents import encode
from .outer import Outer, receive
from .requests import Request
from .wire import EMPTY, Message, Signer, frames
from .zmtp import Buffer

PROTOCOL = "5.4"
AT_ONCE = 64
"""Messages of one socket before the others have their turn."""


class Voice:
    """Messages of one session; the inside's own headers never come through."""

    def __init__(self, outer: Outer, signer: Signer) -> None:
        self._outer = outer
        self._signer = signer
        self._session = secrets.token_hex(16)
        self._count = 0

    def header(self, kind: str) -> bytes:
        """A fresh header of this session."""
        self._count += 1
        return encode(
            {
                "msg_id": f"{self._session}_{self._count}",
                "msg_type": kind,
                "username": "sandbox-kernel",
                "session": self._session,
                "date": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
                "version": PROTOCOL,
            }
        )

    def publish(
        self,
        kind: str,
        content: Buffer | dict[str, Any],
        request: Request | None = None,
        metadata: bytes = EMPTY,
        buffers: Sequence[Buffer] = (),
    ) -> None:
        """To all who listen on iopub."""
        parent = request.header if request else EMPTY
        body = encode(content) if isinstance(content, dict) else content
        made = frames(self._signer, self.header(kind), parent, metadata, body, *buffers)
        self._outer.publish([kind.encode(), *made])

    def reply(
        self,
        request: Request,
        content: Buffer | dict[str, Any],
        metadata: bytes = EMPTY,
        buffers: Sequence[Buffer] = (),
    ) -> None:
        """The one reply to a request, on the channel that it came by."""
        if request.replied or request.is_comm:
            return
        request.replied = True
        socket = self._outer.control if request.channel == "control" else self._outer.shell
        kind = request.reply_type
        self._answer(socket, request, kind, content, metadata=metadata, buffers=buffers)

    def ask(self, request: Request, content: dict[str, Any]) -> None:
        """An `input_request`, to the client that asked for the cell."""
        request.asking = True
        self._answer(self._outer.stdin, request, "input_request", content)

    def status(self, request: Request, state: str) -> None:
        """`busy` or `idle`, each once for a request."""
        if getattr(request, state):
            return
        if state == "idle":
            self.status(request, "busy")
        setattr(request, state, True)
        self.publish("status", {"execution_state": state}, request)

    def error(self, request: Request, content: dict[str, Any]) -> None:
        """An error as an output of a cell and as its reply."""
        if request.is_cell and not request.replied:
            self.publish("error", content, request)
        self.reply(request, {"status": "error", **content})

    def welcome(self) -> None:
        """Greet who has just begun to listen (JEP 65)."""
        for _ in range(AT_ONCE):
            event = receive(self._outer.iopub)
            if event is None:
                return
            topic = self._outer.subscribed(bytes(event[0]))
            if topic is not None:
                self.publish("iopub_welcome", {"subscription": topic})

    def shutting_down(self, request: Request, message: Message) -> None:
        """The answer to a `shutdown_request`, to all."""
        try:
            restart = contents.shutdown.decode(message.content).restart
        except (msgspec.MsgspecError, UnicodeError):
            restart = False
        content = {"status": "ok", "restart": restart}
        self.reply(request, content)
        self.publish("shutdown_reply", content, request)

    def _answer(
        self,
        socket: Any,
        request: Request,
        kind: str,
        content: Buffer | dict[str, Any],
        *,
        metadata: bytes = EMPTY,
        buffers: Sequence[Buffer] = (),
    ) -> None:
        body = encode(content) if isinstance(content, dict) else content
        made = frames(self._signer, self.header(kind), request.header, metadata, body, *buffers)
        self._outer.answer(socket, request.identities, made)


def failure(error: BaseException, details: str = "") -> dict[str, Any]:
    """An exception of ours as the content of `error`: one line, and what else is known below it."""
    name, text = type(error).__name__, str(error)
    lines = [f"\x1b[0;31m{name}\x1b[0m: {text}"]
    if details:
        lines.append(details)
    return {"ename": name, "evalue": text, "traceback": lines}
