"""What the names in a Containerfile meant when it was built, so that the next build is on the same.

`build:PATH[#FILE]@DIGEST` is a build on the images of such a list. Only what came from a registry
is in one: what was made on this machine is nowhere else, and changes when it is made anew.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping

import msgspec

from sandbox_kernel.errors import ImageError
from sandbox_kernel.image import digest as digests
from sandbox_kernel.image import reference as references
from sandbox_kernel.image.digest import Digest
from sandbox_kernel.image.environments import lock as locks
from sandbox_kernel.image.environments import places
from sandbox_kernel.image.reference import Build, Registry
from sandbox_kernel.image.store import Stored

FOLDER = "built"
MOST_NAMES = 100
MOST_BYTES = 1 << 20
SHOWN = 19
"""Characters of a digest that tell it from others."""


class Base(msgspec.Struct, frozen=True):
    """A name of a registry as it stands in a Containerfile, and the digest that it meant."""

    name: str
    digest: str

    @property
    def version(self) -> str:
        """What a change of is told of."""
        return self.digest[:SHOWN]


class Bases(msgspec.Struct, frozen=True):
    """The names of one build, sorted."""

    names: tuple[Base, ...]

    @property
    def digest(self) -> Digest:
        """Equal lists have equal digests."""
        return digests.of(msgspec.json.encode(self))

    @property
    def chosen(self) -> tuple[Base, ...]:
        """As locks of packages have it."""
        return self.names

    @property
    def meant(self) -> dict[str, Digest]:
        """By name."""
        return {each.name: digests.parse(each.digest) for each in self.names}


def of(meant: Mapping[str, Digest]) -> Bases:
    """The list of what names meant."""
    return Bases(tuple(Base(name, digest) for name, digest in sorted(meant.items())))


def check(bases: Bases) -> None:
    """Raises ImageError for a list that can't be: names of registries, each with one digest."""
    names = [each.name for each in bases.names]
    if len(names) > MOST_NAMES or names != sorted(set(names)):
        raise ImageError(f"the names are not sorted, or more than {MOST_NAMES}")
    for each in bases.names:
        digests.parse(each.digest)
        if references.registry(each.name).digest is not None:
            raise ImageError("a name that has a digest needs no other")


def find(digest: Digest, reference: str) -> Bases:
    """The kept list of this digest. Raises ImageError when it is not there, or is none."""
    try:
        found = msgspec.json.decode(locks.kept(digest, reference), type=Bases)
    except msgspec.ValidationError as error:
        raise ImageError(f"use `{reference}`: `{digest}` is no list of names: {error}") from None
    check(found)
    return found


def from_registry(stored: Stored) -> bool:
    """Whether a pull brought the image, so that its name can be asked for again."""
    try:
        return str(references.parse(stored.source)) == stored.source and isinstance(
            references.parse(stored.source), Registry
        )
    except ImageError:
        return False


def note(asked: Build, bases: Bases) -> None:
    """Remember what a build used, for whoever asked for it."""
    data = msgspec.json.encode(bases)
    if places.read(_note(asked), MOST_BYTES) != data:
        places.write(_note(asked), data)


def noted(asked: Build) -> Bases | None:
    """What the last build of this reference used, if there was one lately."""
    data = places.read(_note(asked), MOST_BYTES)
    return msgspec.json.decode(data, type=Bases) if data else None


def _note(asked: Build) -> str:
    text = str(asked.replaced(path=os.path.realpath(asked.path)))
    return os.path.join(
        places.folder(FOLDER), f"{hashlib.sha256(os.fsencode(text)).hexdigest()[:32]}.json"
    )
