"""Getting images out of layouts and archives into the store, every blob checked."""

from __future__ import annotations

import json
import os
from typing import NamedTuple, NoReturn

import msgspec

from sandbox_kernel.errors import ImageError, shown
from sandbox_kernel.image import digest as digests
from sandbox_kernel.image import documents, reference
from sandbox_kernel.image.architectures import own_architecture
from sandbox_kernel.image.archives import sources
from sandbox_kernel.image.archives.sources import Source
from sandbox_kernel.image.digest import Digest
from sandbox_kernel.image.documents import Descriptor, Index
from sandbox_kernel.image.reference import Archive, Layout
from sandbox_kernel.image.store import Store, Stored
from sandbox_kernel.image.store.names import NAME

CONTAINERD_NAME = "io.containerd.image.name"
"""Where docker notes the whole name in its archives; NAME has the tag alone there."""
MOST_IMAGES = 1000
DEEPEST_INDEX = 3


class _Docker(msgspec.Struct, rename="pascal"):
    """One image of a docker archive's `manifest.json`."""

    config: str
    layers: list[str]
    repo_tags: list[str] | None = None


class _Found(NamedTuple):
    """An image of the source: what it is called there, and how it gets into the store."""

    names: tuple[str, ...]
    take: Descriptor | _Docker


def load(store: Store, path: str, *, fd: int | None = None) -> list[Stored]:
    """Every image of an archive or layout, with the names that it has there.

    Raises ImageError when something of it is not whole; the store is as it was then but for blobs
    that nothing refers to.
    """
    with sources.opened(path, store, fd) as source, store.adding():
        return [_take(store, source, found, f"archive {path}") for found in _found(source)]


def load_one(store: Store, asked: Layout | Archive) -> Stored:
    """The image that a reference names; one that was loaded of the same file before is not read
    again. Raises ImageError when there is none or more than one."""
    source_note = f"{asked} {_stamp(asked.path)}"
    for known in store.images():
        if known.source == source_note and (whole := _whole(store, known.digest)):
            return whole
    with sources.opened(asked.path, store) as source, store.adding():
        found = _found(source, None if isinstance(asked, Layout) else asked.kind)
        if asked.tag is not None:
            found = [each for each in found if asked.tag in _spellings(each.names)]
        if len(found) != 1:
            why = "it has no such image" if not found else f"it has {len(found)} images"
            _refuse(str(asked), f"{why}: name one as `{asked.path}:NAME`")
        return _take(store, source, found[0], source_note, keep_names=False)


def _whole(store: Store, digest: Digest) -> Stored | None:
    """The image, unless something of it was taken away as damaged since it was loaded."""
    try:
        found = store.find(digest)
    except ImageError:
        return None
    return found if all(store.has(part.digest) for part in found.manifest.layers) else None


def _stamp(path: str) -> str:
    """Another one when the file was changed."""
    index = os.path.join(path, "index.json")
    try:
        seen = os.stat(index if os.path.isdir(path) else path)
    except OSError as error:
        raise ImageError(
            f"open `{shown(path)}`: {error.strerror}: name a layout or archive that is there"
        ) from None
    return f"{seen.st_ino}-{seen.st_size}-{seen.st_mtime_ns}"


def _spellings(names: tuple[str, ...]) -> set[str]:
    """A name as it stands there, whole, and as people write it."""
    found = set(names)
    for name in names:
        try:
            parsed = reference.registry(name)
        except ImageError:
            continue
        found |= {str(parsed), parsed.familiar, parsed.tag or ""}
    return found


def _found(source: Source, kind: str | None = None) -> list[_Found]:
    """The images of a source. An archive of docker's may be both kinds: then it is an OCI one."""
    if kind != "docker" and source.has("oci-layout"):
        return _layout(source)
    if kind == "oci" or not source.has("manifest.json"):
        _refuse(source.path, "it has no `oci-layout` and no `manifest.json` to be read: no image")
    return _docker(source)


def _layout(source: Source) -> list[_Found]:
    try:
        version = json.loads(sources.read(source, "oci-layout", 4096)).get("imageLayoutVersion")
    except (ValueError, AttributeError):
        version = None
    if version != "1.0.0":
        _refuse(source.path, f"its `oci-layout` is of version `{shown(version)}`, not 1.0.0")
    index = documents.decode_index(sources.read(source, "index.json", documents.LARGEST_DOCUMENT))
    by_digest: dict[Digest, tuple[Descriptor, list[str]]] = {}
    for descriptor in index.manifests:
        notes = descriptor.annotations or {}
        name = notes.get(CONTAINERD_NAME) or notes.get(NAME)
        by_digest.setdefault(descriptor.digest, (descriptor, []))[1].extend([name] if name else [])
    found = [_Found(tuple(names), descriptor) for descriptor, names in by_digest.values()]
    # One name may stand at the images of several machines, and at what tells how they were made.
    fitting = {each.names for each in found if _fits(each.take)}
    return [each for each in found if _fits(each.take) or each.names not in fitting]


