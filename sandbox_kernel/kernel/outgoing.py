"""What may come out: each message of the inside is checked against what was asked, then said anew.

The inside runs a stranger's code, which can write anything on its sockets. So the type must be
known, the parent one of ours and in a state where such a message makes sense, the size within the
cell's limit. Headers, parents and signatures are never passed on.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from sandbox_kernel import errors
from sandbox_kernel.output_policy import Models, OutputPolicy
from sandbox_kernel.output_policy.terminal import has_escapes

from . import contents
from .requests import Ledger, Request
from .voice import Voice, failure
from .widgets import Widgets
from .wire import DELIMITER, Message, Parent, Reader, Signer
from .zmtp import Buffer, Digest, Received

COST = 512
"""Bytes that each message counts beside its own, so that a flood of small ones ends too."""
ERROR_SIZE = 1 << 20
MOST_COMMS = 20_000
CONTROL_TARGET = "jupyter.widget.control"
MOST_DISPLAYS = 100_000
IDLE_SECONDS = 10.0
REPLY_SECONDS = 10.0

Report = Callable[[str], None]


class Outgoing:
    """The checks. `signer`: with the inside's key. `hooks`: what the relay does when a cell begins
    or ends, or the probe answers."""

    def __init__(
        self,
        voice: Voice,
        ledger: Ledger,
        signer: Signer,
        *,
        limit: int,
        hooks: Any,
        widgets: Widgets,
        policy: OutputPolicy,
    ) -> None:
        self._voice = voice
        self._ledger = ledger
        self._reader = Reader(signer, replays=False, shapes=contents.FROM_INSIDE)
        self._limit = limit
        self._hooks = hooks
        self._widgets = widgets
        self._policy = policy
        self._models = Models(policy)
        self._comms: OrderedDict[str, bool] = OrderedDict()  # whether it tells all states
        self._displays: OrderedDict[str, None] = OrderedDict()
        self._orphans = 0  # bytes of outputs without a parent
        self.debugging = False
        self.dropped: dict[str, int] = {}
        self.execution_count = 0

    @property
    def begin_digest(self) -> Callable[[Sequence[Buffer]], Digest | None]:
        """For the links whose messages come here."""
        return self._reader.begin_digest

    def drop(self, why: str) -> None:
        """Counts a message that does not come through."""
        self.dropped[why] = self.dropped.get(why, 0) + 1

    # -- one message of each channel --------------------------------------------------------------

    def published(self, received: Received) -> None:
        """A message on the inner iopub."""
        if received.cut:
            self._too_large(received)
            return
        try:
            message = self._reader.read(received.frames, received.digest)
        except errors.BadMessage:
            self.drop("unreadable")
            return
        kind = message.header.msg_type
        if kind == "iopub_welcome" or message.parent.msg_id == self._hooks.probe_id:
            if kind in ("iopub_welcome", "status"):  # the first is ipykernel 7's alone
                self._hooks.probe_published()
            return
        request = self._ledger.find(message.parent.msg_id) if message.parent.msg_id else None
        if request is None and (message.parent.msg_id or kind not in _WITHOUT_PARENT):
            self.drop("parent unknown")
            return
        handler = _HANDLERS.get(kind)
        if handler is None:
            self.drop("type not allowed")
            return
        try:
            handler(self, kind, message, request)
        except (msgspec.MsgspecError, RecursionError, UnicodeError):
            self.drop("content malformed")

    def replied(self, channel: str, received: Received) -> None:
        """A message on the inner shell or control."""
        if received.cut:
            self._reply_too_large(channel, received)
            return
        try:
            message = self._reader.read(received.frames, received.digest)
        except errors.BadMessage:
            self.drop("unreadable")
            return
        if message.parent.msg_id == self._hooks.probe_id:
            self._hooks.probe_replied(message)
            return
        request = self._ledger.find(message.parent.msg_id)
        if (
            request is None
            or request.replied
            or request.channel != channel
            or message.header.msg_type != request.reply_type
        ):
            self.drop("reply to nothing")
            return
        try:
            self._reply(request, message)
        except (msgspec.MsgspecError, RecursionError, UnicodeError):
            self.drop("content malformed")

    def asked(self, received: Received) -> None:
        """A message on the inner stdin: the code waits for a line."""
        try:
            message = self._reader.read(received.frames, received.digest)
        except errors.BadMessage:
            self.drop("unreadable")
            return
        request = self._ledger.find(message.parent.msg_id)
        # Its `busy` comes on another socket, from another thread, and so may come later.
        if (
            message.header.msg_type != "input_request"
            or received.cut
            or request is None
            or not (request.is_cell and request.allow_stdin)
            or not (request.busy or request is self._ledger.head_cell())
            or request.replied
        ):
            self.drop("question not allowed")
            return
        prompt = self._policy.text(message.found.prompt)
        self._voice.ask(request, {"prompt": prompt, "password": message.found.password})

    # -- replies ----------------------------------------------------------------------------------

    def _reply(self, request: Request, message: Message) -> None:
        content: Any = message.content
        metadata = message.metadata
        if request.is_cell:
            fields = contents.fields.decode(content)
            status = msgspec.json.decode(fields.get("status", b""), type=str)
            if "payload" in fields:
                fields["payload"] = msgspec.Raw(contents.encode(self._payloads(fields["payload"])))
            if status == "error":
                told = self._failure(request, contents.failure.decode(content))
                request.failed = str(told["ename"])[:200]
                fields.update({k: msgspec.Raw(contents.encode(v)) for k, v in told.items()})
            if "user_expressions" in fields:
                fields["user_expressions"] = self._expressions(fields["user_expressions"])
            content = contents.encode(fields)
            metadata = self._hooks.with_usage(request, metadata)
            self._voice.reply(request, content, metadata)
            self._hooks.cell_replied(request, status)
        else:
            if request.kind == "comm_info_request":
                content = self._widgets.in_comm_info(request, content)
            elif request.kind == "inspect_request":
                content = self._with_bundle(content)
            elif request.kind == "debug_request":
                content = self._debug_reply(content)
            self._voice.reply(request, content, metadata, message.buffers)
        self._after_reply(request)

    def _after_reply(self, request: Request) -> None:
        if request.idle:
            self._ledger.close(request)
        else:
            request.synthesise_at = time.monotonic() + IDLE_SECONDS

    def _reply_too_large(self, channel: str, received: Received) -> None:
        request = self._ledger.find(_parent_of(received))
        if request is None or request.replied or request.channel != channel:
            self.drop("reply to nothing")
            return
        self._voice.error(request, failure(self._cut(received.size)))
        if request.is_cell:
            self._hooks.cell_replied(request, "error")
        self._after_reply(request)

    # -- iopub ------------------------------------------------------------------------------------

    def _status(self, _: str, message: Message, request: Request | None) -> None:
        state = message.found.execution_state
        if request is None or state == "starting" or getattr(request, state):
            self.drop("status out of turn")
            return
        if state == "busy" and request.idle:
            self.drop("status out of turn")
            return
        self._voice.status(request, state)
        if state == "busy" and request.is_cell:
            self._hooks.cell_began(request)
        elif state == "idle":
            if request.done:
                self._ledger.close(request)
            else:
                request.synthesise_at = time.monotonic() + REPLY_SECONDS

    def _input(self, _: str, message: Message, request: Request | None) -> None:
        if request is not None:
            request.entered = True
        if (
            request is None
            or not request.is_cell
            or request.silent
            or request.input_seen
            or request.replied
        ):
            self.drop("input out of turn")
            return
        count = message.found.execution_count
        self.execution_count = count
        self._hooks.show_input(request, count)

    def _stream(self, kind: str, message: Message, request: Request | None) -> None:
        if bytes(memoryview(message.found.text)[:1]) != b'"':
            self.drop("content malformed")
            return
        content = message.content
        if not self._policy.shows_all and has_escapes(message.found.text):
            text = self._policy.text(msgspec.json.decode(message.found.text))
            content = contents.encode({"name": message.found.name, "text": text})
        self._output(kind, message, request, content)

    def _display(self, kind: str, message: Message, request: Request | None) -> None:
        found: contents.Display = message.found
        transient = contents.transient.decode(found.transient or b"null")
        display_id = transient.display_id if transient else None
        if kind == "update_display_data":
            if display_id is None or display_id not in self._displays:
                self.drop("display not owned")
                return
        elif kind == "execute_result" and (
            request is None or not request.is_cell or request.idle or not request.busy
        ):
            self.drop("result out of turn")
            return
        content = message.content
        if not self._policy.shows_all:
            kept = {"transient": found.transient, "execution_count": found.execution_count}
            kept = {name: raw for name, raw in kept.items() if raw}
            content = self._shown(found.data, found.metadata, kept)
        if self._output(kind, message, request, content) and display_id is not None:
            self._displays[display_id] = None
            if len(self._displays) > MOST_DISPLAYS:
                self._displays.popitem(last=False)

    def _output(
        self, kind: str, message: Message, request: Request | None, content: Buffer
    ) -> bool:
        if not self._within_limit(request, message.size):
            return False
        self._voice.publish(kind, content, request, message.metadata, message.buffers)
        self._tell_left_out(request)
        return True

    def _tell_left_out(self, request: Request | None) -> None:
        for line in self._policy.news():
            content = {"name": "stderr", "text": f"[sandbox: {line}]\n"}
            self._voice.publish("stream", content, request)

    def _clear(self, kind: str, message: Message, request: Request | None) -> None:
        if self._within_limit(request, 0):
            self._voice.publish(kind, message.content, request)

    def _error(self, kind: str, message: Message, request: Request | None) -> None:
        if message.size > ERROR_SIZE:
            self._voice.publish(kind, failure(self._cut(message.size)), request)
            return
        told = self._failure(request, contents.failure.decode(message.content))
        if not self._within_limit(request, 0) and (request is None or request.replied):
            return
        self._voice.publish(kind, told, request)

    def _failure(self, request: Request | None, found: contents.Failure) -> dict[str, Any]:
        """An error as it is told: by another name if the relay caused it."""
        renamed = self._hooks.renamed(request, found) if request else None
        if renamed:
            return dict(renamed)
        clean = self._policy.text
        lines = [clean(line) for line in found.traceback]
        return {"ename": clean(found.ename), "evalue": clean(found.evalue), "traceback": lines}

    # -- mime bundles -----------------------------------------------------------------------------

    def _with_bundle(self, content: Buffer) -> Any:
        """A content with `data` and `metadata` as the policy shows them, and whether it is well."""
        if self._policy.shows_all:
            return content
        fields = contents.fields.decode(content)
        data = contents.fields.decode(fields.get("data", b"{}"))
        kept = {name: raw for name, raw in fields.items() if name in ("status", "found")}
        return self._shown(data, fields.get("metadata", b""), kept)

    def _shown(
        self, data: dict[str, msgspec.Raw], metadata: Buffer, kept: Mapping[str, msgspec.Raw]
    ) -> bytes:
        """A content of what the policy shows of a bundle, and those fields."""
        shown, described = self._policy.bundle(
            data, contents.fields.decode(metadata or b"{}"), self._models
        )
        return contents.encode({**kept, "data": shown, "metadata": described})

    def _expressions(self, raw: Buffer) -> Any:
        """`user_expressions` of a reply: each a bundle or an error."""
        if self._policy.shows_all:
            return raw
        kept = {}
        for name, item in contents.fields.decode(raw).items():
            if bytes(contents.fields.decode(item).get("status", b"")) == b'"error"':
                failed = self._failure(None, contents.failure.decode(item))
                kept[name] = msgspec.Raw(contents.encode({"status": "error", **failed}))
            else:
                kept[name] = msgspec.Raw(self._with_bundle(item))
        return msgspec.Raw(contents.encode(kept))

    def _debug_reply(self, content: Buffer) -> Any:
        """What the debugger says of a variable may be a bundle, in its body."""
        fields = contents.fields.decode(content)
        body = fields.get("body")
        if self._policy.shows_all or body is None or bytes(body)[:1] != b"{":
            return content
        inner = contents.fields.decode(body)
        if "data" not in inner or "metadata" not in inner:
            return content
        return contents.encode({**fields, "body": msgspec.Raw(self._with_bundle(body))})

    def _payloads(self, raw: Any) -> list[contents.Payload]:
        """Those of the payloads that may come out, and nothing else that stands in them."""
        kept = []
        for item in contents.raw_list.decode(raw)[:64]:
            try:
                found = contents.payload.decode(item)
            except (msgspec.MsgspecError, UnicodeError):
                continue
            if isinstance(found, contents.Page):
                found.data, _ = self._policy.bundle(found.data, {})
            kept.append(found)
        return kept

    # -- comms ------------------------------------------------------------------------------------

    def _comm(self, kind: str, message: Message, request: Request | None) -> None:
        comm_id = message.found.comm_id
        if not self._within_limit(request, message.size):
            return
        content, buffers = message.content, message.buffers
        if kind == "comm_open":
            taken = comm_id in self._comms or self._widgets.owns(comm_id)
            if taken or len(self._comms) >= MOST_COMMS:
                self.drop("comm not allowed")
                return
            content = self._models.opened(comm_id, content)
            self._tell_left_out(request)
            if content is None:
                self.drop("widget not shown")
                return
            self._comms[comm_id] = False
        elif comm_id not in self._comms:
            self.drop("comm not open")
            return
        elif kind == "comm_close":
            del self._comms[comm_id]
            self._models.closed(comm_id)
        else:
            of_all = self._comms[comm_id]
            said = self._models.said(comm_id, content, buffers, of_all=of_all)
            if said is None:
                self.drop("widget not shown")
                return
            content, buffers = said
            if of_all:
                content = self._widgets.in_all_states(content)
        self._voice.publish(kind, content, request, message.metadata, buffers)

    def client_comm(self, kind: str, content: Any) -> None:
        """A client opened or closed a comm."""
        try:
            found = contents.comm_opened.decode(content)
        except (msgspec.MsgspecError, UnicodeError):
            return
        if found.comm_id is None:
            return
        if kind == "comm_open" and len(self._comms) < MOST_COMMS:
            self._comms[found.comm_id] = found.target_name == CONTROL_TARGET
        elif kind == "comm_close":
            self._comms.pop(found.comm_id, None)

    def _debug_event(self, kind: str, message: Message, request: Request | None) -> None:
        if not self.debugging:
            self.drop("debug event without a debugger")
        elif self._within_limit(request, message.size):
            self._voice.publish(kind, message.content, request)

    # -- the limit of a cell ----------------------------------------------------------------------

    def _within_limit(self, request: Request | None, size: int) -> bool:
        """Counts an output; past the limit, the one notice, and no more of this cell."""
        if request is None:
            self._orphans += size + COST
            return self._orphans <= self._limit
        request.bytes_out += size + COST
        if request.bytes_out <= self._limit:
            return True
        if not request.cut:
            request.cut = True
            text = f"\n[sandbox: {self._cut(None)}]\n"
            self._voice.publish("stream", {"name": "stderr", "text": text}, request)
        self.drop("over the output limit")
        return False

    def _cut(self, size: int | None) -> errors.OutputCut:
        return errors.OutputCut(self._limit, size)

    def _too_large(self, received: Received) -> None:
        request = self._ledger.find(_parent_of(received))
        if request is not None:
            self._within_limit(request, received.size)


_HANDLERS: dict[str, Callable[[Outgoing, str, Message, Request | None], None]] = {
    "status": Outgoing._status,
    "execute_input": Outgoing._input,
    "stream": Outgoing._stream,
    "display_data": Outgoing._display,
    "update_display_data": Outgoing._display,
    "execute_result": Outgoing._display,
    "clear_output": Outgoing._clear,
    "error": Outgoing._error,
    "comm_open": Outgoing._comm,
    "comm_msg": Outgoing._comm,
    "comm_close": Outgoing._comm,
    "debug_event": Outgoing._debug_event,
}
_WITHOUT_PARENT = frozenset(_HANDLERS) - {"execute_input", "execute_result", "status"}


def _parent_of(received: Received) -> str:
    """The parent's id of a message whose end was skipped: its signature can't be checked."""
    heads = [bytes(frame) for frame in received.frames[:8] if memoryview(frame).nbytes <= 65536]
    try:
        return msgspec.json.decode(heads[heads.index(DELIMITER) + 3], type=Parent).msg_id
    except (ValueError, IndexError, msgspec.MsgspecError):
        return ""
