"""Corpus group D: registries that lie, stall, lead elsewhere, or ask for what is not theirs.

Each test has the number of its entry in corpus D, or in the table of flaws (row 26) and corpus C
(56). The registry is one of our own that does what the test says (`hostile_registry.py`). After
each attack the store must hold nothing of it, and the same pull must work when it behaves again.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import hostile_registry
import pytest
from hostile_registry import REPOSITORY, Handler, Server, credentials, digest, image
from registries import Certificates, certificates

from sandbox_kernel.errors import ImageError, RegistryError
from sandbox_kernel.image import reference
from sandbox_kernel.image.registry import listing, pull, push
from sandbox_kernel.image.registry.configuration import Configuration
from sandbox_kernel.image.registry.limits import Limits
from sandbox_kernel.image.store import Store, Stored

QUICK = Limits(
    connect=2.0, headers=0.8, whole=0.8, silence=0.3, rate_seconds=0.3, first_wait=0.01, wait=0.2,
    tries=2, answer=64 << 10, pages=5,
)  # fmt: skip
PLAIN = Configuration(limits=QUICK)
PATIENT = Configuration(limits=replace(QUICK, tries=3))
SECRET = "me:the-password"
PUBLIC, OTHER, PRIVATE = "93.184.216.34", "93.184.216.35", "10.9.8.7"
MANIFEST_PATH = f"/v2/{REPOSITORY}/manifests/1"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "images"))


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture(autouse=True)
def _no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of whoever runs the tests are not for us."""
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "no-credentials"))


def pulled(
    store: Store, server: Server, name: str | None = None, settings: Configuration = PLAIN
) -> Stored:
    return pull(store, reference.registry(name or server.name), configuration=settings)


def refused(
    store: Store,
    server: Server,
    *said: str,
    name: str | None = None,
    settings: Configuration = PLAIN,
    within: float = 10.0,
) -> str:
    """A pull fails in time, says why, and leaves nothing. Then all is well again, and it works."""
    begun = time.monotonic()
    with pytest.raises(ImageError) as problem:
        pulled(store, server, name, settings)
    assert time.monotonic() - begun < within
    text = str(problem.value)
    assert "\n" not in text
    for words in said:
        assert words in text
    assert store.images() == []
    assert os.listdir(f"{store.root}/layers") == []
    assert digest(server.image.manifest) not in os.listdir(f"{store.root}/blobs/sha256")
    return text


def works_again(store: Store, server: Server, settings: Configuration = PLAIN) -> None:
    """The registry behaves, and the pull works; what it left is whole."""
    server.answers.clear()
    found = pulled(store, server, settings=settings)
    for diff_id in found.diff_ids:
        assert store.layer(diff_id)
    for blob in server.image.layers:
        assert store.read(digest(blob), 1 << 20) == blob
    assert store.find(server.name).digest == digest(server.image.manifest)


# -- 57 ------------------------------------------------------------------------------------------


@pytest.mark.everybody
@pytest.mark.cve("CVE-2014-8178", "CVE-2014-8179")
def test_57_right_length_wrong_bytes(store: Store, server: Server) -> None:
    blob = server.image.layers[0]
    wrong = blob[:-9] + bytes(9 * [0])
    server.answers["GET", server.blob] = lambda handler: handler.reply(200, wrong)
    refused(store, server, digest(blob), "digest")
    assert store.partial(digest(blob)) is None
    works_again(store, server)


def test_57_wrong_bytes_at_the_very_front_are_told_of_as_a_wrong_digest(
    store: Store, server: Server
) -> None:
    blob = server.image.layers[0]
    server.answers["GET", server.blob] = lambda handler: handler.reply(200, bytes(len(blob)))
    refused(store, server, digest(blob), "has the digest")
    works_again(store, server)


@pytest.mark.everybody
def test_57_a_resumed_layer_that_began_otherwise(store: Store, server: Server) -> None:
    blob = server.image.layers[0]

    def break_off(handler: Handler) -> None:
        handler.close_connection = True
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(blob)))
        handler.end_headers()
        handler.wfile.write(b"x" * 50)

    server.answers["GET", server.blob] = break_off
    refused(store, server, digest(blob), "received 50 bytes")
    assert store.partial(digest(blob)).size == 50  # type: ignore[union-attr]
    del server.answers["GET", server.blob]
    refused(store, server, digest(blob), "digest")
    assert server.requests[-1].headers["Range"] == "bytes=50-"
    assert store.partial(digest(blob)) is None
    works_again(store, server)


