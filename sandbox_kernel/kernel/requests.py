"""What clients asked for: one record for each request, while it runs and for a while after."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .wire import Message

if TYPE_CHECKING:
    from sandbox_kernel.audit import Entry

REMEMBERED = 2048


class Request:
    """One request of a client and how far it is. The relay's own word on parents and order."""

    __slots__ = (
        "allow_stdin",
        "asking",
        "busy",
        "bytes_out",
        "channel",
        "code",
        "comm_target",
        "cut",
        "entered",
        "entry",
        "failed",
        "header",
        "identities",
        "idle",
        "input_seen",
        "kind",
        "msg_id",
        "replied",
        "silent",
        "started",
        "stop_on_error",
        "subshell",
        "synthesise_at",
        "used",
    )  # fmt: skip

    def __init__(self, message: Message, channel: str) -> None:
        self.msg_id = message.header.msg_id
        self.kind = message.header.msg_type
        self.subshell = message.header.subshell_id
        self.identities: Sequence[bytes] = message.identities
        self.header = message.raw_header
        self.channel = channel
        self.busy = self.replied = self.idle = False
        self.entered = False  # from now on an interrupt reaches its code
        self.code: str | None = None
        self.comm_target: str | None = None  # which comms a client asks about; None: all
        self.silent = self.allow_stdin = self.asking = self.input_seen = False
        self.stop_on_error = True
        self.bytes_out = 0
        self.cut = False
        self.entry: Entry | None = None  # of the record of what ran
        self.failed: str | None = None
        self.used: dict[str, Any] = {}
        self.started: float | None = None
        self.synthesise_at: float | None = None

    @property
    def is_cell(self) -> bool:
        """Whether it runs code, and so may have outputs of its own."""
        return self.kind == "execute_request"

    @property
    def is_comm(self) -> bool:
        """Comm messages have no reply; a concurrent one has not even a status."""
        return self.kind in ("comm_open", "comm_msg", "comm_close")

    @property
    def reply_type(self) -> str:
        """What answers it."""
        return self.kind.removesuffix("_request") + "_reply"

    @property
    def on_main(self) -> bool:
        """Whether it runs on the thread that a signal reaches, in order with the others there."""
        return self.channel == "shell" and self.subshell is None

    @property
    def done(self) -> bool:
        """Whether a client has all that it waits for."""
        return self.idle and (self.replied or self.is_comm)


class Ledger:
    """Requests by the `msg_id` that the client chose: the open ones in order, and recent ones."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, Request] = OrderedDict()
        self._past: OrderedDict[str, Request] = OrderedDict()

    def add(self, request: Request) -> None:
        """A request came in."""
        self._past.pop(request.msg_id, None)
        self._open[request.msg_id] = request
        if len(self._open) > REMEMBERED:
            for other in self._open.values():
                if other.is_comm:
                    self.close(other)
                    break

    def find(self, msg_id: str) -> Request | None:
        """The request of this id, open or past."""
        return self._open.get(msg_id) or self._past.get(msg_id)

    def close(self, request: Request) -> None:
        """It is done; its outputs may still come."""
        request.code = None
        if request.entry is not None:
            request.entry.end(error=request.failed, usage=request.used)
        if self._open.pop(request.msg_id, None) is not None:
            self._past[request.msg_id] = request
            if len(self._past) > REMEMBERED:
                self._past.popitem(last=False)

    def open(self) -> Iterator[Request]:
        """The open requests, oldest first."""
        return iter(list(self._open.values()))

    def __len__(self) -> int:
        return len(self._open)

    def on_main(self) -> Request | None:
        """The request that runs on the main thread now, or None."""
        return next((r for r in self._open.values() if r.on_main and r.busy and not r.done), None)

    def head_cell(self) -> Request | None:
        """The cell whose time counts: the first open one on the main thread."""
        return next((r for r in self._open.values() if r.on_main and r.is_cell), None)

    def last_cell(self) -> Request | None:
        """The newest cell that is over."""
        return next((r for r in reversed(self._past.values()) if r.is_cell), None)
