"""Pulls that are killed, race, get less than was promised, or find no space.

Afterwards the store is whole, the error has said which layer and why, and the next try works.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import made_images
import pytest
from hostile_registry import Handler, Server, digest, image
from registries import registry

from sandbox_kernel.errors import HostLacks, ImageError, RegistryError
from sandbox_kernel.image import reference
from sandbox_kernel.image.digest import Digest
from sandbox_kernel.image.registry import pull, push
from sandbox_kernel.image.registry.configuration import Configuration
from sandbox_kernel.image.registry.limits import Limits
from sandbox_kernel.image.store import Store

PLAIN = Configuration(limits=Limits(first_wait=0.01, tries=2))
COMMAND = [sys.executable, "-m", "sandbox_kernel.cli.main"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "images"))


@pytest.fixture(autouse=True)
def _no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of whoever runs the tests are not for us."""
    (tmp_path / "no-credentials").write_text("{}")
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "no-credentials"))


def start(store: Store, name: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "SANDBOX_KERNEL_IMAGES": store.root}
    return subprocess.Popen(
        [*COMMAND, "pull", name], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def whole(store: Store, server: Server) -> None:
    """The image is there, each blob and tree of it, and the store has no fault."""
    found = store.find(server.name)
    assert [layer.digest for layer in found.manifest.layers] == [
        digest(blob) for blob in server.image.layers
    ]
    for diff_id in found.diff_ids:
        assert store.layer(diff_id)
    assert store.check() == []
    assert [name for name in os.listdir(f"{store.root}/partial") if "layer" in name] == []


class Stalling:
    """Gives a part of a layer, says so, and then nothing, until it is told to go on."""

    def __init__(self, server: Server, blob: bytes, count: int) -> None:
        self.reached = threading.Event()
        self.go_on = threading.Event()
        self.blob, self.count, self.server = blob, count, server
        server.answers["GET", server.path_of(blob)] = self

    def __call__(self, handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(self.blob)))
        handler.end_headers()
        handler.wfile.write(self.blob[: self.count])
        self.reached.set()
        while not (self.go_on.wait(0.05) or self.server.ended.is_set()):
            pass
        handler.wfile.write(self.blob[self.count :])


@pytest.fixture
def server() -> Iterator[Server]:
    """An image of a small and a larger layer."""
    with Server(image({"small": b"small"}, {"large": os.urandom(3 << 20)})) as running:
        yield running


def _partial_size(store: Store, blob: bytes) -> int:
    partial = store.partial(Digest(digest(blob)))
    return partial.size if partial else 0


@pytest.mark.fault(14)
def test_a_connection_that_breaks_is_made_anew_for_the_rest(store: Store, server: Server) -> None:
    """Within one pull: nothing comes twice, and what is unpacked already goes on."""
    large = server.image.layers[1]
    pieces = [len(large) // 4, len(large) // 2, len(large)]

    def break_off(handler: Handler) -> None:
        begin = int(handler.headers.get("Range", "bytes=0-")[6:-1])
        handler.send_response(206 if begin else 200)
        handler.send_header("Content-Length", str(len(large) - begin))
        if begin:
            part = f"bytes {begin}-{len(large) - 1}/{len(large)}"
            handler.send_header("Content-Range", part)
        handler.end_headers()
        end = next(piece for piece in pieces if piece > begin)
        handler.wfile.write(large[begin:end])
        handler.close_connection = True

    server.answers["GET", server.path_of(large)] = break_off
    pull(store, reference.registry(server.name), configuration=Configuration())
    asked = [request.headers.get("Range") for request in server.seen("GET", server.path_of(large))]
    assert asked == [None, f"bytes={pieces[0]}-", f"bytes={pieces[1]}-"]
    whole(store, server)


@pytest.mark.fault(13)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_pull_that_is_ended_goes_on_where_it_was(
    store: Store, server: Server, how: signal.Signals
) -> None:
    large, count = server.image.layers[1], 2 << 20
    stalling = Stalling(server, large, count)
    pulling = start(store, server.name)
    assert stalling.reached.wait(20)
    end = time.monotonic() + 10
    while _partial_size(store, large) < count and time.monotonic() < end:
        time.sleep(0.01)  # what was sent has to be read by another process
    asked = time.monotonic()
    pulling.send_signal(how)
    _, said = pulling.communicate(timeout=10)
    assert time.monotonic() - asked < 1.5
    assert pulling.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL)
    assert said == b""
    assert store.images() == []
    assert [str(problem) for problem in store.check() if "partial" not in str(problem)] == []
    assert _partial_size(store, large) == count

    server.answers.clear()
    server.requests.clear()
    pull(store, reference.registry(server.name), configuration=PLAIN)
    (again,) = server.seen("GET", server.path_of(large))
    assert again.headers["Range"] == f"bytes={count}-"
    assert server.seen("GET", server.blob) == []  # the small one was done
    whole(store, server)


