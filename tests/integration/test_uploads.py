"""Uploads in chunks: what goes into each request, and how one that broke off goes on.

Source: distribution specification 1.1, "Pushing a blob in chunks". The registry is one of our own
that keeps what comes, and fails as the test says.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hostile_registry import REPOSITORY, Handler, Request, Server, digest, image

from sandbox_kernel.errors import RegistryError
from sandbox_kernel.image import reference
from sandbox_kernel.image.registry import pull, push, pushing
from sandbox_kernel.image.registry.configuration import Configuration
from sandbox_kernel.image.registry.limits import Limits
from sandbox_kernel.image.store import Store, Stored

CHUNK = 1000
QUICK = Configuration(limits=Limits(first_wait=0.01, wait=0.05, tries=3))
BEGIN = f"/v2/{REPOSITORY}/blobs/uploads/"
UPLOAD = f"{BEGIN}one"

Fault = Callable[["Uploads", Handler, bytes], None]


class Uploads:
    """The one upload of a registry that lacks its layer."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.kept = b""
        self.faults: dict[int, Fault] = {}
        """What is done to the first, second ... PATCH instead of keeping it."""
        self.headers: dict[str, dict[str, str]] = {}
        """More headers of the answers to a method."""
        self.state: Callable[[Handler], bool] = lambda handler: False
        """Answers the question how far it is, if it gives True."""
        self.named: list[str] = []
        """Each place where the upload was said to go on."""
        server.answers["HEAD", server.blob] = lambda handler: handler.reply(404)
        server.answers["POST", BEGIN] = lambda handler: self.tell(handler, 202)
        server.answers["PATCH", UPLOAD] = self._patch
        server.answers["GET", UPLOAD] = self._get
        server.answers["PUT", UPLOAD] = self._put
        manifest = f"/v2/{REPOSITORY}/manifests/1"
        server.answers["PUT", manifest] = lambda handler: handler.reply(201)

    def tell(self, handler: Handler, status: int) -> None:
        """An answer with another place each time, and how much is here."""
        self.named.append(f"{UPLOAD}?state={len(self.named)}")
        held = {"Location": self.named[-1], "Range": f"0-{max(len(self.kept) - 1, 0)}"}
        handler.reply(status, b"", {**held, **self.headers.get(handler.command, {})})

    def patches(self) -> list[Request]:
        return self.server.seen("PATCH", UPLOAD)

    def ranges(self) -> list[str]:
        return [request.headers["Content-Range"] for request in self.patches()]

    def _patch(self, handler: Handler) -> None:
        patches = self.patches()
        fault = self.faults.get(len(patches))
        if fault is not None:
            fault(self, handler, patches[-1].body)
        elif not patches[-1].headers["Content-Range"].startswith(f"{len(self.kept)}-"):
            self.tell(handler, 416)
        else:
            self.kept += patches[-1].body
            self.tell(handler, 202)

    def _get(self, handler: Handler) -> None:
        if not self.state(handler):
            self.tell(handler, 204)

    def _put(self, handler: Handler) -> None:
        handler.reply(201 if handler.path.endswith(digest(self.kept).partition(":")[2]) else 400)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(image({"large": os.urandom(4500)})) as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "images"))


@pytest.fixture
def uploads(
    server: Server, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Uploads:
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "no-credentials"))
    monkeypatch.setattr(pushing, "CHUNK", CHUNK)
    pull(store, reference.registry(server.name), configuration=QUICK)
    server.requests.clear()
    return Uploads(server)


def pushed(store: Store, server: Server) -> None:
    stored: Stored = store.find(server.name)
    push(store, stored, reference.registry(server.name), configuration=QUICK)


def chunks(size: int, *, begin: int = 0, chunk: int = CHUNK) -> list[str]:
    """What `Content-Range` has to say of the chunks of the bytes from `begin` on."""
    return [f"{at}-{min(at + chunk, size) - 1}" for at in range(begin, size, chunk)]


def test_each_chunk_begins_where_the_one_before_ended(
    uploads: Uploads, store: Store, server: Server
) -> None:
    blob = server.image.layers[0]
    pushed(store, server)
    assert uploads.kept == blob
    assert uploads.ranges() == chunks(len(blob))
    for request in uploads.patches():
        first, last = map(int, request.headers["Content-Range"].split("-"))
        assert int(request.headers["Content-Length"]) == last + 1 - first == len(request.body)
    # Each goes where the answer before it says; so does the end, which has the digest of the whole.
    (end,) = server.seen("PUT", UPLOAD)
    assert [request.path for request in uploads.patches()] == uploads.named[:-1]
    assert end.path == f"{uploads.named[-1]}&digest={digest(blob).replace(':', '%3A')}"
    assert server.seen("GET", UPLOAD) == []
    assert [request.method for request in server.requests[-2:]] == ["PUT", "PUT"]  # and its name


def _break_off(count: int) -> Fault:
    def fault(uploads: Uploads, handler: Handler, body: bytes) -> None:
        uploads.kept += body[:count]
        handler.close_connection = True

    return fault


