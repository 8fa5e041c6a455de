"""What a cell did, as typed events in the order in which it did it; and the frames that say so.

The frames come from inside: they are parsed by msgspec against these types, with every length
bounded before anything is kept, and a frame that does not fit ends the listening to that channel.
"""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from ..errors import SandboxError

MOST_HEADER = 1 << 20
MOST_PARTS = 64
MOST_TEXT = 1 << 20


@dataclass(frozen=True, slots=True)
class Stdout:
    """Text on standard output."""

    text: str


@dataclass(frozen=True, slots=True)
class Stderr:
    """Text on standard error."""

    text: str


@dataclass(frozen=True, slots=True)
class Display:
    """A mime bundle of `display()`; with `update`, for the display of that `display_id`."""

    data: Mapping[str, Any]  # str, bytes (images) or JSON
    metadata: Mapping[str, Any] = field(default_factory=dict)
    transient: Mapping[str, Any] = field(default_factory=dict)
    update: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """The mime bundle of the last expression's value."""

    data: Mapping[str, Any]
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Clear:
    """`clear_output(wait)`."""

    wait: bool


@dataclass(frozen=True, slots=True)
class Error:
    """The cell's exception, or the reason for which it was ended (then `failure` is set)."""

    name: str
    value: str
    traceback: str
    failure: SandboxError | None = None


@dataclass(frozen=True, slots=True)
class Value:
    """A variable asked for by `outputs`."""

    name: str
    value: Any


@dataclass(frozen=True, slots=True)
class File:
    """A file asked for by `files_out`: its path below the working folder."""

    path: str
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Notice:
    """A line from the outside about the run: output was cut, a limit is not in force."""

    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event. `status` is the exit status, or minus the number of a signal."""

    status: int
    usage: Mapping[str, Any]


Event = Stdout | Stderr | Display | Result | Clear | Error | Value | File | Notice | Finished


class Turn(msgspec.Struct, tag="turn", tag_field="kind"):
    """The cell turns to its other stream: this one was written up to here."""

    stream: Literal[1, 2]
    position: int


class _Bundle(msgspec.Struct, tag_field="kind"):
    parts: list[tuple[str, int, Literal["text", "binary", "json"]]]
    metadata: dict[str, Any]
    transient: dict[str, Any]
    sequence: int


class DisplayFrame(_Bundle, tag="display"):
    pass


class UpdateFrame(_Bundle, tag="update"):
    pass


class ResultFrame(_Bundle, tag="result"):
    pass


class ClearFrame(msgspec.Struct, tag="clear", tag_field="kind"):
    wait: bool
    sequence: int


class ErrorFrame(msgspec.Struct, tag="error", tag_field="kind"):
    name: str
    value: str
    number: int | None
    space: int | None


class ValueFrame(msgspec.Struct, tag="value", tag_field="kind"):
    name: str
    format: str
    offset: int
    length: int
    details: dict[str, Any]


class RefusedFrame(msgspec.Struct, tag="refused", tag_field="kind"):
    name: str
    type: str
    why: str


class DoneFrame(msgspec.Struct, tag="done", tag_field="kind"):
    status: int


Frame = (
    Turn | DisplayFrame | UpdateFrame | ResultFrame | ClearFrame | ErrorFrame | ValueFrame
    | RefusedFrame | DoneFrame
)  # fmt: skip
BUNDLES = (DisplayFrame, UpdateFrame, ResultFrame)


def portable(data: Mapping[str, Any]) -> dict[str, Any]:
    """A mime bundle as Jupyter sends it: bytes in base64. Nothing is decided here."""
    return {
        mime: base64.b64encode(item).decode("ascii") if isinstance(item, bytes) else item
        for mime, item in data.items()
    }


class BrokenChannel(Exception):
    """What came is no frame; nothing that follows can be understood."""


@functools.cache
def _decoder() -> msgspec.json.Decoder[Frame]:
    return msgspec.json.Decoder(Frame)


class FrameReader:
    """Bytes to frames. `room` says how large a body may be; a larger one is passed over."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._skip = 0
        self.room = 0
        self.dropped = False

    def feed(self, data: bytes) -> Iterator[tuple[Frame, bytes | None]]:
        """The frames that are whole now, each with its body, or None for one passed over."""
        if self._skip:
            passed = min(self._skip, len(data))
            self._skip -= passed
            data = data[passed:]
        self._data += data
        while len(self._data) >= 12:
            size = int.from_bytes(self._data[:4], "little")
            body = int.from_bytes(self._data[4:12], "little")
            if not 2 <= size <= MOST_HEADER:
                raise BrokenChannel
            if len(self._data) < 12 + size:
                return
            try:
                frame = _decoder().decode(self._data[12 : 12 + size])
            except (msgspec.DecodeError, UnicodeError, RecursionError):
                raise BrokenChannel from None
            most = self.room if isinstance(frame, BUNDLES) else MOST_TEXT
            end = 12 + size + body
            if body > most:
                self._skip = max(0, end - len(self._data))
                del self._data[:end]
                yield frame, None
                continue
            if len(self._data) < end:
                return
            content = bytes(self._data[12 + size : end])
            del self._data[:end]
            yield frame, content


def bundle(frame: _Bundle, body: bytes) -> dict[str, Any]:
    """The mime bundle whose parts lie one after another in `body`."""
    data: dict[str, Any] = {}
    at = 0
    if len(frame.parts) > MOST_PARTS:
        raise BrokenChannel
    for mime, length, form in frame.parts:
        if not 0 <= length <= len(body) - at:
            raise BrokenChannel
        part = body[at : at + length]
        at += length
        if form == "text":
            data[mime] = part.decode("utf-8", "replace")
        elif form == "binary":
            data[mime] = part
        else:
            try:
                data[mime] = json.loads(part, parse_constant=lambda word: None)  # NaN is no JSON
            except (ValueError, RecursionError):
                raise BrokenChannel from None
    return data
