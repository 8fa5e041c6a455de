"""Layers of a build: from the tar that a container gives to a blob, and from blobs to an image."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

from sandbox_kernel.building.state import Layer
from sandbox_kernel.image import digest as digests
from sandbox_kernel.image import documents, unpacked
from sandbox_kernel.image.documents import Descriptor
from sandbox_kernel.image.image import Image
from sandbox_kernel.image.layers.compressing import Gzip
from sandbox_kernel.image.store import Store

PIECE = 1 << 20
EMPTY = bytes(1024)
"""The end of a tar, without a member before it."""


def keep(store: Store, source: int) -> Layer | None:
    """Keep the tar that comes from a descriptor as a layer; None when it is empty.

    Raises ImageError when the store can't take it.
    """
    first = os.read(source, PIECE)
    if not first:
        return None
    with store.writer() as writer:
        packed = Gzip(writer.write)
        data = first
        while data:
            packed.write(data)
            data = os.read(source, PIECE)
        packed.close()
        digest = writer.commit()
    blob = Descriptor(media_type=documents.OCI_LAYER_GZIP, digest=digest, size=packed.size)
    return Layer(blob, digests.parse(packed.diff_id))


def empty(store: Store) -> Layer:
    """The layer without files that an image has where nothing made one, as buildah writes it.

    OCI's image-manifest-schema.json wants one layer at least. Raises ImageError.
    """
    digest = digests.of(EMPTY)
    if not store.has(digest):  # each write waits for the disk
        store.write(EMPTY)
    return Layer(Descriptor(media_type=documents.OCI_LAYER, digest=digest, size=len(EMPTY)), digest)


def tree(store: Store, layer: Layer) -> str:
    """The folder of a layer that stands on nothing, unpacked if need be. Raises ImageError."""

    return unpacked.tree(store, layer.blob, [layer.diff_id], ())


def as_image(
    store: Store, layers: Sequence[Layer], label: str, *, mounts: Sequence[Mapping[str, Any]] = ()
) -> Image:
    """An image of these layers, for a container of the build. Raises ImageError."""

    trees: list[str] = []
    diff_ids = [layer.diff_id for layer in layers]
    for index, layer in enumerate(layers):
        found = unpacked.tree(store, layer.blob, diff_ids[: index + 1], tuple(trees))
        if found in trees:
            trees.remove(found)  # overlayfs takes no folder twice; only the highest one is seen
        trees.append(found)
    chain = "".join(layer.diff_id for layer in layers) + repr(mounts)
    return Image(
        reference=label,
        digest="sha256:" + hashlib.sha256(chain.encode()).hexdigest(),
        layers=tuple(trees),
        mounts=tuple(mounts),
        leases=tuple(os.path.dirname(tree) for tree in trees),
        notices=tuple(dict.fromkeys(filter(None, map(store.notice, trees)))),
    )