def test_57_a_range_that_is_ignored_is_no_harm(store: Store, server: Server) -> None:
    blob = server.image.layers[0]
    times = []

    def whole_each_time(handler: Handler) -> None:
        times.append(handler.headers.get("Range"))
        handler.close_connection = len(times) < 3
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(blob)))
        handler.end_headers()
        handler.wfile.write(blob[: 40 * len(times)] if len(times) < 3 else blob)

    server.answers["GET", server.blob] = whole_each_time
    pulled(store, server, settings=PATIENT)
    assert times == [None, "bytes=40-", "bytes=80-"]
    assert store.read(digest(blob), 1 << 20) == blob


def test_57_another_part_than_was_asked_for(store: Store, server: Server) -> None:
    blob = server.image.layers[0]

    def other_part(handler: Handler) -> None:
        if handler.headers.get("Range") is None:
            handler.close_connection = True
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(blob)))
            handler.end_headers()
            handler.wfile.write(blob[:30])
        else:
            part = {"Content-Range": f"bytes 20-{len(blob) - 1}/{len(blob)}"}
            handler.reply(206, blob[20:], part)

    server.answers["GET", server.blob] = other_part
    refused(store, server, digest(blob), "another part")
    works_again(store, server)


@pytest.mark.parametrize("size", [-1, 1])
def test_57_a_layer_of_another_size_than_its_description(
    store: Store, server: Server, size: int
) -> None:
    blob = server.image.layers[0]
    other = blob[:-1] if size < 0 else blob + b"x"
    server.answers["GET", server.blob] = lambda handler: handler.reply(200, other)
    refused(store, server, digest(blob), f"{len(blob)} by its description")
    works_again(store, server)


def test_57_a_manifest_of_another_digest(store: Store, server: Server) -> None:
    asked = digest(image({"another": b""}).manifest)
    name = f"{server.authority}/{REPOSITORY}@{asked}"
    path = f"/v2/{REPOSITORY}/manifests/{asked}"
    headers = {"Content-Type": hostile_registry.MANIFEST, "Docker-Content-Digest": asked}
    server.answers["GET", path] = lambda handler: handler.reply(200, server.image.manifest, headers)
    refused(store, server, "has the digest", name=name)
    works_again(store, server)


# -- 58 ------------------------------------------------------------------------------------------


def _head(handler: Handler, *lines: bytes) -> None:
    handler.close_connection = True
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"".join(line + b"\r\n" for line in lines))


def _endless_body(handler: Handler) -> None:
    _head(handler, b"Transfer-Encoding: chunked", b"")
    while True:
        handler.wfile.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")


def _slow_body(handler: Handler) -> None:
    _head(handler, b"Content-Length: 400", b"")
    while True:
        handler.wfile.write(b"x")
        time.sleep(0.1)


def _silent_body(handler: Handler) -> None:
    _head(handler, b"Content-Length: 400", b"")
    handler.wfile.write(b"x")
    handler.server.owner.ended.wait(3)


def _endless_headers(handler: Handler) -> None:
    _head(handler)
    while True:
        handler.wfile.write(b"X-More: " + bytes(99 * b"x") + b"\r\n")


def _slow_headers(handler: Handler) -> None:
    _head(handler)
    while True:
        handler.wfile.write(b"X: 1\r\n")
        time.sleep(0.1)


def _huge_header(handler: Handler) -> None:
    _head(handler, b"X-Huge: " + bytes((1 << 20) * b"x"), b"")


def _garbage_in_chunks(handler: Handler) -> None:
    _head(handler, b"Transfer-Encoding: chunked", b"", b"zz\r\nnothing\r\n", b"-5", b"")


ENDLESS = (
    _endless_body, _slow_body, _silent_body, _endless_headers, _slow_headers, _huge_header,
    _garbage_in_chunks,
)  # fmt: skip


