"""Garbage: what no image of the list needs any more is removed, but for what a container uses.

Collecting holds the lock `content` alone, so nobody is adding at that time; while somebody does, a
removal takes the names only, and the next collection does the rest.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from msgspec import Struct

from sandbox_kernel.errors import HostLacks, ImageError
from sandbox_kernel.image import digest as digests
from sandbox_kernel.image import documents
from sandbox_kernel.image.digest import Digest
from sandbox_kernel.image.store import blobs, layers, locks, names
from sandbox_kernel.image.store.places import Places

KEPT_IN_PARTIAL = ("index.previous",)


class Collected(Struct, frozen=True):
    """What a collection did. `bytes`: what the removed blobs took; `in_use`: layers that
    containers still stand on; `busy`: somebody was adding images, so nothing was collected;
    `stuck`: what could not be removed, and why. It stays garbage, which the next one tries."""

    blobs: int = 0
    layers: int = 0
    bytes: int = 0
    in_use: int = 0
    busy: bool = False
    stuck: tuple[str, ...] = ()


def collect(places: Places, *, wait: bool = False) -> Collected:
    """Remove what nothing refers to. `wait`: until those who add are through.

    Raises ImageError when the list of names or a manifest in it can't be read: then nobody knows
    what is garbage, and nothing is removed.
    """
    path = places.lock("content")
    lock = locks.hold(path) if wait else locks.try_hold(path)
    if lock is None:
        return Collected(busy=True)
    with lock:
        wanted, diff_ids = _wanted(places)
        stuck: list[str] = []
        removed = []
        for path in _unwanted_blobs(places, wanted):
            with _noting(path, stuck):
                removed.append(_size_of(path))
        gone = in_use = 0
        # Before it has what is removed now: that is told once.
        _sweep(places, stuck)
        for name in os.listdir(f"{places.root}/layers"):
            if name not in diff_ids:
                with _noting(name, stuck):
                    if layers.remove(places, f"{places.root}/layers/{name}"):
                        gone += 1
                    else:
                        in_use += 1
        return Collected(len(removed), gone, sum(removed), in_use, stuck=tuple(stuck))


@contextmanager
def _noting(path: str, stuck: list[str]) -> Iterator[None]:
    """What can't be removed is no reason to keep the rest."""
    try:
        yield
    except HostLacks as error:
        stuck.append(str(error))
    except OSError as error:
        stuck.append(f"remove `{path}`: {error.strerror}")


def _wanted(places: Places) -> tuple[set[Digest], set[str]]:
    """The blobs and the layers (hexadecimal digits of their diff ids) that images need."""
    wanted: set[Digest] = set()
    diff_ids: set[str] = set()
    for image in names.listed(places):
        cap = documents.LARGEST_DOCUMENT
        manifest = documents.decode_manifest(blobs.read(places, image.digest, cap))
        wanted |= {image.digest, *([image.index] if image.index else [])}
        wanted |= {part.digest for part in (manifest.config, *manifest.layers)}
        config = documents.decode_config(blobs.read(places, manifest.config.digest, cap))
        layered = config.rootfs.diff_ids
        chains = [digests.chain(layered[:count]) for count in range(1, len(layered) + 1)]
        diff_ids |= {digests.hexadecimal(name) for name in (*layered, *chains)}
    return wanted, diff_ids


def _unwanted_blobs(places: Places, wanted: set[Digest]) -> Iterable[str]:
    kept = {places.blob(digest) for digest in wanted}
    for folder in ("sha256", "sha512"):
        for name in os.listdir(f"{places.root}/blobs/{folder}"):
            path = f"{places.root}/blobs/{folder}/{name}"
            if path not in kept:
                yield path


def _size_of(path: str) -> int:
    """Removes the file; its bytes."""
    size = os.stat(path, follow_symlinks=False).st_size
    os.unlink(path)
    return size


def _sweep(places: Places, stuck: list[str]) -> None:
    """What killed processes left, and locks that nobody holds."""
    with locks.hold(places.lock("names")):  # who changes the list writes it in `partial` first
        left = [name for name in os.listdir(places.partial("")) if name not in KEPT_IN_PARTIAL]
        for name in left:
            path = places.partial(name)
            with _noting(path, stuck):
                if stat.S_ISDIR(os.stat(path, follow_symlinks=False).st_mode):
                    layers.discard(path)
                else:
                    os.unlink(path)
    for name in os.listdir(places.lock("")):
        if name in ("content", "names"):
            continue
        lock = locks.try_hold(places.lock(name), passing=True)
        if lock is not None:
            lock.release()


def forget(places: Places, *, named: bool) -> tuple[Digest, ...]:
    """Take the images without a name from the list (all, with `named`); which these were."""
    gone: dict[Digest, None] = {}

    def edit(there: list[documents.Descriptor]) -> list[documents.Descriptor]:
        left = [each for each in there if not named and names.NAME in (each.annotations or {})]
        gone.update(dict.fromkeys(each.digest for each in there if each not in left))
        return left

    names.change(places, edit)
    return tuple(gone)


def remove(places: Places, digest: Digest, *, name: str | None) -> bool:
    """Take a name from an image, or (None) the whole image from the list. Whether it was the last.

    Raises ImageError when the list has no such name or image.
    """
    last = False

    def edit(there: list[documents.Descriptor]) -> list[documents.Descriptor]:
        nonlocal last
        if not any(each.digest == digest for each in there):
            raise ImageError(f"remove image `{digest}`: the store has none such any more")
        if name is None:
            last = True
            return [each for each in there if each.digest != digest]
        left = [
            each
            for each in there
            if each.digest != digest or (each.annotations or {}).get(names.NAME) != name
        ]
        if len(left) == len(there):
            raise ImageError(f"remove image `{name}`: the store has no such name any more")
        last = all(each.digest != digest for each in left)
        return left

    names.change(places, edit)
    return last
