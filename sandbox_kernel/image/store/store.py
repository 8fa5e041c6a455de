"""The store of one user's images: content by its digest, names beside it, layers unpacked once.

On disk it is an OCI image layout, which `skopeo` and `umoci` read. Nothing of it is changed in
place, so whoever is killed at any time leaves it whole, and any number of processes use it at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import cached_property

from msgspec import Struct

from sandbox_kernel.errors import ImageError, shown
from sandbox_kernel.image import digest as digests
from sandbox_kernel.image import documents, reference
from sandbox_kernel.image.digest import Digest
from sandbox_kernel.image.documents import Descriptor, ImageConfig, Manifest
from sandbox_kernel.image.store import blobs, checking, collecting, layers, locks, names
from sandbox_kernel.image.store.blobs import BlobWriter, Partial
from sandbox_kernel.image.store.checking import Problem
from sandbox_kernel.image.store.collecting import Collected
from sandbox_kernel.image.store.names import Listed
from sandbox_kernel.image.store.places import Places, prepare, usual_root

SHORTEST_PREFIX = 6
"""Digits of a digest that are taken for its beginning, where no name is so."""
WHOLE = 64


class Stored(Struct, frozen=True):
    """One image of the store. `size`: bytes of its blobs; `created`: RFC 3339 or empty."""

    digest: Digest
    names: tuple[str, ...]
    manifest: Manifest
    config: ImageConfig
    size: int
    created: str
    source: str
    index: Digest | None
    descriptor: Descriptor

    @property
    def diff_ids(self) -> tuple[Digest, ...]:
        """Of the layers, lowest first."""
        return tuple(self.config.rootfs.diff_ids)


class Removed(Struct, frozen=True):
    """What a removal did. `last`: the image itself is gone, not only some names."""

    digest: Digest
    names: tuple[str, ...]
    last: bool
    collected: Collected


class Pruned(Struct, frozen=True):
    """Which images are gone, and what was collected with them."""

    images: tuple[Digest, ...]
    collected: Collected


class Lease:
    """Keeps the unpacked layers of an image until it is released or the process ends."""

    def __init__(self, fds: tuple[int, ...]) -> None:
        self.fds = fds

    def release(self) -> None:
        """Twice is once."""
        for fd in self.fds:
            os.close(fd)
        self.fds = ()

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Store:
    """One user's images; `Store.open()` gives it."""

    def __init__(self, places: Places) -> None:
        self.places = places

    @classmethod
    def open(cls, root: str | None = None) -> Store:
        """The store in a folder, made if it is missing; None: this user's own.

        Raises ImageError when the folder can't be used, or is not this user's alone.
        """
        return cls(prepare(os.path.abspath(root) if root is not None else usual_root()))

    @cached_property
    def root(self) -> str:
        """The folder."""
        return self.places.root

    def adding(self) -> locks.Lock:
        """Held (`with store.adding():`) from the first blob of an image until it is tagged.

        Until then nothing refers to the blobs, and a collection of garbage would take them.
        """
        return locks.hold(self.places.lock("content"), shared=True)

    # -- blobs ---------------------------------------------------------------------------------

    def writer(self, expected: Digest | None = None, size: int | None = None) -> BlobWriter:
        """A context manager that writes one blob; of two for one digest the second waits."""
        return BlobWriter(self.places, expected, size)

    def write(self, data: bytes) -> Digest:
        """Put a small blob there."""
        with self.writer(size=len(data)) as writer:
            writer.write(data)
            return writer.commit()

    def partial(self, digest: Digest) -> Partial | None:
        """The beginning of a blob that an earlier try left."""
        return blobs.partial(self.places, digest)

    def read(self, digest: Digest, cap: int = documents.LARGEST_DOCUMENT) -> bytes:
        """A whole blob of at most `cap` bytes, checked. Raises ImageError."""
        return blobs.read(self.places, digest, cap)

    def open_blob(self, digest: Digest) -> int:
        """A descriptor for reading, which the caller closes. Raises ImageError."""
        return blobs.open_blob(self.places, digest)

    def has(self, digest: Digest) -> bool:
        """Whether the blob is there."""
        return os.path.exists(self.places.blob(digest))

    # -- names ---------------------------------------------------------------------------------

    def tag(
        self,
        name: str | None,
        manifest: Descriptor,
        *,
        source: str = "",
        index: Digest | None = None,
    ) -> Stored:
        """Let a name mean an image whose blobs are all here; None: keep it without a name.

        `index` is the digest of the index of platforms by which it was found. Raises ImageError
        when the name is none, a blob is missing, or the documents are not as they must be.
        """
        full = None if name is None else self.full_name(name)
        with self.adding():
            found = self._whole(manifest)
            notes = {
                names.CREATED: found.created,
                names.SIZE: str(found.size),
                names.SOURCE: source,
                names.INDEX: index or "",
                names.NAME: full or "",
            }
            entry = Descriptor(
                media_type=found.manifest.media_type,
                digest=manifest.digest,
                size=manifest.size,
                platform=found.config.platform,
                annotations={key: text for key, text in notes.items() if text},
            )
            if full is None:
                names.change(self.places, lambda there: names.tidy([*there, entry]))
            else:
                names.change(self.places, lambda there: names.named(there, full, entry))
        return self.find(manifest.digest)

    def full_name(self, name: str) -> str:
        """`python:3` -> `docker.io/library/python:3`. Raises ImageError for what is no name."""
        found = reference.registry(name)
        if found.digest is not None:
            raise ImageError(
                f"tag `{shown(name)}`: a name with a digest can't be given: leave `@...` away"
            )
        return str(found)

    def images(self) -> list[Listed]:
        """All images as the list has them, in the order in which they came."""
        return names.listed(self.places)

    def names(self) -> dict[str, Digest]:
        """Every name, and the digest that it means."""
        return {name: image.digest for image in self.images() for name in image.names}

    def find(self, text: str) -> Stored:
        """The image of a name, a digest or the beginning of one. Raises ImageError if none is."""
        found = self.lookup(text)
        if found is None:
            raise ImageError(
                f"find image `{shown(text)}`: the store has none such: `sandbox-kernel images` "
                "lists those that are there, `sandbox-kernel pull` gets others"
            )
        return found

    def lookup(self, text: str) -> Stored | None:
        """The same, or None."""
        listed = self._match(text)
        return self._load(listed) if listed else None

    def _match(self, text: str) -> Listed | None:
        images = self.images()
        if as_it_stands := next((image for image in images if text in image.names), None):
            return as_it_stands  # whole already, or as another program wrote it
        begins = text.removeprefix("sha256:")
        is_beginning = len(begins) >= SHORTEST_PREFIX and not set(begins) - set("0123456789abcdef")
        if not (is_beginning and (text != begins or len(begins) == WHOLE)):
            found = _named(images, reference.parse(text))
            if found is not None or not is_beginning:
                return found
        whole = [image for image in images if f"sha256:{begins}" in (image.digest, image.index)]
        found_so = whole or [i for i in images if i.digest.startswith(f"sha256:{begins}")]
        if len(found_so) > 1:
            raise ImageError(
                f"find image `{shown(text)}`: {len(found_so)} begin so: give more of the digest"
            )
        return found_so[0] if found_so else None

    def _load(self, listed: Listed) -> Stored:
        found = self._whole(listed.descriptor, present=False)
        return Stored(
            digest=listed.digest,
            names=listed.names,
            manifest=found.manifest,
            config=found.config,
            size=found.size,
            created=found.created,
            source=listed.source,
            index=listed.index,
            descriptor=listed.descriptor,
        )

    def _whole(self, descriptor: Descriptor, *, present: bool = True) -> Stored:
        """The documents of an image, checked; `present`: all its blobs have to be here too."""
        manifest = documents.decode_manifest(self.read(descriptor.digest))
        config = documents.decode_config(self.read(manifest.config.digest))
        documents.check_layers(manifest, config)
        for part in manifest.layers if present else ():
            try:
                size = os.stat(self.places.blob(part.digest)).st_size
            except FileNotFoundError:
                size = -1
            if size != part.size:
                why = "is not there" if size < 0 else f"has {size} bytes, not {part.size}"
                raise ImageError(
                    f"keep image `{descriptor.digest}`: its layer `{part.digest}` {why}: pull or "
                    "load it again"
                )
        size = descriptor.size + manifest.config.size + sum(p.size for p in manifest.layers)
        created = config.created or ""
        return Stored(descriptor.digest, (), manifest, config, size, created, "", None, descriptor)

    def remove(self, text: str) -> Removed:
        """Take a name from its image, and the image with its last name; by digest, all of it.

        Layers that a container uses stay until a later `prune`. Raises ImageError when there is no
        such image.
        """
        found = self.find(text)
        named = text if text in found.names else self._as_name(text)
        name = named if named in found.names else None
        last = collecting.remove(self.places, found.digest, name=name)
        gone = (name,) if name else found.names
        collected = collecting.collect(self.places) if last else collecting.Collected()
        return Removed(found.digest, gone, last, collected)

    def prune(self, *, named: bool = False, wait: bool = True) -> Pruned:
        """Remove the images without a name (or all, with `named`), and what nothing refers to."""
        gone = collecting.forget(self.places, named=named)
        return Pruned(gone, collecting.collect(self.places, wait=wait))

    def check(self) -> list[Problem]:
        """What is wrong with the store; every byte is read. Nothing is changed."""
        return checking.check(self.places)

    def repair(self) -> list[Problem]:
        """What was wrong with the store, and what was done about each."""
        return checking.repair(self.places)

    def _as_name(self, text: str) -> str | None:
        try:
            found = reference.registry(text)
        except ImageError:
            return None
        return None if found.digest else str(found)

    # -- layers --------------------------------------------------------------------------------

    def layer(self, diff_id: Digest) -> str | None:
        """The tree of an unpacked layer, or None when it is not unpacked."""
        return layers.find(self.places, diff_id)

    def notice(self, tree: str) -> str | None:
        """What `make` gave back when it filled this tree: something to tell who uses it."""
        return layers.notice(tree)

    def add_layer(self, diff_id: Digest, make: Callable[[str], str | None]) -> str:
        """The tree of a layer; `make` fills the empty folder that it is given, if need be.

        What `make` gives back is kept with it (see `notice`).

        Raises ImageError when the disk can't take it, and whatever `make` raises.
        """
        return layers.add(self.places, diff_id, make)

    def settle(self, trees: Iterable[str]) -> None:
        """Flush layers that were made a while ago, so that they outlive a power cut."""
        layers.settle(self.places, trees)

    def use(self, image: Stored) -> Lease:
        """Keep the unpacked layers of an image from being removed while it is used.

        Raises ImageError when one of them is not there.
        """
        fds: list[int] = []
        try:
            for index, diff_id in enumerate(image.diff_ids):
                chain = digests.chain(image.diff_ids[: index + 1])
                fd = layers.hold(self.places, diff_id)
                if fd is None:
                    fd = layers.hold(self.places, chain)
                if fd is None:
                    raise ImageError(
                        f"use image `{image.digest}`: its layer `{diff_id}` is not unpacked any "
                        "more: try again"
                    )
                fds.append(fd)
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        return Lease(tuple(fds))


def _named(images: list[Listed], asked: reference.Reference) -> Listed | None:
    """The image that a reference names: by its digest, whatever the name, or by its name."""
    if isinstance(asked, (reference.Registry, reference.Identity)) and asked.digest is not None:
        return next((i for i in images if asked.digest in (i.digest, i.index)), None)
    return next((image for image in images if str(asked) in image.names), None)
