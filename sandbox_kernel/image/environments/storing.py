"""An environment as an image of the store: its trees packed as layers, to be saved and pushed.

The layers are those that a container gets, without byte code, which depends on what was at hand.
The same lock over the same base gives the same digest, whoever packs it: all belongs to root, and
all times are the epoch of zip files, since when a wheel was unpacked is no part of it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from sandbox_kernel.errors import ImageError, shown
from sandbox_kernel.image import digest as digests
from sandbox_kernel.image import documents, layers
from sandbox_kernel.image.digest import Digest
from sandbox_kernel.image.documents import Descriptor, Execution, History, Manifest, RootFS
from sandbox_kernel.image.environments import declared, environment, places, resolving
from sandbox_kernel.image.environments.conda import image as conda
from sandbox_kernel.image.environments.conda import resolving as conda_resolving

if TYPE_CHECKING:
    from sandbox_kernel.image.registry.progress import Listener
    from sandbox_kernel.image.store import Store, Stored

EPOCH = 315_532_800
"""1980-01-01, the earliest time that a wheel can name."""
MOST_NOTE = 4096
PLAIN = {
    "none": documents.OCI_LAYER,
    "gzip": documents.OCI_LAYER_GZIP,
    "zstd": documents.OCI_LAYER_ZSTD,
}


def stored(store: Store, reference: str, progress: Listener | None = None) -> Stored:
    """The environment as an image of the store, without a name.

    Raises ImageError for a base that is not kept in the store, such as `host`; HostLacks.
    """
    from sandbox_kernel.image import reference as references
    from sandbox_kernel.image.resolve import resolve
    from sandbox_kernel.image.resolve import stored as stored_base

    found = declared.read(reference)
    if found.base in ("host", "scratch") or found.base.startswith("dir:"):
        raise ImageError(
            f"keep `{shown(reference)}` in the store: `{shown(found.base)}` below it is not kept "
            "there: name another base, as in `packages: ... on python:3.12`"
        )
    base = stored_base(store, references.parse(found.base), progress)
    below = resolve(base.digest, progress=progress)
    if declared.is_conda(reference):
        of_conda = conda_resolving.lock(found, conda.base_of(below))
        made = conda.compose(found.reference, of_conda, below)
        trees = conda.trees(of_conda, found.reference)
    else:
        python = environment.python_of(below)
        lock = resolving.lock(found, python)
        made = environment.compose(found.reference, lock, below, python)
        trees = environment.trees(lock, python)
    with store.adding():
        packed = [_layer(store, tree) for tree in trees]
        return _write(store, base, made.config, found.reference, packed)


def _layer(store: Store, tree: str) -> tuple[Descriptor, Digest]:
    """The blob and diff id of a tree; packed once, as long as the store has it."""
    note = os.path.join(places.folder("packed"), os.path.basename(tree))
    data = places.read(note, MOST_NOTE)
    known = json.loads(data) if data else {}
    if known and store.has(digests.parse(known["digest"])):
        digest, size, diff_id = known["digest"], known["size"], known["diff_id"]
    else:
        with store.writer() as writer:
            done = layers.pack(tree, writer, epoch=EPOCH, owner=(0, 0))
            writer.commit()
        digest, size, diff_id = done.digest, done.size, done.diff_id
        told = {"digest": digest, "size": size, "diff_id": diff_id}
        places.write(note, json.dumps(told).encode())
    blob = Descriptor(
        media_type=documents.OCI_LAYER_GZIP, digest=digests.parse(digest), size=int(size)
    )
    return blob, digests.parse(diff_id)


def _write(
    store: Store,
    base: Stored,
    made: Mapping[str, Any],
    reference: str,
    packed: list[tuple[Descriptor, Digest]],
) -> Stored:
    """Configuration and manifest: those of the base with more layers, variables and a program."""
    execution = base.config.config or Execution()
    command = execution.cmd if execution.entrypoint else made.get("Cmd")
    history = [
        History(created=base.config.created, created_by=f"{reference} # sandbox-kernel")
        for _ in packed
    ]
    config = msgspec.structs.replace(
        base.config,
        config=msgspec.structs.replace(execution, env=made["Env"], cmd=command),
        rootfs=RootFS(diff_ids=[*base.diff_ids, *(diff_id for _, diff_id in packed)]),
        history=[*(base.config.history or ()), *history],
    )
    data = documents.encode(config)
    manifest = Manifest(
        schema_version=2,
        config=documents.describe(data, documents.OCI_CONFIG),
        layers=[*map(_plain, base.manifest.layers), *(blob for blob, _ in packed)],
    )
    written = documents.encode(manifest)
    store.write(data)
    store.write(written)
    return store.tag(None, documents.describe(written, documents.OCI_MANIFEST), source=reference)


def _plain(blob: Descriptor) -> Descriptor:
    """A layer of the base under OCI's name for its type: the manifest is of OCI's kind."""
    compression = documents.COMPRESSION.get(blob.media_type)
    if compression is None:
        raise ImageError(
            f"keep layer `{blob.digest}`: its type `{shown(blob.media_type)}` is not known: use a "
            "base with layers of tar, gzip or zstd"
        )
    return msgspec.structs.replace(blob, media_type=PLAIN[compression])
