"""Writing images of the store into layouts and archives that docker, podman and skopeo read."""

from __future__ import annotations

import functools
import io
import json
import os
import tarfile
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from typing import BinaryIO, Literal

import msgspec

from sandbox_kernel.errors import ImageError, shown
from sandbox_kernel.image import digest as digests
from sandbox_kernel.image import documents
from sandbox_kernel.image.archives.loading import CONTAINERD_NAME
from sandbox_kernel.image.digest import Digest
from sandbox_kernel.image.documents import Descriptor, Index
from sandbox_kernel.image.store import Store, Stored
from sandbox_kernel.image.store.names import NAME
from sandbox_kernel.image.store.places import EMPTY_INDEX, LAYOUT, write_file

CHUNK = 1 << 20
Kind = Literal["oci", "docker"]


def save(
    store: Store, images: Sequence[tuple[Stored, str | None]], kind: Kind, out: BinaryIO
) -> None:
    """One archive with these images under these names (None: without one), written to `out`.

    Equal images give equal archives: every file in it is of the year 1970 and of nobody. Raises
    ImageError when a blob is not there, OSError when it can't be written.
    """
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT, bufsize=CHUNK) as archive:
        writer = _Writer(store, archive)
        if kind == "oci":
            writer.oci(images)
        else:
            writer.docker(images)


def save_layout(store: Store, image: Stored, path: str, name: str | None) -> None:
    """Put an image into an OCI image layout, which is made if it is not there; a name that is
    there is moved. Raises ImageError."""
    try:
        os.makedirs(path, exist_ok=True)
        index_path = f"{path}/index.json"
        if not os.path.exists(f"{path}/oci-layout"):
            if os.listdir(path):
                raise ImageError(
                    f"save into `{shown(path)}`: it has other files and is no image layout: name "
                    "a folder that is empty or not there"
                )
            write_file(f"{path}/oci-layout", LAYOUT.encode())
            write_file(index_path, EMPTY_INDEX.encode())
        with open(index_path, "rb") as file:
            index = documents.decode_index(file.read(documents.LARGEST_DOCUMENT + 1))
        for digest in _blobs(image):
            _copy_out(store, digest, f"{path}/{_blob(digest)}")
        kept = [
            each
            for each in index.manifests
            if (each.digest if name is None else (each.annotations or {}).get(NAME))
            != (image.digest if name is None else name)
        ]
        index = msgspec.structs.replace(index, manifests=[*kept, _entry(image, name)])
        write_file(f"{index_path}.new", documents.encode(index))
        os.rename(f"{index_path}.new", index_path)
    except OSError as error:
        raise ImageError(
            f"save into `{shown(path)}`: {error.strerror}: name a folder that can be written"
        ) from error


def _copy_out(store: Store, digest: Digest, target: str) -> None:
    if os.path.exists(target):
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with open(store.open_blob(digest), "rb") as blob, open(f"{target}.new", "wb") as file:
        while data := blob.read(CHUNK):
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.rename(f"{target}.new", target)


def _blobs(image: Stored) -> list[Digest]:
    parts = [image.manifest.config, *image.manifest.layers]
    return list(dict.fromkeys([image.digest, *(part.digest for part in parts)]))


def _blob(digest: Digest) -> str:
    return f"blobs/{digests.algorithm(digest)}/{digests.hexadecimal(digest)}"


def _entry(image: Stored, name: str | None) -> Descriptor:
    notes = {} if name is None else {NAME: name}
    return Descriptor(
        media_type=image.manifest.media_type,
        digest=image.digest,
        size=image.descriptor.size,
        platform=image.config.platform,
        annotations=notes or None,
    )


class _Writer:
    """One archive that is being written; a blob that two images share is there once."""

    def __init__(self, store: Store, archive: tarfile.TarFile) -> None:
        self._store = store
        self._archive = archive
        self._written: set[str] = set()

    def oci(self, images: Sequence[tuple[Stored, str | None]]) -> None:
        entries = []
        self._add("oci-layout", LAYOUT.encode())
        for image, name in images:
            for digest in _blobs(image):
                self._add_blob(digest)
            entry = _entry(image, name)
            if name is not None:  # podman and docker look for the whole name in different places
                entry = msgspec.structs.replace(
                    entry, annotations={NAME: name, CONTAINERD_NAME: name}
                )
            entries.append(entry)
        self._add("index.json", documents.encode(Index(schema_version=2, manifests=entries)))

    def docker(self, images: Sequence[tuple[Stored, str | None]]) -> None:
        """`docker load` of every version reads plain layers, so they are decompressed."""
        rows: dict[Digest, dict[str, object]] = {}
        for image, name in images:
            tags = [name] if name is not None else []  # whole: podman has another default
            if image.digest in rows:
                rows[image.digest]["RepoTags"] += tags  # type: ignore[operator]
                continue
            config = self._store.read(image.manifest.config.digest)
            config_name = f"{digests.hexadecimal(digests.of(config))}.json"
            self._add(config_name, config)
            layers = []
            for layer, diff_id in zip(image.manifest.layers, image.diff_ids, strict=True):
                layers.append(f"{digests.hexadecimal(diff_id)}.tar")
                if layers[-1] not in self._written:
                    self._add_plain(layers[-1], layer, diff_id)
            rows[image.digest] = {"Config": config_name, "RepoTags": tags, "Layers": layers}
        self._add("manifest.json", json.dumps(list(rows.values())).encode())

    def _add(self, name: str, data: bytes) -> None:
        self._add_file(name, len(data), io.BytesIO(data))

    def _add_blob(self, digest: Digest) -> None:
        if _blob(digest) in self._written:
            return
        with open(self._store.open_blob(digest), "rb") as file:
            self._add_file(_blob(digest), os.fstat(file.fileno()).st_size, file)

    def _add_plain(self, name: str, layer: Descriptor, diff_id: Digest) -> None:
        from sandbox_kernel.image.layers.compression import PIECE, plain
        from sandbox_kernel.image.layers.limits import DEFAULT

        with ExitStack() as held:
            blob = held.enter_context(open(self._store.open_blob(layer.digest), "rb"))
            compression = documents.COMPRESSION[layer.media_type]
            if compression == "none":
                self._add_file(name, os.fstat(blob.fileno()).st_size, blob)
                return
            spool = held.enter_context(tempfile.TemporaryFile(dir=self._store.places.partial("")))
            hashed = digests.hasher(diff_id)
            for data in plain(functools.partial(blob.read, PIECE), compression, DEFAULT):
                hashed.update(data)
                spool.write(data)
            if digests.from_hasher(hashed) != diff_id:
                raise ImageError(
                    f"save layer `{layer.digest}`: its plain bytes are not `{diff_id}`: run "
                    "`sandbox-kernel image check`"
                )
            size = spool.tell()
            spool.seek(0)
            self._add_file(name, size, spool)

    def _add_file(self, name: str, size: int, file: BinaryIO) -> None:
        self._written.add(name)
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, 0o644
        self._archive.addfile(info, file)