def _fits(descriptor: object) -> bool:
    """Whether it may be for this machine: it is said to be, or nothing is said."""
    platform = descriptor.platform if isinstance(descriptor, Descriptor) else None
    if platform is None:
        return True
    return (platform.os, platform.architecture) == ("linux", own_architecture())


def _docker(source: Source) -> list[_Found]:
    data = sources.read(source, "manifest.json", documents.LARGEST_DOCUMENT)
    try:
        images = msgspec.json.decode(data, type=list[_Docker])
    except (msgspec.DecodeError, RecursionError) as error:
        _refuse(source.path, f"its `manifest.json` is not as it must be: {shown(error)}")
    if len(images) > MOST_IMAGES:
        _refuse(source.path, f"it has {len(images)} images, more than {MOST_IMAGES}")
    return [_Found(tuple(image.repo_tags or ()), image) for image in images]


def _take(
    store: Store, source: Source, found: _Found, note: str, *, keep_names: bool = True
) -> Stored:
    if isinstance(found.take, Descriptor):
        descriptor, index = _take_oci(store, source, found.take)
    else:
        descriptor, index = _take_docker(store, source, found.take), None
    names: list[str | None] = [name for name in found.names if keep_names and _is_whole(name)]
    for name in names or [None]:
        kept = store.tag(name, descriptor, source=note, index=index)
    return kept


def _is_whole(name: str) -> bool:
    """`latest` alone is a tag of no known image; `app:1` and `host/app` are names."""
    if not ({"/", ":"} & set(name)):
        return False
    try:
        return reference.registry(name).digest is None
    except ImageError:
        return False


# -- OCI -----------------------------------------------------------------------------------------


def _take_oci(
    store: Store, source: Source, descriptor: Descriptor
) -> tuple[Descriptor, Digest | None]:
    """The manifest of this machine, with the digest of the index in which it stands, if it does."""
    index: Digest | None = None
    for _ in range(DEEPEST_INDEX):
        data = _document(source, descriptor)
        document = documents.decode(data, descriptor.media_type)
        if not isinstance(document, Index):
            break
        index = index or descriptor.digest
        chosen = [each for each in document.manifests if _fits(each)]
        if not chosen:
            _refuse(source.path, f"no image in it is for linux/{own_architecture()}")
        descriptor = chosen[0]
    else:
        _refuse(source.path, f"its indexes are nested deeper than {DEEPEST_INDEX}")
    for part in (document.config, *document.layers):
        _copy(store, source, _blob(part.digest), part.digest, part.size)
    store.write(data)
    return documents.describe(data, document.media_type), index


def _document(source: Source, descriptor: Descriptor) -> bytes:
    data = sources.read(source, _blob(descriptor.digest), documents.LARGEST_DOCUMENT)
    hashed = digests.hasher(descriptor.digest)
    hashed.update(data)
    if digests.from_hasher(hashed) != descriptor.digest:
        _refuse(source.path, f"the bytes of `{descriptor.digest}` in it have another digest")
    return data


def _blob(digest: Digest) -> str:
    return f"blobs/{digests.algorithm(digest)}/{digests.hexadecimal(digest)}"


def _copy(store: Store, source: Source, name: str, digest: Digest, size: int) -> None:
    with store.writer(digest, size) as writer:
        if writer.present:
            return
        writer.restart()
        for data in source.chunks(name):
            writer.write(data)
        writer.commit()


# -- docker --------------------------------------------------------------------------------------


def _take_docker(store: Store, source: Source, image: _Docker) -> Descriptor:
    """Its layers are plain tars (or gzip's), whose digests the configuration knows."""
    data = sources.read(source, image.config, documents.LARGEST_DOCUMENT)
    config = documents.decode_config(data)
    diff_ids = config.rootfs.diff_ids
    if len(image.layers) != len(diff_ids):
        _refuse(
            source.path,
            f"an image has {len(image.layers)} layers and {len(diff_ids)} diff ids",
        )
    layers = []
    for name, diff_id in zip(image.layers, diff_ids, strict=True):
        size = source.size(name)
        compressed = next(source.chunks(name), b"").startswith(sources.GZIP)
        if compressed:
            with store.writer(size=size) as writer:
                for piece in source.chunks(name):
                    writer.write(piece)
                digest = writer.commit()
        else:
            _copy(store, source, name, diff_id, size)
            digest = diff_id
        media_type = documents.OCI_LAYER_GZIP if compressed else documents.OCI_LAYER
        layers.append(Descriptor(media_type=media_type, digest=digest, size=size))
    store.write(data)
    manifest = documents.encode(
        documents.Manifest(
            schema_version=2,
            config=documents.describe(data, documents.OCI_CONFIG),
            layers=layers,
        )
    )
    store.write(manifest)
    return documents.describe(manifest, documents.OCI_MANIFEST)


def _refuse(path: str, why: str) -> NoReturn:
    raise ImageError(f"load `{shown(path)}`: {why}")