def test_a_layer_that_came_whole_before_the_end_is_not_asked_for_again(
    store: Store, server: Server
) -> None:
    for blob in server.image.layers:
        with store.writer(Digest(digest(blob)), len(blob)) as writer:
            writer.write(blob)  # and no commit: killed between the two
    pull(store, reference.registry(server.name), configuration=PLAIN)
    assert [server.seen("GET", server.path_of(blob)) for blob in server.image.layers] == [[], []]
    whole(store, server)


@pytest.mark.fault(15)
def test_two_pulls_at_once_fetch_each_layer_once(store: Store, server: Server) -> None:
    stalling = Stalling(server, server.image.layers[1], 1 << 20)
    first = start(store, server.name)
    assert stalling.reached.wait(20)
    second = start(store, server.name)
    manifests = "/v2/some/image/manifests/1"
    end = time.monotonic() + 10
    while len(server.seen("GET", manifests)) < 2 and time.monotonic() < end:
        time.sleep(0.01)  # the second must be under way before the first goes on
    stalling.go_on.set()
    for pulling in (first, second):
        out, said = pulling.communicate(timeout=30)
        assert (pulling.returncode, said) == (0, b"")
        assert digest(server.image.manifest).encode() in out
    for blob in server.image.layers:
        assert len(server.seen("GET", server.path_of(blob))) == 1
    whole(store, server)


def test_a_layer_that_its_registry_has_lost_a_part_of(store: Store, tmp_path: Path) -> None:
    """A real registry, whose disk has lost the end of a file."""
    with registry(tmp_path / "registry") as served:
        other = Store.open(str(tmp_path / "other"))
        made = made_images.put(other, "cut:1", [made_images.layer({"x": os.urandom(1 << 20)})])
        name = reference.registry(f"{served.authority}/cut:1")
        push(other, made, name, configuration=PLAIN)
        (layer,) = made.manifest.layers
        hexadecimal = layer.digest.partition(":")[2]
        blobs = tmp_path / "registry/data/docker/registry/v2/blobs/sha256"
        kept = blobs / hexadecimal[:2] / hexadecimal / "data"
        content = kept.read_bytes()
        kept.write_bytes(content[: len(content) // 2])
        with pytest.raises(RegistryError, match=rf"layer.*{layer.digest}.*{layer.size}"):
            pull(store, name, configuration=PLAIN)
        assert store.images() == []
        assert store.check() == []
        kept.write_bytes(content)
        found = pull(store, name, configuration=PLAIN)
    assert store.layer(found.diff_ids[0])
    assert store.check() == []


@pytest.mark.root
@pytest.mark.fault(5)
def test_a_full_disk(server: Server, tmp_path: Path) -> None:
    """For the blob, and then for the tree of it."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", place], check=True)
    try:
        store = Store.open(str(place / "images"))
        layers = [digest(layer) for layer in server.image.layers]
        for size in ("2m", "4m"):
            subprocess.run(["mount", "-o", f"remount,size={size}", place], check=True)
            with pytest.raises((ImageError, HostLacks), match=r"No space left") as problem:
                pull(store, reference.registry(server.name), configuration=PLAIN)
            assert any(layer in str(problem.value) for layer in layers)
            assert store.images() == []
        subprocess.run(["mount", "-o", "remount,size=40m", place], check=True)
        pull(store, reference.registry(server.name), configuration=PLAIN)
        whole(store, server)
    finally:
        subprocess.run(["umount", place], check=True)


def test_memory_stays_small_whatever_the_layer(store: Store, tmp_path: Path) -> None:
    """Of the pull and of what unpacks, taken together; below 150 MiB for 264 of them."""
    content = os.urandom(64 << 20) + bytes(200 << 20)
    with Server(image({"large": content})) as server:
        program = (
            "import re, resource, sys\n"
            "from sandbox_kernel.cli.main import main\n"
            "status = main(sys.argv[1:])\n"
            # ru_maxrss of a process counts that of whom it was forked from
            "own = int(re.search(r'VmHWM:\\s+([0-9]+)', open('/proc/self/status').read())[1])\n"
            "others = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss\n"
            "print(own + others)\n"
            "sys.exit(status)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, "pull", server.name],
            env={**os.environ, "SANDBOX_KERNEL_IMAGES": store.root},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    assert int(done.stdout.split()[-1]) < 150 << 10
