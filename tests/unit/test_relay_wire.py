"""Promises about frames: only well-formed, signed, new messages are read, at bounded cost."""

from __future__ import annotations

import socket

import pytest

from sandbox_kernel.errors import BadMessage
from sandbox_kernel.kernel import wire, zmtp

KEY = b"a key"
HEADER = b'{"msg_id": "1", "msg_type": "execute_request", "date": {"not": "a date"}}'


def signed(
    *, header: bytes = HEADER, parent: bytes = b"{}", content: bytes = b"{}", key: bytes = KEY
) -> list[zmtp.Buffer]:
    return [b"client", *wire.frames(wire.Signer(key), header, parent, b"{}", content)]


def reader(*, replays: bool = True) -> wire.Reader:
    return wire.Reader(wire.Signer(KEY), replays=replays)


def test_a_signed_message_is_read() -> None:
    message = reader().read(signed(content=b'{"code": "1"}'))

    assert message.identities == [b"client"]
    assert message.header.msg_type == "execute_request"
    assert message.content == b'{"code": "1"}'


def _without_signature() -> list[zmtp.Buffer]:
    frames = signed()
    frames[2] = b""
    return frames


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b""],
        [b"x"] * 100_000,
        [b"client", b"1", b"2", b"3", b"4", b"5"],
        signed()[:5],
        signed(key=b"another key"),
        _without_signature(),
        signed(header=b"{}"),
        signed(header=b"[]"),
        signed(header=b'{"msg_id": 1, "msg_type": "x"}'),
        signed(header=b'{"msg_id": "1", "msg_type": "' + b"x" * 1000 + b'"}'),
        signed(header=b" " * 100_000 + HEADER),
        signed(content=b"not JSON"),
        signed(content=b"[1]"),
        signed(content=b'{"a": ' + b"[" * 100_000),
        signed(content=b'{"a": "\\ud8"}'),
        signed(content=b""),
        [*signed(), *([b""] * 2000)],
    ],
)
def test_70_71_frames_that_are_not_one_signed_message_are_refused(
    frames: list[zmtp.Buffer],
) -> None:
    with pytest.raises(BadMessage):
        reader().read(frames)


def test_71_a_replayed_signature_is_refused_and_the_memory_of_them_is_bounded() -> None:
    one = reader()
    frames = signed()
    one.read(frames)

    with pytest.raises(BadMessage):
        one.read(frames)
    for number in range(wire.REMEMBERED_SIGNATURES + 10):
        one.read(signed(header=b'{"msg_id": "%d", "msg_type": "x"}' % number))
    assert len(one._order) <= wire.REMEMBERED_SIGNATURES


def test_large_and_small_messages_have_the_same_signature() -> None:
    content = b'{"a": "' + b"x" * (2 * wire.SMALL) + b'"}'
    assert reader().read(signed(content=content)).content == content


def linked(budget: int = 1 << 20) -> tuple[zmtp.Link, socket.socket]:
    ours, theirs = socket.socketpair()
    link = zmtp.Link(ours, "DEALER", identity=b"me", budget=budget)
    link.flush()
    theirs.settimeout(5)
    theirs.sendall(zmtp.GREETING)
    link.read()
    assert theirs.recv(64) == zmtp.GREETING
    assert b"READY" in theirs.recv(4096)
    theirs.sendall(b"\x04\x06\x05READY")
    link.read()
    return link, theirs


def test_messages_cross_in_both_directions() -> None:
    link, theirs = linked()
    link.send([b"a", b"b" * 300])
    assert theirs.recv(4096) == b"\x01\x01a\x02" + (300).to_bytes(8, "big") + b"b" * 300

    for byte in b"\x01\x01a\x00\x02bc":
        theirs.sendall(bytes((byte,)))
        found = link.read()
    assert [bytes(frame) for frame in found[0].frames] == [b"a", b"bc"]
    assert not found[0].cut


def test_70_a_message_over_the_budget_is_skipped_and_the_next_one_read() -> None:
    link, theirs = linked(budget=1000)
    theirs.sendall(b"\x01\x04head\x02" + (50_000).to_bytes(8, "big") + bytes(50_000))
    theirs.sendall(b"\x00\x04next")

    cut, following = link.read()
    assert cut.cut
    assert [bytes(frame) for frame in cut.frames] == [b"head"]
    assert cut.size == 50_004
    assert bytes(following.frames[0]) == b"next"


def test_70_an_endless_message_takes_no_memory() -> None:
    link, theirs = linked(budget=1000)
    for _ in range(200):
        theirs.sendall(b"\x01\x00" * 1000)
        assert link.read() == []
    assert len(link._frames) <= zmtp.MOST_FRAMES


def test_70_a_claim_of_a_huge_frame_takes_no_memory() -> None:
    link, theirs = linked(budget=1000)
    theirs.sendall(b"\x02" + (1 << 60).to_bytes(8, "big") + b"x")

    assert link.read() == []
    assert link._body is None


def test_a_peer_that_does_not_speak_zmtp_is_refused() -> None:
    ours, theirs = socket.socketpair()
    link = zmtp.Link(ours, "SUB", budget=1000)
    theirs.sendall(b"GET / HTTP/1.1\r\n" * 8)
    with pytest.raises(BadMessage):
        link.read()


def sent_in_pieces(link: zmtp.Link, theirs: socket.socket, frames: list[zmtp.Buffer]) -> list:
    """What the link reads of frames that come bit by bit."""
    found = []
    for number, frame in enumerate(frames):
        more = zmtp.MORE if number < len(frames) - 1 else 0
        head = bytes((more | zmtp.LONG,)) + len(frame).to_bytes(8, "big")
        data = memoryview(head + frame)
        while data:
            theirs.sendall(data[: 1 << 17])
            data = data[1 << 17 :]
            found += link.read()
    return found


@pytest.mark.parametrize("huge", ["content", "buffer", "metadata"])
def test_a_huge_message_is_hashed_while_it_comes_and_a_forged_one_is_refused(huge: str) -> None:
    sizes = dict.fromkeys(("metadata", "content", "buffer"), 10) | {huge: zmtp.HUGE + 5}
    if huge == "metadata":
        sizes["metadata"] = wire.MOST_METADATA - 20  # as much as a message may have
    texts = {name: b'{"a": "' + b"x" * size + b'"}' for name, size in sizes.items()}
    made = wire.frames(
        wire.Signer(KEY), HEADER, b"{}", texts["metadata"], texts["content"], texts["buffer"]
    )
    one = reader(replays=False)
    link, theirs = linked(budget=64 << 20)
    link.begin_digest = one.begin_digest

    (received,) = sent_in_pieces(link, theirs, [b"client", *made])
    assert (received.digest is not None) == (huge == "content")
    message = one.read(received.frames, received.digest)
    assert bytes(message.content) == texts["content"]

    forged = list(made)
    forged[5] = texts["content"].replace(b"x", b"y", 1)
    (received,) = sent_in_pieces(link, theirs, [b"client", *forged])
    with pytest.raises(BadMessage, match="signature"):
        one.read(received.frames, received.digest)
