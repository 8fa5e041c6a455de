"""Jupyter messages on the wire: identities, delimiter, signature, four dictionaries, buffers.

Headers are decoded, contents stay the bytes that they are. Nothing here sends or decides.
"""

from __future__ import annotations

import hmac
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import msgspec

from sandbox_kernel.errors import BadMessage

from .zmtp import Buffer, Digest

DELIMITER = b"<IDS|MSG>"
EMPTY = b"{}"
MOST_IDENTITIES = 8
MOST_FRAMES = 1024
MOST_HEADER = 64 << 10
MOST_METADATA = 4 << 20
REMEMBERED_SIGNATURES = 16384
SMALL = 64 << 10

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
    """A checked message. `content` is one JSON object; `found` is what was looked for inside."""

    identities: Sequence[bytes]
    header: Header
    parent: Parent
    raw_header: bytes
    raw_parent: bytes
    metadata: bytes
    content: Buffer
    buffers: Sequence[Buffer]
    found: Any = None

    @property
    def size(self) -> int:
        """Bytes of what the code wrote: content and buffers."""
        return len(self.content) + sum(map(len, self.buffers))


_header = msgspec.json.Decoder(Header)
_parent = msgspec.json.Decoder(Parent)
_skip = msgspec.json.Decoder(msgspec.Raw)


class Signer:
    """Signs and checks with one key. Raises BadMessage for a scheme that is not known."""

    def __init__(self, key: bytes, scheme: str = "hmac-sha256") -> None:
        kind, _, self._digest = scheme.partition("-")
        self._key = key
        try:
            self._fresh = hmac.new(key, digestmod=self._digest)
        except ValueError:
            kind = ""
        if kind != "hmac":
            raise BadMessage("signature scheme", scheme, "not known: use hmac-sha256")

    def begin(self, signed: Sequence[Buffer]) -> Digest:
        """The signature over the first of the dictionaries, to be fed with the rest."""
        signature = self._fresh.copy()
        for frame in signed:
            signature.update(frame)
        return signature

    def sign(self, signed: Sequence[Buffer]) -> bytes:
        """The signature over the four dictionaries; buffers are never signed."""
        if sum(map(len, signed)) < SMALL:
            return hmac.digest(self._key, b"".join(signed), self._digest).hex().encode()
        return self.begin(signed).hexdigest().encode()


class Reader:
    """Turns frames into messages. With `replays`, a signature that was seen is refused.

    `shapes`: the types whose contents are decoded here, in the one pass that large ones can afford.
    """

    def __init__(
        self,
        signer: Signer,
        *,
        replays: bool,
        shapes: Mapping[str, msgspec.json.Decoder[Any]] | None = None,
    ) -> None:
        self._signer = signer
        self._shapes = shapes or {}
        self._seen: set[bytes] | None = set() if replays else None
        self._order: deque[bytes] = deque()

    def begin_digest(self, frames: Sequence[Buffer]) -> Digest | None:
        """To be fed with the next frame if that is the content of a message, for `read`."""
        for number, frame in enumerate(frames[: MOST_IDENTITIES + 1]):
            if len(frame) == len(DELIMITER) and frame == DELIMITER:
                signed = frames[number + 2 :]
                return self._signer.begin(signed) if len(signed) == 3 else None
        return None

    def read(self, frames: Sequence[Buffer], digest: Digest | None = None) -> Message:
        """Raises BadMessage for anything that is not one well-formed, signed message.

        `digest`: from `begin_digest`, fed with the content.
        """
        if len(frames) > MOST_FRAMES:
            raise BadMessage("read", "message", f"more than {MOST_FRAMES} frames")
        identities = []
        for frame in frames[: MOST_IDENTITIES + 1]:
            if len(frame) == len(DELIMITER) and frame == DELIMITER:
                break
            identities.append(bytes(frame[:256]))
        else:
            raise BadMessage("read", "message", "no delimiter")
        rest = frames[len(identities) + 1 :]
        if len(rest) < 5:
            raise BadMessage("read", "message", "too few frames")
        signature, header, parent, metadata, content = rest[:5]
        if len(header) + len(parent) > MOST_HEADER or len(metadata) > MOST_METADATA:
            raise BadMessage("read", "message", f"a header of more than {MOST_HEADER} bytes")
        right = self._signer.sign(rest[1:5]) if digest is None else digest.hexdigest().encode()
        self._check(bytes(signature[:256]), right)
        try:
            known = _header.decode(header)
            shape = self._shapes.get(known.msg_type)
            found = shape.decode(content) if shape else None
            # A structure is an object already.
            for frame in (metadata,) if shape else (metadata, content):
                _object(frame)
            message = Message(
                identities,
                known,
                _parent.decode(parent),
                bytes(header),
                bytes(parent),
                bytes(metadata),
                content,
                rest[5:],
                found,
            )
        except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
            raise BadMessage("read", "message", str(error)) from None
        return message

    def _check(self, signature: bytes, right: bytes) -> None:
        if not hmac.compare_digest(signature, right):
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
    start = bytes(frame[:64])
    if start[:1] != b"{" and not start.lstrip(b" \t\r\n").startswith(b"{"):
        raise msgspec.DecodeError("a JSON object was expected")


def frames(
    signer: Signer,
    header: bytes,
    parent: bytes,
    metadata: bytes,
    content: Buffer,
    *buffers: Buffer,
) -> list[Buffer]:
    """The frames of a message, signed, without identities."""
    signature = signer.sign((header, parent, metadata, content))
    return [DELIMITER, signature, header, parent, metadata, content, *buffers]
