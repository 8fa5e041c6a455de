"""Jupyter messages on the wire: identities, delimiter, signature, four dictionaries, buffers.

Headers are decoded, contents stay the bytes that they are. Nothing here sends or decides.
"""

from __future__ import annotations

import hmac
from collections import deque
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import msgspec

from sandbox_kernel.errors import BadMessage

Buffer = bytes | bytearray | memoryview

DELIMITER = b"<IDS|MSG>"
EMPTY = b"{}"
MOST_IDENTITIES = 8
MOST_FRAMES = 1024
MOST_HEADER = 64 << 10
MOST_METADATA = 4 << 20
REMEMBERED_SIGNATURES = 16384

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class Header(msgspec.Struct):
    """What is read of a header; what else stands in it is passed on as it came."""

    msg_id: Name
    msg_type: Name
    subshell_id: Annotated[str, msgspec.Meta(max_length=256)] | None = None


class Parent(msgspec.Struct):
    """What is read of a parent header, which may be empty."""

    msg_id: Annotated[str, msgspec.Meta(max_length=256)] = ""


class Message(NamedTuple):
    """A checked message. `content` is one JSON object, syntactically; nobody has looked inside."""

    identities: Sequence[bytes]
    header: Header
    parent: Parent
    raw_header: bytes
    raw_parent: bytes
    metadata: bytes
    content: Buffer
    buffers: Sequence[Buffer]

    @property
    def size(self) -> int:
        """Bytes of what the code wrote: content and buffers."""
        return memoryview(self.content).nbytes + sum(memoryview(b).nbytes for b in self.buffers)


_header = msgspec.json.Decoder(Header)
_parent = msgspec.json.Decoder(Parent)
_skip = msgspec.json.Decoder(msgspec.Raw)


class Signer:
    """Signs and checks with one key. Raises BadMessage for a scheme that is not known."""

    def __init__(self, key: bytes, scheme: str = "hmac-sha256") -> None:
        kind, _, digest = scheme.partition("-")
        try:
            self._fresh = hmac.new(key, digestmod=digest)
        except ValueError:
            kind = ""
        if kind != "hmac":
            raise BadMessage("signature scheme", scheme, "not known: use hmac-sha256")

    def sign(self, frames: Sequence[Buffer]) -> bytes:
        """The signature over the four dictionaries; buffers are never signed."""
        signature = self._fresh.copy()
        for frame in frames:
            signature.update(frame)
        return signature.hexdigest().encode()


class Reader:
    """Turns frames into messages. With `replays`, a signature that was seen is refused."""

    def __init__(self, signer: Signer, *, replays: bool) -> None:
        self._signer = signer
        self._seen: set[bytes] | None = set() if replays else None
        self._order: deque[bytes] = deque()

    def read(self, frames: Sequence[Buffer]) -> Message:
        """Raises BadMessage for anything that is not one well-formed, signed message."""
        if len(frames) > MOST_FRAMES:
            raise BadMessage("read", "message", f"more than {MOST_FRAMES} frames")
        identities = []
        for frame in frames[: MOST_IDENTITIES + 1]:
            if len(memoryview(frame)) == len(DELIMITER) and bytes(frame) == DELIMITER:
                break
            identities.append(bytes(memoryview(frame)[:256]))
        else:
            raise BadMessage("read", "message", "no delimiter")
        rest = frames[len(identities) + 1 :]
        if len(rest) < 5:
            raise BadMessage("read", "message", "too few frames")
        signature, header, parent, metadata = (memoryview(frame) for frame in rest[:4])
        content = rest[4]
        for frame, most in ((header, MOST_HEADER), (parent, MOST_HEADER), (metadata, MOST_METADATA)):
            if frame.nbytes > most:
                raise BadMessage("read", "message", f"a header of more than {most} bytes")
        self._check(bytes(signature[:256]), rest[1:5])
        try:
            message = Message(
                identities,
                _header.decode(header),
                _parent.decode(parent),
                bytes(header),
                bytes(parent),
                bytes(metadata),
                content,
                rest[5:],
            )
            for frame in (header, parent, metadata, content):
                _object(frame)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise BadMessage("read", "message", str(error)) from None
        return message

    def _check(self, signature: bytes, signed: Sequence[Buffer]) -> None:
        if not hmac.compare_digest(signature, self._signer.sign(signed)):
            raise BadMessage("read", "message", "the signature is wrong")
        if self._seen is None:
            return
        if signature in self._seen:
            raise BadMessage("read", "message", "the signature was seen before")
        self._seen.add(signature)
        self._order.append(signature)
        if len(self._order) > REMEMBERED_SIGNATURES:
            self._seen.discard(self._order.popleft())


def _object(frame: Buffer) -> None:
    """Raises unless the bytes are one JSON object: msgspec bounds the depth and builds nothing."""
    _skip.decode(frame)
    start = bytes(memoryview(frame)[:64]).lstrip(b" \t\r\n")
    if not start.startswith(b"{"):
        raise msgspec.DecodeError("a JSON object was expected")


def frames(
    signer: Signer,
    header: bytes,
    parent: bytes,
    metadata: bytes,
    content: Buffer,
    buffers: Sequence[Buffer] = (),
) -> list[Buffer]:
    """The frames of a message, signed, without identities."""
    signature = signer.sign((header, parent, metadata, content))
    return [DELIMITER, signature, header, parent, metadata, content, *buffers]