@pytest.mark.parametrize("what", ["manifest", "layer"])
def test_58_what_never_ends_ends(store: Store, server: Server, what: str) -> None:
    path = MANIFEST_PATH if what == "manifest" else server.blob
    for attack in ENDLESS:
        server.answers["GET", path] = attack
        refused(store, server, within=5.0)
    works_again(store, server)


def test_what_is_no_image_is_told_of(store: Store) -> None:
    def artifact(manifest: dict[str, object]) -> None:
        config = manifest["config"]
        assert isinstance(config, dict)
        config["mediaType"] = "application/x.signature"

    with Server(image(change=artifact)) as server:
        refused(store, server, "no image but an artifact, of type `application/x.signature`")


def test_58_a_manifest_larger_than_any(store: Store, server: Server) -> None:
    big = bytes((5 << 20) * b" ")
    headers = {"Content-Type": hostile_registry.MANIFEST}
    server.answers["GET", MANIFEST_PATH] = lambda handler: handler.reply(200, big, headers)
    refused(store, server, "larger than")
    works_again(store, server)


@pytest.mark.fault(14)
@pytest.mark.fault(26)
@pytest.mark.everybody
def test_58_interrupted_it_answers_at_once(store: Store, server: Server) -> None:
    """As Ctrl-C does: what waits for a silent registry ends within a second."""
    from sandbox_kernel.image.registry import connections

    reached = threading.Event()

    def silent(handler: Handler) -> None:
        _head(handler, b"Content-Length: 400", b"")
        reached.set()
        server.ended.wait(3)

    server.answers["GET", server.blob] = silent
    patient = Configuration(limits=replace(QUICK, silence=30, rate_seconds=30))
    made: list[connections.Cancellation] = []
    begin = connections.Cancellation.__init__

    def remember(self: connections.Cancellation) -> None:
        begin(self)
        made.append(self)

    ended: list[float] = []

    def run() -> None:
        with pytest.raises(Exception):  # noqa: B017 - which one is not the matter here
            pulled(store, server, settings=patient)
        ended.append(time.monotonic())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connections.Cancellation, "__init__", remember)
        pulling = threading.Thread(target=run)
        pulling.start()
        assert reached.wait(5)
        asked = time.monotonic()
        made[0].cancel()
        pulling.join(5)
    assert ended
    assert ended[0] - asked < 1.0
    works_again(store, server)


# -- 59, and row 26: where a registry leads -------------------------------------------------------


def test_59_redirected_in_a_circle(store: Store, server: Server) -> None:
    turn = {"Location": server.blob}
    server.answers["GET", server.blob] = lambda handler: handler.reply(307, b"", turn)
    refused(store, server, "redirected more than 5 times")
    works_again(store, server)


NEAR = (
    "file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://localhost",
    "http://127.0.0.1:{port}/x", "https://127.0.0.1:{port}/x", "https://localhost:{port}/x",
    "http://[::1]:{port}/x", "http://0.0.0.0:{port}/x", "https://[::ffff:127.0.0.1]:{port}/x",
    "http://169.254.169.254/latest", "https://169.254.169.254/latest", "https://[fe80::1]/x",
    "https://me:word@127.0.0.1:{port}/x", "https://[::]:{port}/x", "https://2130706433:{port}/x",
    "https://0x7f.1:{port}/x",
)  # fmt: skip


def test_59_redirected_to_this_machine_or_its_link(store: Store, server: Server) -> None:
    with Server() as recorder:
        for target in NEAR:
            location = {"Location": target.format(port=recorder.port)}
            server.answers["GET", server.blob] = lambda handler, to=location: handler.reply(
                302, b"", to
            )
            refused(store, server, "follow the registry")
            assert recorder.requests == [], target
    works_again(store, server)


