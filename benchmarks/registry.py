"""A real registry on loopback, and an image of about 400 MB in it, for the benchmarks alone.

The image is made of this machine's own /usr: programs, libraries, texts, as images have them. The
files are dealt out to five layers of falling size, which are compressed as most images are.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SERVER = "/usr/bin/docker-registry"
SIZES = (180 << 20, 100 << 20, 60 << 20, 40 << 20, 20 << 20)
"""Bytes of the files of each layer."""
LARGEST_FILE = 16 << 20
_MEDIA_TYPE = "application/vnd.oci.image."
_START_SECONDS = 20.0


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """`HOST:PORT` of a registry that keeps what it has below a folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    configuration = folder / "registry.yml"
    configuration.write_text(
        "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder}/registry}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    server = subprocess.Popen(
        [SERVER, "serve", str(configuration)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        end = time.monotonic() + _START_SECONDS
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if server.poll() is not None or time.monotonic() > end:
                raise RuntimeError("docker-registry does not start")
            time.sleep(0.02)
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)


def make_images(folder: Path) -> tuple[str, str]:
    """An OCI image layout with two images: `all`, and `next`, which has one small layer more."""
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)
    layers = [_layer(blobs, names) for names in _dealt()]
    layers.append(_layer(blobs, [__file__]))
    entries = [_image(blobs, layers[:-1], "all"), _image(blobs, layers, "next")]
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return f"oci:{folder}:all", f"oci:{folder}:next"


def _dealt() -> list[list[str]]:
    """The files of each layer: each takes what it can, turn by turn, until it is full."""
    dealt: list[list[str]] = [[] for _ in SIZES]
    room = list(SIZES)
    turn = 0
    for folder, folders, names in os.walk("/usr"):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(folder, name)
            seen = os.lstat(path)
            if not (0o100000 <= seen.st_mode < 0o120000) or seen.st_size > LARGEST_FILE:
                continue
            turn += 1
            for index in range(len(SIZES)):
                at = (turn + index) % len(SIZES)
                if seen.st_size <= room[at]:
                    room[at] -= seen.st_size
                    dealt[at].append(path)
                    break
        if max(room) < 1 << 20:
            break
    return dealt


def _layer(blobs: Path, paths: Sequence[str]) -> tuple[dict[str, Any], str]:
    """The descriptor of a layer that was written, and its diff id."""
    with tempfile.TemporaryFile() as plain:
        made: set[str] = set()
        with tarfile.open(fileobj=plain, mode="w") as archive:
            for path in paths:
                _add_parents(archive, path, made)
                archive.add(path, recursive=False)
        plain.seek(0)
        diff_id = f"sha256:{hashlib.file_digest(plain, 'sha256').hexdigest()}"
        plain.seek(0)
        packed = subprocess.run(["gzip", "-6n"], stdin=plain, capture_output=True, check=True)
    return _put(blobs, packed.stdout, "layer.v1.tar+gzip"), diff_id


def _add_parents(archive: tarfile.TarFile, path: str, made: set[str]) -> None:
    parent = os.path.dirname(path)
    if parent not in ("", "/") and parent not in made:
        _add_parents(archive, parent, made)
        archive.add(parent, recursive=False)
        made.add(parent)


def _image(blobs: Path, layers: Sequence[tuple[dict[str, Any], str]], name: str) -> dict[str, Any]:
    config = {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [diff_id for _, diff_id in layers]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_MEDIA_TYPE}manifest.v1+json",
        "config": _put(blobs, json.dumps(config).encode(), "config.v1+json"),
        "layers": [descriptor for descriptor, _ in layers],
    }
    found = _put(blobs, json.dumps(manifest).encode(), "manifest.v1+json")
    return {**found, "annotations": {"org.opencontainers.image.ref.name": name}}


def _put(blobs: Path, data: bytes, kind: str) -> dict[str, Any]:
    hexadecimal = hashlib.sha256(data).hexdigest()
    (blobs / hexadecimal).write_bytes(data)
    return {
        "mediaType": f"{_MEDIA_TYPE}{kind}",
        "digest": f"sha256:{hexadecimal}",
        "size": len(data),
    }
