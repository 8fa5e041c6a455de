"""Kernel layers that were made lately, and whether one goes with the packages of another image too.

To choose versions anew and put them together takes as long as to install numpy. What a layer asks
for stands in the metadata of its wheels (PEP 345, PEP 508), and what an image has is known, so that
the two can be compared without an index.
"""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from sandbox_kernel.image.digest import Digest
from sandbox_kernel.image.environments import lock as locks
from sandbox_kernel.image.environments import places, resolving
from sandbox_kernel.image.environments.declared import Declared, normalised
from sandbox_kernel.image.environments.lock import Lock, Wheel
from sandbox_kernel.image.environments.python import Python

SECONDS = 7 * 24 * 3600.0
"""For so long; then the index is asked again, which may have newer ones. It is asked too where a
layer was chosen at a time that is to come, by a clock that was wrong."""
MOST = 8
MOST_BYTES = 1 << 20
_HEADER = "Requires-Dist:"


class _Kept(msgspec.Struct, frozen=True):
    """One layer: the digest of its lock, what its wheels need, and when it was chosen."""

    lock: Digest
    needs: tuple[str, ...]
    chosen: float


def find(declared: Declared, python: Python, has: Mapping[str, str]) -> tuple[Wheel, ...] | None:
    """The wheels of a layer for the same request that goes with what an image `has`, by version."""
    for kept in _all(declared, python):
        if 0 <= time.time() - kept.chosen < SECONDS:
            found = locks.find(kept.lock, declared.reference)
            if _goes_with(kept.needs, found.wheels, has):
                return found.wheels
    return None


def keep(
    declared: Declared, python: Python, wheels: Sequence[Wheel], folders: Sequence[str]
) -> None:
    """Notes a layer that was chosen just now; its wheels lie in these `site-packages` folders.

    One whose needs can't be judged is not noted.
    """
    needs = _needed(folders, python)
    if needs is None:
        return
    made = Lock(python.minor, python.libc, python.machine, tuple(wheels), declared.requirements)
    new = _Kept(locks.keep(made), needs, time.time())
    others = [kept for kept in _all(declared, python) if kept.lock != new.lock]
    places.write(_path(declared, python), msgspec.json.encode([new, *others][:MOST]))


def _needed(folders: Sequence[str], python: Python) -> tuple[str, ...] | None:
    """What the wheels in these folders need in this Python; None when one asks oddly."""
    from packaging.requirements import InvalidRequirement, Requirement

    environment = {
        "python_version": python.minor,
        "python_full_version": f"{python.minor}.0",  # as uv has it for a minor version
        "implementation_version": f"{python.minor}.0",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "platform_machine": python.machine,
        "platform_system": "Linux",
        "sys_platform": "linux",
        "os_name": "posix",
        "extra": "",
    }
    found = set()
    for line in _lines(folders):
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            return None
        if requirement.marker is not None and not requirement.marker.evaluate(environment):
            continue
        if requirement.extras or requirement.url:
            return None
        found.add(f"{normalised(requirement.name)}{requirement.specifier}")
    return tuple(sorted(found))


def _goes_with(needs: Sequence[str], wheels: Sequence[Wheel], has: Mapping[str, str]) -> bool:
    """Whether each need is met by the image, whose packages come first, else by the layer."""
    from packaging.requirements import Requirement
    from packaging.version import InvalidVersion

    versions = {**{wheel.name: wheel.version for wheel in wheels}, **has}
    for each in needs:
        need = Requirement(each)
        version = versions.get(need.name)
        try:
            if version is None or not need.specifier.contains(version, prereleases=True):
                return False
        except InvalidVersion:  # of a distribution that does not keep to PEP 440
            return False
    return True


def _lines(folders: Sequence[str]) -> Iterator[str]:
    """The requirements in the metadata of each package."""
    for folder in folders:
        for path in glob.iglob(f"{glob.escape(folder)}/*.dist-info/METADATA"):
            with open(path, encoding="utf-8", errors="replace") as file:
                for line in file:
                    if not line.strip():
                        break  # the description follows
                    if line.startswith(_HEADER):
                        yield line.removeprefix(_HEADER).strip()


def _all(declared: Declared, python: Python) -> list[_Kept]:
    data = places.read(_path(declared, python), MOST_BYTES)
    try:
        return [] if data is None else msgspec.json.decode(data, type=list[_Kept])
    except msgspec.DecodeError:  # of another version of this program: it is made anew
        return []


def _path(declared: Declared, python: Python) -> str:
    return os.path.join(places.folder("locks"), f"layers-{resolving.key(declared, python)}.json")