@pytest.mark.root
@pytest.mark.cve("CVE-2020-15157")
def test_59_row_26_a_redirect_is_followed_without_credentials(store: Store, tmp_path: Path) -> None:
    """What a good registry does, to a store of blobs elsewhere; but not to where it is nearer."""
    made = certificates(tmp_path / "tls", names=f"DNS:registry.test,DNS:blobs.test,IP:{OTHER}")
    settings = replace(PLAIN, ca_files=(str(made.ca),))

    def scenario() -> None:
        with (
            Server(address=PUBLIC, tls=made) as server,
            Server(server.image, address=OTHER, tls=made) as blobs,
            Server(server.image, address=PRIVATE, tls=made) as inner,
            credentials(tmp_path, **{f"registry.test:{server.port}": SECRET}),
        ):
            name = f"registry.test:{server.port}/{REPOSITORY}:1"
            _ask_for_password(server)
            for target, says in (
                (f"https://inner.test:{inner.port}/x", "private net"),
                (f"http://blobs.test:{blobs.port}/x", "plain http"),
                (f"https://here.test:{blobs.port}/x", "this machine"),
            ):
                location = {"Location": target}
                server.answers["GET", server.blob] = lambda handler, to=location: handler.reply(
                    307, b"", to
                )
                refused(store, server, says, name=name, settings=settings)
            assert inner.requests == []
            # away and back: another host must not choose what is asked for in our name
            away = {"Location": f"https://blobs.test:{blobs.port}/back"}
            back = {"Location": f"https://registry.test:{server.port}/chosen"}
            server.answers["GET", server.blob] = lambda handler: handler.reply(307, b"", away)
            blobs.answers["GET", "/back"] = lambda handler: handler.reply(307, b"", back)
            refused(store, server, "401", name=name, settings=settings)
            assert {request.authorization for request in server.seen("GET", "/chosen")} == {None}
            blobs.requests.clear()
            location = {"Location": f"https://blobs.test:{blobs.port}{server.blob}?signed=1"}
            server.answers["GET", server.blob] = lambda handler: handler.reply(307, b"", location)
            pulled(store, server, name, settings)
            assert len(blobs.requests) == 1
            assert blobs.requests[0].authorization is None
            assert server.requests[-1].authorization is not None

    names = {"registry.test": PUBLIC, "blobs.test": OTHER, "inner.test": PRIVATE,
        "here.test": "127.0.0.1"}  # fmt: skip
    hostile_registry.in_own_network(scenario, tmp_path, addresses=names)


def _ask_for_password(server: Server, challenge: str = 'Basic realm="test"') -> None:
    """All but what a test answers itself is only for those who say who they are."""

    def guarded(handler: Handler) -> None:
        if handler.headers.get("Authorization") is None:
            handler.reply(401, b"", {"WWW-Authenticate": challenge})
            return
        path = handler.path.partition("?")[0]
        server.answers.get((handler.command, path), server.decent)(handler)

    original = server.answer

    def answer(handler: Handler) -> None:
        own = server.answers.get((handler.command, handler.path.partition("?")[0]))
        if own is not None and handler.headers.get("Authorization") is not None:
            original(handler)
        else:
            guarded(handler)

    server.answer = answer  # type: ignore[method-assign]


def test_row_26_an_upload_is_not_sent_elsewhere(
    store: Store, server: Server, tmp_path: Path
) -> None:
    pulled(store, server)
    server.requests.clear()
    _ask_for_password(server)
    with Server() as recorder, credentials(tmp_path, **{server.authority: SECRET}):
        target = {"Location": f"http://{recorder.authority}/v2/x/blobs/uploads/1"}
        server.answers["HEAD", server.blob] = lambda handler: handler.reply(404)
        server.answers["POST", f"/v2/{REPOSITORY}/blobs/uploads/"] = lambda handler: handler.reply(
            202, b"", target
        )
        stored = store.find(server.name)
        with pytest.raises(RegistryError, match="another origin"):
            push(store, stored, reference.registry(server.name), configuration=PLAIN)
        assert recorder.requests == []


@pytest.mark.everybody
def test_row_26_and_56_urls_of_layers_are_never_fetched(store: Store, tmp_path: Path) -> None:
    with Server() as recorder:

        def foreign(manifest: dict[str, object]) -> None:
            layers = manifest["layers"]
            assert isinstance(layers, list)
            layers[0]["mediaType"] = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
            layers[0]["urls"] = [
                f"http://{recorder.authority}/layer", "http://169.254.169.254/x", "file:///etc/passwd",
            ]  # fmt: skip

        with (
            Server(image(change=foreign)) as server,
            credentials(tmp_path, **{server.authority: SECRET}),
        ):
            _ask_for_password(server)
            server.answers["GET", server.blob] = lambda handler: handler.reply(404)
            refused(store, server, digest(server.image.layers[0]), "404")
            assert recorder.requests == []
            works_again(store, server)


