"""Keeping a container's files as an image: its image's layers, and one more of what changed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from sandbox_kernel.container import layering
from sandbox_kernel.container.container import Container
from sandbox_kernel.errors import ImageError
from sandbox_kernel.image import digest as digests
from sandbox_kernel.image import documents, layers
from sandbox_kernel.image.architectures import own_architecture
from sandbox_kernel.image.documents import (
    Descriptor,
    Execution,
    History,
    ImageConfig,
    Manifest,
    RootFS,
)
from sandbox_kernel.image.layers.packing import source_date_epoch
from sandbox_kernel.image.store import Store, Stored


class _Base(NamedTuple):
    """What the container's image is made of. The plain digests are those of `blobs`."""

    config: ImageConfig
    blobs: list[Descriptor]


def commit(
    store: Store,
    container: Container,
    name: str | None,
    *,
    author: str | None = None,
    comment: str | None = None,
) -> Stored:
    """Keep a container's files as an image, under a name or without one.

    What runs in it goes on meanwhile, so stop it first if it writes. What lies on other mounts is
    not in it. Raises ImageError: its image is `host`, or its files can't be in a layer.
    """
    if container.image.mounts or container.image.trees:
        raise ImageError(
            f"commit `{container.name}`: its image `{container.image.reference}` is files of this "
            "machine, which no other has: make the container of an image that can be stored"
        )
    if name is not None:
        store.full_name(name)  # before any work is done for it
    now = _now()
    with store.adding():
        base = _base(store, container)
        with layering.writable(container) as tree:
            blob, diff_id = _pack(store, tree, made=sorted(layering.made(container)))
        step = History(
            created=now,
            created_by=f"commit of a container of {container.image.reference}",
            author=author,
            comment=comment,
        )
        config = msgspec.structs.replace(
            base.config,
            created=now,
            author=author or base.config.author,
            rootfs=RootFS(diff_ids=[*base.config.rootfs.diff_ids, diff_id]),
            history=[*_told(base), step],
        )
        document = documents.encode(config)
        store.write(document)
        manifest = documents.encode(
            Manifest(
                schema_version=2,
                config=documents.describe(document, documents.OCI_CONFIG),
                layers=[*base.blobs, blob],
            )
        )
        store.write(manifest)
        described = documents.describe(manifest, documents.OCI_MANIFEST)
        return store.tag(name, described, source=f"commit:{container.name}")


def _told(base: _Base) -> Sequence[History]:
    """A history that has a line for each layer, since ours comes after them."""
    history = list(base.config.history or ())
    with_layers = sum(not step.empty_layer for step in history)
    return [*history, *(History(comment="a layer") for _ in base.blobs[with_layers:])]


def _base(store: Store, container: Container) -> _Base:
    """Of a stored image its own blobs; each layer of another one is packed."""
    image = container.image
    stored = store.lookup(image.digest)
    if stored is not None:
        return _Base(stored.config, [_plain(layer) for layer in stored.manifest.layers])
    packed = [_pack(store, layers.Tree(layer)) for layer in image.layers]
    config = ImageConfig(
        architecture=own_architecture(),
        os="linux",
        config=msgspec.convert(dict(image.config), Execution),
        rootfs=RootFS(diff_ids=[diff_id for _, diff_id in packed]),
    )
    return _Base(config, [blob for blob, _ in packed])


def _plain(blob: Descriptor) -> Descriptor:
    """A layer under OCI's name for its type: the manifest is of OCI's kind."""
    kinds = {
        "none": documents.OCI_LAYER,
        "gzip": documents.OCI_LAYER_GZIP,
        "zstd": documents.OCI_LAYER_ZSTD,
    }
    return msgspec.structs.replace(blob, media_type=kinds[documents.COMPRESSION[blob.media_type]])


def _pack(
    store: Store, tree: layers.Tree, *, made: Sequence[str] = ()
) -> tuple[Descriptor, digests.Digest]:
    with store.writer() as writer:
        packed = layers.pack(tree, writer, made=made)
        blob = writer.commit()
    described = Descriptor(media_type=documents.OCI_LAYER_GZIP, digest=blob, size=packed.size)
    return described, digests.parse(packed.diff_id)


def _now() -> str:
    """RFC 3339; what SOURCE_DATE_EPOCH says, if anything."""
    epoch = source_date_epoch()
    moment = datetime.now(UTC) if epoch is None else datetime.fromtimestamp(epoch, UTC)
    return moment.replace(microsecond=0, tzinfo=None).isoformat() + "Z"
