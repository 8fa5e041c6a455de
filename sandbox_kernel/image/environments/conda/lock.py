"""A lock of conda: which packages an environment is, each by its hash. What a notebook keeps of it.

It has names of channels and no addresses: wherever a lock comes from, its packages are fetched from
the user's own channels of these names, and what has another hash is refused.
"""

from __future__ import annotations

import re

import msgspec

from sandbox_kernel.errors import ImageError, shown
from sandbox_kernel.image import digest as digests
from sandbox_kernel.image.digest import Digest
from sandbox_kernel.image.environments import lock as locks
from sandbox_kernel.image.environments.conda import configuration
from sandbox_kernel.image.environments.conda.below import NO_ARCHITECTURE, SUBDIRS, Base
from sandbox_kernel.image.environments.declared import Declared

MOST_PACKAGES = 2000
MOST_ARCHIVE = 8 << 30
NAME = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,199}")
VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_-]{0,127}")
BUILD = re.compile(r"[A-Za-z0-9_.+-]{0,127}")
SITE_PACKAGES = re.compile(r"lib/python3\.[0-9]{1,2}t?/site-packages")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PYTHON = re.compile(r"(3)\.([0-9]{1,2})\.\S*")
_GLIBC = re.compile(r"[0-9]{1,2}\.[0-9]{1,3}")
ENDINGS = (".conda", ".tar.bz2")


class Package(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One package. `size` is that of its archive."""

    name: str
    version: str
    build: str
    channel: str
    subdir: str
    file: str
    sha256: str
    size: int


class Lock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The packages in the order of their names, and what they were chosen for.

    `glibc`: the oldest that goes. `site_packages`: where packages for any machine keep their
    modules, "" when there is no Python.
    """

    machine: str
    glibc: str
    site_packages: str
    packages: tuple[Package, ...]
    requirements: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()

    @property
    def digest(self) -> Digest:
        """Of the packages and what they are for: equal locks have equal digests."""
        return digests.of(encode(self))

    @property
    def chosen(self) -> tuple[Package, ...]:
        """What a change of is told of: as the other kind of lock has it."""
        return self.packages

    @property
    def python_version(self) -> tuple[int, int] | None:
        """Of the Python among the packages."""
        for package in self.packages:
            if package.name == "python" and (found := _PYTHON.fullmatch(package.version)):
                return int(found[1]), int(found[2])
        return None

    def is_for(self, declared: Declared) -> bool:
        """Whether a declaration still says what was locked."""
        return (self.requirements, self.channels) == (declared.requirements, declared.channels)

    def check(self, base: Base, reference: str) -> None:
        """Raises ImageError when it is for another machine or a newer C library than the base's."""
        needs = tuple(map(int, self.glibc.split(".")))
        if self.machine != base.machine or needs > base.glibc:
            raise ImageError(
                f"use the lock of `{shown(reference)}`: it is for {self.machine} with glibc "
                f"{self.glibc} or later, and the base has {base.shown}: run `%sandbox update`, or "
                "choose another base"
            )


def encode(lock: Lock) -> bytes:
    """The lock as canonical JSON: the same lock gives the same bytes."""
    return msgspec.json.encode(lock)


def decode(data: bytes | str, where: str) -> Lock:
    """A lock that came from outside. Raises ImageError for all that it must not be."""
    doing = f"read lock `{shown(where)}`"
    lock = locks.parsed(data, Lock, doing)
    names = [package.name for package in lock.packages]
    fine = len(names) <= MOST_PACKAGES and names == sorted(set(names)) and lock.machine in SUBDIRS
    fine = fine and _GLIBC.fullmatch(lock.glibc) is not None
    fine = fine and (not lock.site_packages or bool(SITE_PACKAGES.fullmatch(lock.site_packages)))
    if not fine or not all(_is_fine(package, lock.machine) for package in lock.packages):
        raise ImageError(f"{doing}: something in it is not as it must be: make a new one")
    return lock


def _is_fine(package: Package, machine: str) -> bool:
    stem = f"{package.name}-{package.version}-{package.build}"
    return bool(
        NAME.fullmatch(package.name)
        and VERSION.fullmatch(package.version)
        and BUILD.fullmatch(package.build)
        and configuration.NAME.fullmatch(package.channel)
        and package.subdir in (SUBDIRS[machine], NO_ARCHITECTURE)
        and package.file in [f"{stem}{ending}" for ending in ENDINGS]
        and _SHA256.fullmatch(package.sha256)
        and 0 < package.size <= MOST_ARCHIVE
    )


def find(digest: Digest, reference: str) -> Lock:
    """The kept lock of this digest. Raises ImageError when it is not there, or is another."""
    return decode(locks.kept(digest, reference), reference)
