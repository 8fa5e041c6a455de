"""A registry that does what a test tells it, and remembers every request; for tests of corpus D.

`Server` serves a small whole image well, until a test puts a function of its own in the place of an
answer (`server.answers[method, path]`). The function gets the handler: it may send a decent answer
with `handler.reply`, or write what it likes to `handler.wfile`.
"""

from __future__ import annotations

import contextlib
import ctypes
import gzip
import hashlib
import io
import json
import os
import ssl
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from registries import Certificates
from serving import Patient, Serving

REPOSITORY = "some/image"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
CLONE_NEWNET, CLONE_NEWNS = 0x40000000, 0x20000


class Request(NamedTuple):
    """One request that came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def authorization(self) -> str | None:
        return self.headers.get("Authorization")


Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def reply(
        self, status: int = 200, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> None:
        """A decent answer."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _any(self) -> None:
        owner = self.server.owner
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        owner.requests.append(Request(self.command, self.path, dict(self.headers), body))
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            owner.answer(self)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = _any

    def log_message(self, *_: object) -> None:
        """Nothing: what came is in `requests`."""


class _Server(Patient, HTTPServer):
    owner: Server


class Image(NamedTuple):
    """A small image as bytes. `layers`: the blobs."""

    manifest: bytes
    config: bytes
    layers: tuple[bytes, ...]


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def layer(files: Mapping[str, bytes]) -> tuple[bytes, str]:
    """A compressed layer, and its diff id."""
    text = io.BytesIO()
    with tarfile.open(fileobj=text, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return gzip.compress(text.getvalue(), 1, mtime=0), digest(text.getvalue())


def image(
    *layers: Mapping[str, bytes], change: Callable[[dict[str, Any]], None] = lambda manifest: None
) -> Image:
    """An image of these layers; `change` does what it likes to the manifest."""
    made = [layer(files) for files in layers or ({"greeting": b"hello\n"},)]
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [diff_id for _, diff_id in made]},
        }
    ).encode()
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": digest(config), "size": len(config)},
        "layers": [
            {"mediaType": LAYER, "digest": digest(blob), "size": len(blob)} for blob, _ in made
        ],
    }
    change(manifest)
    return Image(json.dumps(manifest).encode(), config, tuple(blob for blob, _ in made))


class Server(Serving):
    """A registry on some address; `with Server() as server:`."""

    def __init__(
        self,
        served: Image | None = None,
        *,
        address: str = "127.0.0.1",
        port: int = 0,
        tls: Certificates | None = None,
        change: Callable[[ssl.SSLContext], None] = lambda context: None,
    ) -> None:
        self.image = served or image()
        self.answers: dict[tuple[str, str], Answer] = {}
        self.requests: list[Request] = []
        server = _Server((address, port), Handler)
        server.owner = self
        super().__init__(server)
        self.port = int(server.server_address[1])
        self.authority = f"{address}:{self.port}"
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls.certificate, tls.key)
            change(context)
            # the handshake is made by the thread of the connection, when it first reads
            server.socket = context.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )

    @property
    def name(self) -> str:
        """Of the image, for `pull`."""
        return f"{self.authority}/{REPOSITORY}:1"

    @property
    def blob(self) -> str:
        """The path of the first layer."""
        return self.path_of(self.image.layers[0])

    def path_of(self, blob: bytes) -> str:
        return f"/v2/{REPOSITORY}/blobs/{digest(blob)}"

    def seen(self, method: str, path: str) -> list[Request]:
        """The requests for one thing, without what stands behind `?`."""
        return [r for r in self.requests if (r.method, r.path.partition("?")[0]) == (method, path)]

    def answer(self, handler: Handler) -> None:
        """The test's own answer, or the right one."""
        path = handler.path.partition("?")[0]
        own = self.answers.get((handler.command, path)) or self.answers.get(("*", "*"))
        if own is not None:
            own(handler)
        else:
            self.decent(handler)

    def decent(self, handler: Handler) -> None:
        """What a good registry answers."""
        path = handler.path.partition("?")[0]
        blobs = {self.path_of(blob): blob for blob in (*self.image.layers, self.image.config)}
        manifests = (
            f"/v2/{REPOSITORY}/manifests/{name}" for name in ("1", digest(self.image.manifest))
        )
        if path == "/v2/":
            handler.reply()
        elif path in manifests:
            handler.reply(200, self.image.manifest, {"Content-Type": MANIFEST})
        elif path in blobs:
            begin = int(handler.headers.get("Range", "bytes=0-")[6:-1])
            whole = blobs[path]
            part = {"Content-Range": f"bytes {begin}-{len(whole) - 1}/{len(whole)}"}
            handler.reply(206 if begin else 200, whole[begin:], part if begin else {})
        else:
            handler.reply(404)


def in_own_network(
    do: Callable[[], None],
    folder: Path,
    *,
    addresses: Mapping[str, str],
    name_server: str | None = None,
) -> None:
    """`do` in a thread with a network of its own, where these addresses are on loopback.

    `addresses`: name -> address, for the names that this machine's resolver is to know there;
    `name_server`: whom it asks for all others. As root. Raises what `do` raises.
    """
    hosts, resolv = folder / "hosts", folder / "resolv.conf"
    hosts.write_text("".join(f"{address} {name}\n" for name, address in addresses.items()))
    resolv.write_text(f"nameserver {name_server}\n" if name_server else "")
    libc = ctypes.CDLL(None, use_errno=True)
    failed: list[BaseException] = []

    def run() -> None:
        try:
            if libc.unshare(CLONE_NEWNET | CLONE_NEWNS) != 0:
                raise OSError(ctypes.get_errno(), "unshare")
            for words in (
                ["mount", "--make-rprivate", "/"],
                ["mount", "--bind", str(hosts), "/etc/hosts"],
                *([["mount", "--bind", str(resolv), "/etc/resolv.conf"]] if name_server else []),
                ["ip", "link", "set", "lo", "up"],
                *(["ip", "address", "add", f"{a}/32", "dev", "lo"]
                  for a in set(addresses.values()) if not a.startswith("127.")),
            ):  # fmt: skip
                subprocess.run(words, check=True)
            do()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


@contextlib.contextmanager
def credentials(folder: Path, **passwords: str) -> Iterator[None]:
    """A file of podman's form with `HOST:PORT` -> `name:password`, for the time of the block."""
    import base64

    path = folder / "auth.json"
    entries = {
        authority: {"auth": base64.b64encode(pair.encode()).decode()}
        for authority, pair in passwords.items()
    }
    path.write_text(json.dumps({"auths": entries}))
    before = os.environ.get("REGISTRY_AUTH_FILE")
    os.environ["REGISTRY_AUTH_FILE"] = str(path)
    try:
        yield
    finally:
        os.environ.pop("REGISTRY_AUTH_FILE")
        if before is not None:
            os.environ["REGISTRY_AUTH_FILE"] = before
