"""The list of names, `index.json`: which name means which image.

One descriptor for each name, in the annotation that OCI has for it; an image without a name has one
descriptor without that annotation. What a list of images shows stands beside the name, so that
listing reads one file. Who changes the list holds the lock `names`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

import msgspec

from sandbox_kernel.errors import ImageError
from sandbox_kernel.image.digest import Digest
from sandbox_kernel.image.documents import Descriptor, Index, encode
from sandbox_kernel.image.store import locks
from sandbox_kernel.image.store.places import Places, flush_folder, write_file

NAME = "org.opencontainers.image.ref.name"
CREATED = "org.opencontainers.image.created"
SIZE = "sandbox-kernel.size"
SOURCE = "sandbox-kernel.source"
INDEX = "sandbox-kernel.index"


class Listed(msgspec.Struct, frozen=True):
    """One image as the list knows it. `size`: bytes of its blobs; `created`: RFC 3339 or empty.

    `source`: what it was got from; `index`: the digest of the index of platforms that named it.
    """

    digest: Digest
    names: tuple[str, ...]
    size: int
    created: str
    source: str
    index: Digest | None
    descriptor: Descriptor


def read(places: Places) -> list[Descriptor]:
    """The descriptors as they stand. Raises ImageError when the file is broken."""
    try:
        with open(places.index, "rb") as file:
            return _DECODER.decode(file.read()).manifests
    except OSError as error:
        why = error.strerror
    except (msgspec.DecodeError, UnicodeError, RecursionError, ImageError) as error:
        why = str(error)
    raise ImageError(
        f"read the list of images `{places.index}`: {why}: run `sandbox-kernel image repair`"
    )


class _List(Index, frozen=True, omit_defaults=True, rename="camel", kw_only=True):
    """An index with as many manifests as there are: it is our own."""

    manifests: list[Descriptor]


_DECODER = msgspec.json.Decoder(_List)


def listed(places: Places) -> list[Listed]:
    """All images, each once with all its names, in the order in which they came."""
    by_digest: dict[Digest, list[Descriptor]] = {}
    for descriptor in read(places):
        by_digest.setdefault(descriptor.digest, []).append(descriptor)
    return [_listed(found) for found in by_digest.values()]


def _listed(found: list[Descriptor]) -> Listed:
    notes = [descriptor.annotations or {} for descriptor in found]
    latest = notes[-1]
    index = latest.get(INDEX)
    size = latest.get(SIZE, "")  # not there where another program wrote the list
    return Listed(
        digest=found[0].digest,
        names=tuple(sorted(note[NAME] for note in notes if NAME in note)),
        size=int(size) if size.isdecimal() else 0,
        created=latest.get(CREATED, ""),
        source=latest.get(SOURCE, ""),
        index=Digest(index) if index else None,
        descriptor=found[-1],
    )


def change(places: Places, edit: Callable[[list[Descriptor]], Iterable[Descriptor]]) -> None:
    """Replaces the list by what `edit` makes of it, at once or not at all. Raises ImageError."""
    with locks.hold(places.lock("names")):
        before = read(places)
        after = list(edit(before))
        if after != before:
            replace(places, after)


def replace(places: Places, descriptors: list[Descriptor]) -> None:
    """Writes the list; the one before stays as `index.previous` in `partial`, for repair."""
    made = places.partial(f"index-{os.getpid()}-{os.urandom(4).hex()}")
    previous = places.partial("index.previous")
    try:
        write_file(made, encode(Index(schema_version=2, manifests=descriptors)))
        spare = f"{made}-before"
        os.link(places.index, spare)
        os.rename(spare, previous)
        os.rename(made, places.index)
        flush_folder(places.root)
    except OSError as error:
        try:
            os.unlink(made)
        except FileNotFoundError:
            pass
        raise ImageError(
            f"write the list of images `{places.index}`: {error.strerror}: free space there, then "
            "try again; the list is as it was"
        ) from error


def named(descriptors: Iterable[Descriptor], name: str, new: Descriptor) -> list[Descriptor]:
    """The list in which `name` means `new`. What it meant before stays, without the name."""
    kept: list[Descriptor] = []
    for descriptor in descriptors:
        if (descriptor.annotations or {}).get(NAME) == name:
            descriptor = _without_name(descriptor)  # noqa: PLW2901
        kept.append(descriptor)
    return tidy([*kept, new])


def _without_name(descriptor: Descriptor) -> Descriptor:
    kept = {key: text for key, text in (descriptor.annotations or {}).items() if key != NAME}
    return msgspec.structs.replace(descriptor, annotations=kept or None)


def tidy(descriptors: Iterable[Descriptor]) -> list[Descriptor]:
    """At most one descriptor without a name for each image, and none if it has a name."""
    all_of_them = list(descriptors)
    with_name = {each.digest for each in all_of_them if NAME in (each.annotations or {})}
    nameless = {each.digest: each for each in all_of_them if NAME not in (each.annotations or {})}
    return [
        each
        for each in all_of_them
        if NAME in (each.annotations or {})
        or (each.digest not in with_name and nameless[each.digest] is each)
    ]
