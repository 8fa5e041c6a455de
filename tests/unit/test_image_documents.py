"""Promises about the documents of images: what is written is as specified, whatever is read."""

from __future__ import annotations

import io
import json
import os
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_schemas import CONFIG, INDEX, LAYOUT, MANIFEST
from made_images import layer, put

from sandbox_kernel.errors import ImageError
from sandbox_kernel.image import digest as digests
from sandbox_kernel.image import documents
from sandbox_kernel.image.archives import members
from sandbox_kernel.image.store import Store


def test_what_is_written_is_as_the_specification_demands(store: Store) -> None:
    made = put(
        store, "app:1", [layer({"a": b"1"})], cmd=["/a"], volumes={"/v": {}}, labels={"a": "b"},
        exposed_ports={"80/tcp": {}},
    )  # fmt: skip
    read = {
        "index": json.loads(Path(store.places.index).read_bytes()),
        "layout": json.loads(Path(store.root, "oci-layout").read_bytes()),
        "manifest": json.loads(store.read(made.digest)),
        "config": json.loads(store.read(made.manifest.config.digest)),
    }
    for name, schema in (
        ("index", INDEX), ("layout", LAYOUT), ("manifest", MANIFEST), ("config", CONFIG),
    ):  # fmt: skip
        jsonschema.validate(read[name], schema)


def test_equal_documents_have_equal_bytes() -> None:
    def written(notes: dict[str, str]) -> bytes:
        return documents.encode(documents.describe(b"x", documents.OCI_LAYER, annotations=notes))

    assert written({"b": "1", "a": "2"}) == written({"a": "2", "b": "1"})
    assert b" " not in written({"a": "2"})


WORDS = st.text(max_size=12)
DESCRIPTORS = st.builds(
    documents.Descriptor,
    media_type=WORDS,
    digest=st.binary().map(digests.of),
    size=st.integers(0, 1 << 38),  # the most that one may be
    annotations=st.none() | st.dictionaries(WORDS, WORDS, max_size=3),
    urls=st.none() | st.lists(WORDS, max_size=2),
)


@given(st.lists(DESCRIPTORS, max_size=3), DESCRIPTORS)
def test_a_manifest_reads_back_as_it_was(
    parts: list[documents.Descriptor], config: documents.Descriptor
) -> None:
    made = documents.Manifest(schema_version=2, config=config, layers=parts)
    assert documents.decode_manifest(documents.encode(made)) == made


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | WORDS,
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["config", "layers", "manifests", "mediaType", "schemaVersion",
                             "digest", "size", "rootfs", "diff_ids", "os", "architecture", "Env"])
            | WORDS, inner, max_size=5,
        ),
        max_leaves=20,
    )
)  # fmt: skip
def test_any_json_is_read_or_refused_in_one_way(value: Any) -> None:
    data = json.dumps(value).encode()
    for decode in (documents.decode, documents.decode_config):
        try:
            found = decode(data)
        except ImageError:
            continue
        assert msgspec.to_builtins(found) is not None


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_in_one_way(data: bytes) -> None:
    for decode in (documents.decode, documents.decode_config):
        with pytest.raises(ImageError):
            decode(data)


def whole_archive() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("a", "b" * 120, "ä"):
            info = tarfile.TarInfo(name)
            info.size = 10
            archive.addfile(info, io.BytesIO(b"x" * 10))
    return out.getvalue()[:8192]


ARCHIVE = whole_archive()


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, len(ARCHIVE) - 1), st.integers(0, 255)), max_size=4),
       st.integers(0, len(ARCHIVE)))  # fmt: skip
def test_a_changed_archive_is_read_or_refused_in_one_way(
    changes: list[tuple[int, int]], length: int
) -> None:
    data = bytearray(ARCHIVE)
    for at, byte in changes:
        data[at] = byte
    with tempfile.TemporaryFile() as file:
        file.write(data[:length])
        file.flush()
        try:
            found = members.scan(file.fileno(), "changed.tar")
        except ImageError:
            return
        size = os.fstat(file.fileno()).st_size
        assert all(0 <= m.offset <= m.offset + m.size <= size for m in found.values())
