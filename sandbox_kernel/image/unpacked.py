"""A stored image as containers need it: its layers unpacked, its configuration, its Python."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from sandbox_kernel.errors import ImageError, shown
from sandbox_kernel.image import digest as digests
from sandbox_kernel.image import documents
from sandbox_kernel.image.architectures import ARCHITECTURES, own_architecture
from sandbox_kernel.image.digest import Digest
from sandbox_kernel.image.documents import Descriptor, ImageConfig
from sandbox_kernel.image.environments.tree import Tree
from sandbox_kernel.image.image import Image
from sandbox_kernel.image.store import Store, Stored

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from sandbox_kernel.image.registry.progress import Listener, Stage

INTERPRETERS = ("python3", "python")
USUAL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

EMULATORS = "/proc/sys/fs/binfmt_misc"


def image(text: str, store: Store, stored: Stored, *, progress: Listener | None = None) -> Image:
    """The image with all its layers unpacked. Raises ImageError when one of them can't be."""
    refuse_other_machines(text, stored.config)
    layers = unpack(store, stored, progress=progress)
    config = stored.config.execution()
    return Image(
        reference=text,
        digest=stored.digest,
        layers=layers,
        config=config,
        interpreter=interpreter(layers, config),
        leases=tuple(os.path.dirname(layer) for layer in layers),
        notices=tuple(dict.fromkeys(filter(None, map(store.notice, layers)))),
    )


def unpack(
    store: Store,
    stored: Stored,
    *,
    depending: Container[Digest] = (),
    progress: Listener | None = None,
) -> tuple[str, ...]:
    """The trees of an image's layers, lowest first, unpacked where they are not yet.

    A layer that stands twice is there once, where it is highest: nothing of the lower one can be
    seen, and overlayfs takes no folder twice. `depending`: diff ids of layers whose trees are known
    to depend on those below them.
    """
    found: list[str] = []
    for index, layer in enumerate(stored.manifest.layers):
        diff_ids = stored.diff_ids[: index + 1]
        alone = diff_ids[-1] not in depending
        made = tree(store, layer, diff_ids, tuple(found), alone=alone, progress=progress)
        if made in found:
            found.remove(made)
        found.append(made)
    store.settle(found)
    return tuple(found)


def tree(
    store: Store,
    layer: Descriptor,
    diff_ids: Sequence[Digest],
    below: tuple[str, ...],
    *,
    alone: bool = True,
    progress: Listener | None = None,
) -> str:
    """The tree of one layer, unpacked if it is not yet. Raises ImageError.

    `diff_ids`: of the layers below it, lowest first, and its own; `below`: the trees below it;
    `alone`: to be tried without them first.
    """
    chain = digests.chain(diff_ids)
    found = store.layer(diff_ids[-1]) or store.layer(chain)
    if found is None:
        _tell(progress, layer, "unpacking", 0)
        found = _make(store, layer, diff_ids[-1], chain, below, alone=alone)
        _tell(progress, layer, "done", layer.size)
    return found


class _NeedsLower(Exception):
    """The tree of a layer can't be right without those below it (see `layers.LayerFacts`)."""


def _make(
    store: Store,
    layer: Descriptor,
    diff_id: Digest,
    chain: Digest,
    below: tuple[str, ...],
    *,
    alone: bool,
) -> str:
    """Unpack a layer: alone, to be shared, or where that can't be for this order of layers only.

    The lowest one too is first unpacked as if others could be below it: in another image they are.
    """
    compression = documents.COMPRESSION.get(layer.media_type)
    if compression is None:
        raise ImageError(
            f"unpack layer `{layer.digest}`: its type `{shown(layer.media_type)}` is not known: "
            "build or push the image with layers of tar, gzip or zstd"
        )

    def make(folder: str, parents: tuple[str, ...] | None) -> str | None:
        from sandbox_kernel.image import layers

        blob = store.open_blob(layer.digest)
        try:
            facts = layers.apply(
                blob,
                compression,
                folder,
                diff_id=diff_id,
                parents=parents,
                alone=parents is None,  # to be told at once that it can't be
            )
        finally:
            os.close(blob)
        if parents is None and facts.depends:
            raise _NeedsLower
        return facts.notice()

    try:
        if alone:
            return store.add_layer(diff_id, lambda folder: make(folder, None))
    except _NeedsLower:
        pass
    return store.add_layer(chain, lambda folder: make(folder, below))


def _tell(progress: Listener | None, layer: Descriptor, stage: Stage, done: int) -> None:
    if progress is not None:
        from sandbox_kernel.image.registry.progress import Progress

        progress(Progress(layer.digest, stage, done, layer.size))


def interpreter(layers: tuple[str, ...], config: dict[str, Any]) -> str | None:
    """The Python that a shell of the image would find, looked for in its files; None: it has none.

    The `PATH` is the image's own. What is found is a regular file that may be executed, at the end
    of links that are followed inside the image.
    """
    if not layers:
        return None
    variables = dict(str(item).partition("=")[::2] for item in config.get("Env") or ())
    folders = variables.get("PATH") or USUAL_PATH
    with Tree(layers) as tree:
        for name in INTERPRETERS:
            for folder in folders.split(":"):
                path = f"{folder.rstrip('/')}/{name}"
                if folder.startswith("/") and _is_program(tree, path):
                    return path
    return None


def _is_program(tree: Tree, path: str) -> bool:
    try:
        descriptor = tree.open(path)
    except PermissionError:
        return True  # of another owner: that it is there is all that can be seen from here
    except OSError:
        return False
    try:
        return bool(os.fstat(descriptor).st_mode & 0o111)
    finally:
        os.close(descriptor)


def refuse_other_machines(text: str, config: ImageConfig) -> None:
    """Raises ImageError for an image whose programs this machine can't run."""
    own = own_architecture()
    if config.os != "linux":
        why = f"it is for {shown(config.os)}, and containers here are Linux"
    elif config.architecture != own and not _emulated(config.architecture):
        why = f"it is for {shown(config.platform)}, and this machine is linux/{own}"
    else:
        return
    raise ImageError(f"use image `{shown(text)}`: {why}: get the image for linux/{own}")


def _emulated(architecture: str) -> bool:
    """Whether the kernel has an emulator for the programs of another machine (binfmt_misc)."""
    names = [name for name, go in ARCHITECTURES.items() if go == architecture]
    return any(os.path.exists(f"{EMULATORS}/qemu-{name}") for name in (*names, architecture))
