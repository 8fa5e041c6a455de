"""The contents that the relay looks into, as typed structures; all others stay bytes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

Raw = msgspec.Raw
CommId = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class ExecuteRequest(msgspec.Struct):
    """From a client."""

    code: str
    silent: bool = False
    allow_stdin: bool = False
    stop_on_error: bool = True


class Status(msgspec.Struct):
    """From the inside; only these two are about a request."""

    execution_state: Literal["busy", "idle", "starting"]


class ExecuteInput(msgspec.Struct):
    """From the inside. The code is not taken from it: the request's own is shown."""

    execution_count: int


class Stream(msgspec.Struct):
    """From the inside."""

    name: Literal["stdout", "stderr"]
    text: Raw


class Transient(msgspec.Struct):
    """The part of a display that is not stored."""

    display_id: Annotated[str, msgspec.Meta(max_length=1024)] | None = None


class Display(msgspec.Struct):
    """display_data, update_display_data, execute_result. What is empty was not there."""

    data: dict[str, Raw]
    metadata: Raw = Raw(b"")
    transient: Raw = Raw(b"")
    execution_count: Raw = Raw(b"")


class Comm(msgspec.Struct):
    """comm_open, comm_msg, comm_close, in both directions."""

    comm_id: CommId


class CommToUs(msgspec.Struct):
    """The same, from a client to a widget of the relay."""

    comm_id: CommId
    data: dict[str, Any] = {}


class CommOpened(msgspec.Struct):
    """comm_open from a client; `comm_info_request` has the same optional field."""

    comm_id: CommId | None = None
    target_name: str | None = None


class Failure(msgspec.Struct):
    """The content of `error`, and part of a reply."""

    ename: str
    evalue: str
    traceback: list[str]


class InputRequest(msgspec.Struct):
    """From the inside."""

    prompt: Annotated[str, msgspec.Meta(max_length=65536)] = ""
    password: bool = False


class Shutdown(msgspec.Struct):
    """From a client."""

    restart: bool = False


class KernelInfo(msgspec.Struct):
    """From the inside: what the relay can't know by itself."""

    protocol_version: str = "5.3"
    language_info: dict[str, Any] = {}
    help_links: list[dict[str, str]] = []
    supported_features: list[str] = []
    debugger: bool = False


class Page(msgspec.Struct, tag_field="source", tag="page"):
    """A payload: show this text in the pager."""

    data: dict[str, Any]
    start: int = 0


class NextInput(msgspec.Struct, tag_field="source", tag="set_next_input"):
    """A payload: put this text in a cell."""

    text: str
    replace: bool = False


class AskExit(msgspec.Struct, tag_field="source", tag="ask_exit"):
    """A payload: `exit()` was called; consoles end by it."""

    keepkernel: bool = False


Payload = Page | NextInput | AskExit
"""What may come in a reply. `edit` (opens a file on the host) and all others are left out."""

execute_request = msgspec.json.Decoder(ExecuteRequest)
status = msgspec.json.Decoder(Status)
execute_input = msgspec.json.Decoder(ExecuteInput)
stream = msgspec.json.Decoder(Stream)
display = msgspec.json.Decoder(Display)
transient = msgspec.json.Decoder(Transient | None)
comm = msgspec.json.Decoder(Comm)
comm_to_us = msgspec.json.Decoder(CommToUs)
comm_opened = msgspec.json.Decoder(CommOpened)
failure = msgspec.json.Decoder(Failure)
input_request = msgspec.json.Decoder(InputRequest)
shutdown = msgspec.json.Decoder(Shutdown)
kernel_info = msgspec.json.Decoder(KernelInfo)
payload = msgspec.json.Decoder(Payload)
FROM_INSIDE: dict[str, msgspec.json.Decoder[Any]] = {
    "status": status,
    "execute_input": execute_input,
    "stream": stream,
    "display_data": display,
    "update_display_data": display,
    "execute_result": display,
    "comm_open": comm,
    "comm_msg": comm,
    "comm_close": comm,
    "input_request": input_request,
}
"""The types of which a part is looked at. Not `error`: its size is looked at first."""
fields = msgspec.json.Decoder(dict[str, Raw])
raw_list = msgspec.json.Decoder(list[Raw])
encode = msgspec.json.Encoder().encode