# -- 60 ------------------------------------------------------------------------------------------


REALMS = (
    "http://127.0.0.1:{port}/token", "https://127.0.0.1:{port}/token",
    "https://localhost:{port}/token", "http://localhost:{port}/token", "file:///etc/passwd",
    "https://169.254.169.254/token", "https://192.168.7.7/token", "https://tokens.test/token",
    "https://me:word@127.0.0.1:{port}/token", "", "nothing", "//127.0.0.1:{port}",
)  # fmt: skip


@pytest.mark.parametrize("secret", [True, False])
def test_60_tokens_of_another_place(
    store: Store, server: Server, tmp_path: Path, secret: bool
) -> None:
    """No password, and nothing at all to this machine, whatever realm the registry names."""
    known = {server.authority: SECRET} if secret else {}
    with Server() as recorder, credentials(tmp_path, **known):
        for realm in REALMS:
            challenge = f'Bearer realm="{realm.format(port=recorder.port)}",service="x",scope="y"'
            denied = {"WWW-Authenticate": challenge}
            server.answers["GET", MANIFEST_PATH] = lambda handler, to=denied: handler.reply(
                401, b"", to
            )
            refused(store, server)
            assert recorder.requests == [], realm
            assert all(request.authorization is None for request in server.requests)
    works_again(store, server)


@pytest.mark.root
def test_60_a_token_of_another_host_that_the_user_allows(store: Store, tmp_path: Path) -> None:
    made = certificates(tmp_path / "tls", names="DNS:registry.test,DNS:tokens.test")
    settings = replace(PLAIN, ca_files=(str(made.ca),))

    def scenario() -> None:
        with (
            Server(address=PUBLIC, tls=made) as server,
            Server(address=OTHER, tls=made) as tokens,
            credentials(tmp_path, **{f"registry.test:{server.port}": SECRET}),
        ):
            registry = f"registry.test:{server.port}"
            name = f"{registry}/{REPOSITORY}:1"
            realm = f"https://tokens.test:{tokens.port}/token"
            _ask_for_password(server, f'Bearer realm="{realm}",service="the service"')
            body = json.dumps({"token": "a.token"}).encode()
            tokens.answers["GET", "/token"] = lambda handler: handler.reply(200, body)
            refused(store, server, "token_realms", registry, name=name, settings=settings)
            assert tokens.requests == []
            allowed = replace(settings, token_realms=((registry, f"tokens.test:{tokens.port}"),))
            pulled(store, server, name, allowed)
            assert tokens.requests[0].authorization is not None
            assert "the+service" in tokens.requests[0].path
            sent = [request.authorization for request in server.requests]
            assert set(sent) == {None, "Bearer a.token"}

    names = {"registry.test": PUBLIC, "tokens.test": OTHER}
    hostile_registry.in_own_network(scenario, tmp_path, addresses=names)


def test_60_a_token_that_is_too_long(store: Store, server: Server) -> None:
    denied = {"WWW-Authenticate": f'Bearer realm="http://{server.authority}/token"'}
    for body in (
        json.dumps({"token": "x" * (10 << 20)}).encode(),
        json.dumps({"token": "x" * (63 << 10) + "\r\nInjected: 1"}).encode(),
        b"[]", b"{", json.dumps({"token": 5}).encode(),
    ):  # fmt: skip
        server.answers["GET", MANIFEST_PATH] = lambda handler: handler.reply(401, b"", denied)
        server.answers["GET", "/token"] = lambda handler, said=body: handler.reply(200, said)
        refused(store, server)
    works_again(store, server)


def test_60_the_scope_is_ours(store: Store, server: Server, tmp_path: Path) -> None:
    """A registry that asks for more gets a token for the one repository, to read."""
    realm = f"http://{server.authority}/token?scope=registry:catalog:*&account=other"
    wide = f'Bearer realm="{realm}",service="s",scope="repository:other/secret:pull,push,delete"'
    body = json.dumps({"access_token": "a.token"}).encode()
    server.answers["GET", "/token"] = lambda handler: handler.reply(200, body)
    server.answers["GET", MANIFEST_PATH] = lambda handler: (
        server.decent(handler)
        if handler.headers.get("Authorization") == "Bearer a.token"
        else handler.reply(401, b"", {"WWW-Authenticate": wide})
    )
    with credentials(tmp_path, **{server.authority: SECRET}):
        pulled(store, server)
    (asked,) = server.seen("GET", "/token")
    query = asked.path.partition("?")[2].split("&")
    assert sorted(query) == ["account=me", "scope=repository%3Asome%2Fimage%3Apull", "service=s"]


