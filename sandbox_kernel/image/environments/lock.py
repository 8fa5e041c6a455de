"""A lock: which wheels an environment is, each by its hash. What a notebook keeps of it.

It has names, versions and hashes, and no addresses: wherever a lock comes from, its wheels are
fetched from the user's own index, and what has another hash is refused.
"""

from __future__ import annotations

import os
import re
from typing import TypeVar

import msgspec

from sandbox_kernel.errors import ImageError, shown
from sandbox_kernel.image import digest as digests
from sandbox_kernel.image.digest import Digest
from sandbox_kernel.image.environments import places
from sandbox_kernel.image.environments.declared import Declared
from sandbox_kernel.image.environments.python import Python

MOST_BYTES = 1 << 20
MOST_WHEELS = 2000
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_-]{0,127}")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]{0,250}\.whl")
_SHA256 = re.compile(r"[0-9a-f]{64}")


_Kind = TypeVar("_Kind", bound=msgspec.Struct)


class Wheel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One package of the environment."""

    name: str
    version: str
    file: str
    sha256: str
    size: int


class Lock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The wheels in the order of their names, and the Python that they were chosen for."""

    python: str
    libc: str
    machine: str
    wheels: tuple[Wheel, ...]
    requirements: tuple[str, ...] = ()

    @property
    def digest(self) -> Digest:
        """Of the wheels and what they are for: equal locks have equal digests."""
        return digests.of(encode(self))

    @property
    def chosen(self) -> tuple[Wheel, ...]:
        """What a change of is told of: as the other kind of lock has it."""
        return self.wheels

    def is_for(self, declared: Declared) -> bool:
        """Whether a declaration still says what was locked."""
        return self.requirements == declared.requirements

    def check(self, python: Python, reference: str) -> None:
        """Raises ImageError when it is for another Python than this."""
        if (self.python, self.libc, self.machine) != (python.minor, python.libc, python.machine):
            raise ImageError(
                f"use the lock of `{shown(reference)}`: it is for Python {self.python}, "
                f"{self.libc}, {self.machine}, and the base has {python.shown}: run "
                "`%sandbox update`, or choose the base that it was made for"
            )


def encode(lock: Lock) -> bytes:
    """The lock as canonical JSON: the same lock gives the same bytes."""
    return msgspec.json.encode(lock)


def decode(data: bytes | str, where: str) -> Lock:
    """A lock that came from outside. Raises ImageError for all that it must not be."""
    doing = f"read lock `{shown(where)}`"
    lock = parsed(data, Lock, doing)
    names = [wheel.name for wheel in lock.wheels]
    fine = len(names) <= MOST_WHEELS and names == sorted(set(names))
    fine = fine and all(
        _NAME.fullmatch(wheel.name)
        and _VERSION.fullmatch(wheel.version)
        and _FILE.fullmatch(wheel.file)
        and _SHA256.fullmatch(wheel.sha256)
        and wheel.size >= 0
        for wheel in lock.wheels
    )
    if not fine or not re.fullmatch(r"3\.[0-9]{1,2}", lock.python):
        raise ImageError(f"{doing}: a wheel in it is not as it must be: make a new one")
    return lock


def parsed(data: bytes | str, kind: type[_Kind], doing: str) -> _Kind:
    """A lock of a kind, before what stands in it is looked at; `doing` begins each message."""
    if len(data) > MOST_BYTES:
        raise ImageError(f"{doing}: it is larger than {MOST_BYTES} bytes: make a new one")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ImageError(f"{doing}: {shown(error)}: make a new one") from error


def keep(lock: msgspec.Struct) -> Digest:
    """Have a lock of any kind under its digest, for references that end in `@DIGEST`."""
    data = msgspec.json.encode(lock)
    digest = digests.of(data)
    name = f"{digests.hexadecimal(digest)}.json"
    places.write(os.path.join(places.folder("locks"), name), data)
    return digest


def find(digest: Digest, reference: str) -> Lock:
    """The kept lock of this digest. Raises ImageError when it is not there, or is another."""
    return decode(kept(digest, reference), reference)


def kept(digest: Digest, reference: str) -> bytes:
    """The bytes of a kept lock of any kind. Raises ImageError."""
    path = os.path.join(places.folder("locks"), f"{digests.hexadecimal(digest)}.json")
    data = places.read(path, MOST_BYTES)
    if data is None or digests.of(data) != digest:
        raise ImageError(
            f"use `{shown(reference)}`: the lock `{digest}` is not kept here: open the notebook "
            "that has it in its metadata, or leave `@sha256:...` out"
        )
    return data