def _answer(status: int, count: int) -> Fault:
    def fault(uploads: Uploads, handler: Handler, body: bytes) -> None:
        uploads.kept += body[:count]
        handler.reply(status, b"", {"Range": f"0-{len(uploads.kept) - 1}"})

    return fault


def _forget(uploads: Uploads, handler: Handler, body: bytes) -> None:
    uploads.kept = b""
    handler.close_connection = True


BREAKS: dict[str, tuple[int, Fault, int]] = {
    # name: which PATCH, what is done to it, how many bytes are there then
    "no answer, half of it kept": (2, _break_off(CHUNK // 2), CHUNK + CHUNK // 2),
    "no answer, nothing kept": (2, _break_off(0), CHUNK),
    "no answer, all of it kept": (2, _break_off(CHUNK), 2 * CHUNK),
    "no answer to the first": (1, _break_off(0), 0),
    "range not satisfiable": (2, _answer(416, 300), CHUNK + 300),
    "busy": (3, _answer(503, 0), 2 * CHUNK),
    "all forgotten": (3, _forget, 0),
}


@pytest.mark.fault(14)
@pytest.mark.parametrize("name", BREAKS)
def test_after_a_break_it_goes_on_where_the_registry_says(
    uploads: Uploads, store: Store, server: Server, name: str
) -> None:
    number, fault, there = BREAKS[name]
    blob = server.image.layers[0]
    uploads.faults[number] = fault
    pushed(store, server)
    assert uploads.kept == blob
    assert uploads.ranges() == chunks(len(blob))[:number] + chunks(len(blob), begin=there)
    (asked,) = server.seen("GET", UPLOAD)
    # The place is that of the last answer that came, and the next chunk goes where this one says.
    at = uploads.named.index(asked.path)
    assert uploads.patches()[number].path == uploads.named[at + 1]


@pytest.mark.fault(14)
def test_a_registry_that_is_still_busy_is_asked_again_how_far_it_is(
    uploads: Uploads, store: Store, server: Server
) -> None:
    uploads.faults[2] = _break_off(0)

    def busy_once(handler: Handler) -> bool:
        if len(server.seen("GET", UPLOAD)) > 1:
            return False
        handler.reply(503)
        return True

    uploads.state = busy_once
    pushed(store, server)
    assert uploads.kept == server.image.layers[0]
    assert len(server.seen("GET", UPLOAD)) == 2


@pytest.mark.parametrize(
    ("method", "said", "chunk"),
    [
        ("POST", "2500", 2500), ("PATCH", "2500", 2500), ("POST", "10", CHUNK),
        ("POST", "9" * 30, 1 << 30), ("POST", "-2500", CHUNK),
    ],
)  # fmt: skip
def test_no_chunk_but_the_last_is_shorter_than_the_registry_says(
    uploads: Uploads, store: Store, server: Server, method: str, said: str, chunk: int
) -> None:
    uploads.headers[method] = {"OCI-Chunk-Min-Length": said}
    blob = server.image.layers[0]
    pushed(store, server)
    assert uploads.kept == blob
    # Who says it only in the answer to the first chunk gets the others so.
    first = chunks(len(blob))[:1] if method == "PATCH" else []
    rest = chunks(len(blob), begin=CHUNK if first else 0, chunk=chunk)
    assert uploads.ranges() == first + rest


def test_a_registry_that_never_takes_a_chunk_is_told_of(
    uploads: Uploads, store: Store, server: Server
) -> None:
    uploads.faults = dict.fromkeys(range(2, 20), _answer(503, 0))
    with pytest.raises(RegistryError, match=rf"push layer {digest(server.image.layers[0])}.*503"):
        pushed(store, server)
    assert len(uploads.patches()) == 1 + QUICK.limits.tries
    assert server.seen("PUT", f"/v2/{REPOSITORY}/manifests/1") == []


def test_61_a_registry_that_forgets_again_and_again_does_not_keep_us_for_ever(
    uploads: Uploads, store: Store, server: Server
) -> None:
    uploads.faults = dict.fromkeys(range(3, 200, 3), _forget)
    with pytest.raises(RegistryError, match="push layer"):
        pushed(store, server)
    assert len(uploads.patches()) == 3 * QUICK.limits.tries


def test_an_upload_that_is_gone_is_told_of_at_once(
    uploads: Uploads, store: Store, server: Server
) -> None:
    uploads.faults[2] = _answer(404, 0)
    with pytest.raises(RegistryError, match="answer 404"):
        pushed(store, server)
    assert len(uploads.patches()) == 2
    assert server.seen("GET", UPLOAD) == []


def test_61_a_registry_that_has_more_than_was_sent_is_told_of(
    uploads: Uploads, store: Store, server: Server
) -> None:
    uploads.faults[2] = _break_off(0)
    uploads.headers["GET"] = {"Range": "0-999999"}
    with pytest.raises(RegistryError, match="it has 1000000 bytes of it"):
        pushed(store, server)
    assert server.seen("PUT", UPLOAD) == []