# -- 61 ------------------------------------------------------------------------------------------


def test_61_unauthorized_for_ever(store: Store, server: Server, tmp_path: Path) -> None:
    tokens = iter(range(1000))
    realm = f'Bearer realm="http://{server.authority}/token"'
    server.answers["GET", "/token"] = lambda handler: handler.reply(
        200, json.dumps({"token": f"t{next(tokens)}"}).encode()
    )
    for challenge in (realm, 'Basic realm="x"'):
        denied = {"WWW-Authenticate": challenge}
        server.answers["GET", MANIFEST_PATH] = lambda handler, to=denied: handler.reply(
            401, b"", to
        )
        with credentials(tmp_path, **{server.authority: SECRET}):
            refused(store, server, "401", "login")
    assert len(server.requests) < 12
    works_again(store, server)


@pytest.mark.parametrize("after", ["31536000", formatdate(time.time() + 31536000, usegmt=True)])
def test_61_wait_for_a_year(store: Store, server: Server, after: str) -> None:
    server.answers["GET", MANIFEST_PATH] = lambda handler: handler.reply(
        429, b"", {"Retry-After": after}
    )
    refused(store, server, "429", "wait", within=1.0)
    assert len(server.seen("GET", MANIFEST_PATH)) == 1
    works_again(store, server)


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_61_a_storm_of_errors(store: Store, server: Server, status: int) -> None:
    body = json.dumps({"errors": [{"code": "UNKNOWN", "message": "\x1b[2Jbusy\nas usual"}]})
    for path in (MANIFEST_PATH, server.blob):
        server.answers["GET", path] = lambda handler: handler.reply(status, body.encode())
        text = refused(store, server, str(status), "busy")
        assert "\x1b" not in text
        assert len(server.seen("GET", path)) == QUICK.tries
        del server.answers["GET", path]
    works_again(store, server)


def test_61_it_gets_better(store: Store, server: Server) -> None:
    count = iter(range(1000))
    server.answers["GET", MANIFEST_PATH] = lambda handler: (
        handler.reply(503, b"", {"Retry-After": "0"}) if next(count) < 2 else server.decent(handler)
    )
    pulled(store, server, settings=PATIENT)


def test_61_a_token_that_is_given_at_the_second_try(store: Store, server: Server) -> None:
    count, denied = (
        iter(range(1000)),
        {"WWW-Authenticate": f'Bearer realm="http://{server.authority}/t"'},
    )
    body = json.dumps({"token": "a.token"}).encode()
    server.answers["GET", "/t"] = lambda handler: (
        handler.reply(503) if next(count) == 0 else handler.reply(200, body)
    )
    server.answers["GET", MANIFEST_PATH] = lambda handler: (
        server.decent(handler)
        if handler.headers.get("Authorization")
        else handler.reply(401, b"", denied)
    )
    pulled(store, server)
    assert len(server.seen("GET", "/t")) == 2


@pytest.mark.everybody
def test_61_a_tag_that_moves_while_it_is_pulled(store: Store, server: Server) -> None:
    """All is by the digest that the tag had at first."""
    other = image({"other": b"content"})

    def move(handler: Handler) -> None:
        server.decent(handler)
        moved = {"Content-Type": hostile_registry.MANIFEST}
        server.answers["GET", MANIFEST_PATH] = lambda later: later.reply(200, other.manifest, moved)

    server.answers["GET", MANIFEST_PATH] = move
    found = pulled(store, server)
    assert found.digest == digest(server.image.manifest)
    assert len(server.seen("GET", MANIFEST_PATH)) == 1


