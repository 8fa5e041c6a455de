"""Every document of an image that is written, wherever it goes, is one as OCI's schemas want it."""

from __future__ import annotations

import io
import json
import tarfile
import urllib.request
from pathlib import Path

import built_images
import image_schemas
import made_images
import pytest
import python_rootfs
import registries
import wheels
from commands import output_of

from sandbox_kernel import policy, settings
from sandbox_kernel.container import Container, committing
from sandbox_kernel.image import documents
from sandbox_kernel.image.environments import places
from sandbox_kernel.image.store import Store


def files_below(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_relative_to(folder / "layers")
    }


def files_in(archive: bytes) -> dict[str, bytes]:
    found = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        for member in opened:
            if (data := opened.extractfile(member)) is not None:
                found[member.name] = data.read()
    return found


def fetched(url: str) -> bytes:
    asked = urllib.request.Request(url, headers={"Accept": documents.OCI_MANIFEST})
    with urllib.request.urlopen(asked, timeout=20) as answer:
        return bytes(answer.read())


def build_images(store: Store) -> None:
    """One with files, and what writes nothing or only configuration."""
    built_images.built(store, None, "FROM scratch\nCOPY <<A /a\nx\nA\nCMD /a\n", name="built:1")
    for name, text in (
        ("bare:1", "FROM scratch\n"),
        ("label:1", "FROM scratch\nENV A=1\nLABEL a=b\n"),
        ("on-label:1", "FROM label:1\nEXPOSE 80\nVOLUME /v\n"),
    ):
        image, _ = built_images.built(store, None, text, name=name)
        assert built_images.files(store, image) == {}


def make_environment(store: Store, folder: Path) -> None:
    """`environment:1`: one wheel on a stored image with a Python."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(python_rootfs.make(folder / "root"), ".")
    made_images.put(store, "python:1", [packed.getvalue()], zipped=False)
    (folder / "index").mkdir()
    wheels.make(folder / "index", "words")
    output_of("tag", "packages: words on python:1", "environment:1")


def test_all_that_is_written_is_as_the_schemas_want_it(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    monkeypatch.setenv(places.VARIABLE, str(tmp_path / "environments"))
    made_images.small(store, "small:1")
    build_images(store)
    for image in ("small:1", "scratch"):
        with Container.create(policy.plan(settings.COMMAND_LINE, image=image)) as made:
            committing.commit(store, made, f"commit-{image.partition(':')[0]}:1", author="me")
    make_environment(store, tmp_path)
    names = sorted(store.names())

    assert image_schemas.check_layout(files_below(Path(store.root))) == len(names) == 9

    output_of("save", "--format", "oci", "-o", str(tmp_path / "oci"), *names)
    assert image_schemas.check_layout(files_below(tmp_path / "oci")) == len(names)
    archive = tmp_path / "archive.tar"
    output_of("save", "--format", "oci-archive", "-o", str(archive), *names)
    assert image_schemas.check_layout(files_in(archive.read_bytes())) == len(names)

    with registries.registry(tmp_path / "registry") as served:
        for name in names:
            path = name.removeprefix("docker.io/").replace(":", "/").rpartition("/")[0]
            output_of("push", name, f"{served.authority}/{path}:1")
            url = f"http://{served.authority}/v2/{path}"
            manifest = fetched(f"{url}/manifests/1")
            config = json.loads(manifest)["config"]["digest"]
            image_schemas.check_image(manifest, fetched(f"{url}/blobs/{config}"))
