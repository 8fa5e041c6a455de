"""Looking for what a disk or a power cut did to the store, and putting it right.

A blob is right when its bytes have its digest. What is wrong is set aside, so that the next pull or
load of the image gets it again; the rest is not touched.
"""

from __future__ import annotations

import os
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from sandbox_kernel.errors import HostLacks, ImageError
from sandbox_kernel.image import digest as digests
from sandbox_kernel.image import documents
from sandbox_kernel.image.digest import Digest
from sandbox_kernel.image.documents import Descriptor, Manifest
from sandbox_kernel.image.store import blobs, layers, locks, names
from sandbox_kernel.image.store.places import EMPTY_INDEX, Places, flush_folder, write_file

CHUNK = 1 << 20
Kind = Literal["list", "blob", "layer", "image"]


class Problem(Struct, frozen=True):
    """Something that is wrong. `subject`: the digest or path; `images`: whose it is, if known."""

    kind: Kind
    subject: str
    why: str
    images: tuple[str, ...] = ()
    mended: str = ""
    """What `repair` did about it; empty: nothing."""

    def __str__(self) -> str:
        whose = f" (of {', '.join(self.images)})" if self.images else ""
        done = f": {self.mended}" if self.mended else ""
        return f"{self.kind} `{self.subject}`{whose}: {self.why}{done}"


def check(places: Places) -> list[Problem]:
    """Reads every byte of the store and tells what is wrong; changes nothing."""
    with locks.hold(places.lock("content"), shared=True):
        return _find(places)


def repair(places: Places) -> list[Problem]:
    """As `check`, and sets aside what is wrong. The images that lack something then say so.

    An image without its manifest or configuration can't be got again by that: it leaves the list.
    A list that can't be read is put back as it was before its last change, or made of the
    manifests that are there, whose names are lost then.
    """
    with locks.hold(places.lock("content")):
        mended = _mend_list(places)
        for problem in _find(places):
            try:
                mended.append(_mend(places, problem))
            except (HostLacks, OSError) as error:
                why = str(error) if isinstance(error, HostLacks) else error.strerror
                mended.append(replace(problem, why=f"{problem.why}; it can't be removed: {why}"))
        return mended


def _find(places: Places) -> list[Problem]:
    try:
        listed = names.listed(places)
    except ImageError as error:
        return [Problem("list", places.index, str(error))]
    owners: dict[Digest, list[str]] = {}
    problems: list[Problem] = []
    wrong = dict(_wrong_blobs(places))
    for image in listed:
        called = image.names or (image.digest,)
        try:
            manifest = _read(places, image.digest)
        except ImageError as error:
            problems.append(Problem("image", image.digest, str(error), tuple(called)))
            continue
        for part in (manifest.config, *manifest.layers):
            owners.setdefault(part.digest, []).extend(called)
            if not os.path.exists(places.blob(part.digest)):
                wrong.setdefault(part.digest, "it is not there")
    problems += [
        Problem("blob", digest, why, tuple(owners.get(digest, ()))) for digest, why in wrong.items()
    ]
    for name in sorted(os.listdir(f"{places.root}/layers")):
        if layers.find(places, Digest(f"sha256:{name}")) is None:
            problems.append(Problem("layer", name, "it is not whole: the machine stopped while "
                                    "it was made"))  # fmt: skip
    return problems


def _wrong_blobs(places: Places) -> list[tuple[Digest, str]]:
    found = []
    for algorithm in ("sha256", "sha512"):
        for name in sorted(os.listdir(f"{places.root}/blobs/{algorithm}")):
            path = f"{places.root}/blobs/{algorithm}/{name}"
            try:
                digest = digests.parse(f"{algorithm}:{name}")
            except ImageError:
                found.append((Digest(f"{algorithm}:{name}"), "its name is no digest"))
                continue
            try:
                actual = _hash(path, digest)
            except OSError as error:
                found.append((digest, f"it can't be read: {error.strerror}"))
                continue
            if actual != digest:
                size = os.stat(path).st_size
                found.append((digest, f"its {size} bytes have the digest `{actual}`"))
    return found


def _hash(path: str, digest: Digest) -> Digest:
    hashed = digests.hasher(digest)
    with open(path, "rb", buffering=0) as file:
        while data := file.read(CHUNK):
            hashed.update(data)
    return digests.from_hasher(hashed)


def _read(places: Places, digest: Digest) -> Manifest:
    cap = documents.LARGEST_DOCUMENT
    manifest = documents.decode_manifest(blobs.read(places, digest, cap))
    config = documents.decode_config(blobs.read(places, manifest.config.digest, cap))
    documents.check_layers(manifest, config)
    return manifest


def _mend(places: Places, problem: Problem) -> Problem:
    if problem.kind == "blob":
        digest = Digest(problem.subject)
        if os.path.exists(places.blob(digest)):
            os.unlink(places.blob(digest))
            flush_folder(os.path.dirname(places.blob(digest)))
        done = "pull or load the image again" if problem.images else "it is removed"
    elif problem.kind == "layer":
        folder = f"{places.root}/layers/{problem.subject}"
        gone = layers.remove(places, folder)
        done = "it is removed, and made again when it is needed" if gone else "it is in use: again"
    else:
        names.change(
            places, lambda there: [each for each in there if each.digest != problem.subject]
        )
        done = "it is taken from the list: pull or load it again"
    return replace(problem, mended=done)


def _mend_list(places: Places) -> list[Problem]:
    """A list of names that can be read."""
    why = ""
    try:
        names.read(places)
    except ImageError as error:
        why = str(error)
    if not why:
        return []
    previous = places.partial("index.previous")
    broken = places.partial("index.broken")
    with locks.hold(places.lock("names")):
        if os.path.exists(places.index):
            os.replace(places.index, broken)
        try:
            os.link(previous, places.index)
            names.read(places)
            done = "put back as it was before its last change"
        except (OSError, ImageError):
            if os.path.lexists(places.index):
                os.unlink(places.index)
            write_file(places.index, EMPTY_INDEX.encode())
            found = _manifests(places)
            names.replace(places, found)
            done = f"made again of the {len(found)} manifests that are there; names are lost"
        flush_folder(places.root)
    return [Problem("list", places.index, why, (), done)]


def _manifests(places: Places) -> list[Descriptor]:
    """Descriptors of all whole images, found by reading the small blobs."""
    found = []
    for name in sorted(os.listdir(f"{places.root}/blobs/sha256")):
        digest = Digest(f"sha256:{name}")
        try:
            data = blobs.read(places, digest, documents.LARGEST_DOCUMENT)
            if data.startswith(b"{"):
                manifest = _read(places, digest)
                found.append(documents.describe(data, manifest.media_type))
        except ImageError:
            continue  # no manifest, or not a whole one: not what is looked for
    return found