@pytest.mark.parametrize("circle", [True, False])
def test_61_lists_that_never_end(server: Server, circle: bool) -> None:
    path, pages = f"/v2/{REPOSITORY}/tags/list", iter(range(1000))

    def page(handler: Handler) -> None:
        following = f'<{path}?last={0 if circle else next(pages)}>; rel="next"'
        handler.reply(200, b'{"tags": ["a", "b", "../x"]}', {"Link": following})

    server.answers["GET", path] = page
    with pytest.raises(RegistryError, match="circle" if circle else "more than 5 pages"):
        listing.tags(reference.registry(server.name), configuration=PLAIN)
    with Server() as recorder:
        away = {"Link": f'<http://{recorder.authority}{path}>; rel="next"'}
        server.answers["GET", path] = lambda handler: handler.reply(200, b'{"tags": []}', away)
        with pytest.raises(RegistryError, match="another origin"):
            listing.tags(reference.registry(server.name), configuration=PLAIN)
        assert recorder.requests == []


# -- 62 ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates(tmp_path_factory.mktemp("tls"))


def _only_old_tls(context: ssl.SSLContext) -> None:
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")  # old TLS is the fault
@pytest.mark.parametrize("fault", ["unknown authority", "wrong name", "expired", "old TLS"])
def test_62_certificates_that_are_wrong(
    store: Store, tmp_path: Path, good: Certificates, fault: str
) -> None:
    made, trusted, change = good, str(good.ca), lambda context: None
    if fault == "unknown authority":
        trusted = str(certificates(tmp_path / "other").ca)
    elif fault == "wrong name":
        made = certificates(tmp_path / "other", names="DNS:other.test")
        trusted = str(made.ca)
    elif fault == "expired":
        made = certificates(tmp_path / "other", days=-1)
        trusted = str(made.ca)
    else:
        change = _only_old_tls
    settings = replace(PLAIN, ca_files=(trusted,))
    with Server(tls=made, change=change) as server:
        text = refused(store, server, settings=settings)
        assert "certificate" in text or "TLS" in text
        assert text.count("https://") == 1
        assert server.requests == []
    with Server(tls=good) as server:
        works_again(store, server, replace(PLAIN, ca_files=(str(good.ca),)))


@pytest.mark.root
def test_62_no_plain_http_but_for_loopback_or_by_the_users_word(
    store: Store, tmp_path: Path
) -> None:
    def scenario() -> None:
        with (
            Server(address=PRIVATE) as server,
            credentials(tmp_path, **{f"plain.test:{server.port}": SECRET}),
        ):
            name = f"plain.test:{server.port}/{REPOSITORY}:1"
            refused(store, server, "WRONG_VERSION_NUMBER", name=name)
            assert server.requests == []
            allowed = replace(PLAIN, plain_http=(f"plain.test:{server.port}",))
            pulled(store, server, name, allowed)

    hostile_registry.in_own_network(scenario, tmp_path, addresses={"plain.test": PRIVATE})


@pytest.mark.root
def test_a_proxy_of_the_environment_is_used_but_not_for_loopback(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As forward proxies are asked: for the whole address."""

    def scenario() -> None:
        with Server(address=PRIVATE) as proxy, Server() as server:
            monkeypatch.setenv("http_proxy", f"http://user:word@{proxy.authority}")

            def forward(handler: Handler) -> None:
                handler.path = handler.path.removeprefix("http://plain.test:5000")
                proxy.decent(handler)

            proxy.answers["*", "*"] = forward
            allowed = replace(PLAIN, plain_http=("plain.test:5000",))
            pulled(store, proxy, f"plain.test:5000/{REPOSITORY}:1", allowed)
            assert all(r.path.startswith("http://plain.test:5000/v2/") for r in proxy.requests)
            assert {r.authorization for r in proxy.requests} == {None}
            count = len(proxy.requests)
            pulled(store, server)
            assert len(proxy.requests) == count

    hostile_registry.in_own_network(scenario, tmp_path, addresses={"proxy.test": PRIVATE})


def test_62_a_port_that_nobody_listens_on_is_told_of(store: Store) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        name = f"127.0.0.1:{free.getsockname()[1]}/{REPOSITORY}:1"
        with pytest.raises(RegistryError, match=r"refused.*see whether the registry runs"):
            pull(store, reference.registry(name), configuration=PLAIN)
