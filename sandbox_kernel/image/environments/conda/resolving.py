"""From an `environment.yml` to a lock: rattler chooses for the glibc and the machine of the base.

What was resolved once is kept under what was asked for, so that the same request gives the same
packages until somebody asks for new ones.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from sandbox_kernel.errors import ImageError, shown
from sandbox_kernel.image.environments import lock as locks
from sandbox_kernel.image.environments import places
from sandbox_kernel.image.environments.conda import configuration, rattler
from sandbox_kernel.image.environments.conda import lock as conda_locks
from sandbox_kernel.image.environments.conda.below import NO_ARCHITECTURE, Base
from sandbox_kernel.image.environments.conda.configuration import Channel
from sandbox_kernel.image.environments.conda.lock import Lock, Package
from sandbox_kernel.image.environments.declared import Declared

OLDEST_GLIBC = (2, 0)
_NEEDS = re.compile(r"__glibc\s*>=?\s*([0-9]+)\.([0-9]+)")


def lock(declared: Declared, base: Base, *, fresh: bool = False) -> Lock:
    """The lock of a declaration: the named one, else the one that is kept, else a new one.

    `fresh` resolves anew and keeps that. Raises ImageError, HostLacks.
    """
    if declared.lock is not None and not fresh:
        found = conda_locks.find(declared.lock, declared.reference)
        found.check(base, declared.reference)
        return found
    channels = channels_of(declared.channels, declared.reference)
    key = _key(declared, base, channels)
    kept = os.path.join(places.folder("locks"), f"asked-{key}.json")
    data = None if fresh else places.read(kept, locks.MOST_BYTES)
    if data is not None:
        return conda_locks.decode(data, declared.reference)
    made = resolve(declared, base, channels)
    places.write(kept, conda_locks.encode(made))
    locks.keep(made)
    return made


def channels_of(names: Iterable[str], reference: str) -> list[Channel]:
    """The user's channels of these names, in their order. Raises ImageError, InvalidOption."""
    known = configuration.channels()
    wanted = list(dict.fromkeys(names))
    for name in wanted:
        if name not in known:
            raise ImageError(
                f"make `{shown(reference)}`: channel `{shown(name)}` is none of yours "
                f"(`{'`, `'.join(known)}`): name it in {configuration.setting()}, if you trust it"
            )
    return [known[name] for name in wanted]


def resolve(declared: Declared, base: Base, channels: list[Channel]) -> Lock:
    """Ask the channels now. Raises ImageError with the reason, HostLacks."""
    doing = f"resolve `{shown(declared.reference)}` for {base.shown}"
    found = rattler.solve(
        declared.requirements,
        channels,
        subdirs=(base.subdir, NO_ARCHITECTURE),
        virtual_packages=base.virtual_packages,
        cutoff=_cutoff(declared),
        doing=doing,
    )
    needs = [OLDEST_GLIBC, *(need for each in found for need in _glibc(each["depends"]))]
    try:
        packages = [_package(each) for each in found]
    except msgspec.ValidationError as error:
        raise ImageError(f"{doing}: a channel names a package that can't be: {shown(error)}: "
                         "use another channel") from error  # fmt: skip
    lock = Lock(
        base.machine,
        "{}.{}".format(*max(needs)),
        _site_packages(found),
        tuple(sorted(packages, key=lambda package: package.name)),
        declared.requirements,
        declared.channels,
    )
    return conda_locks.decode(conda_locks.encode(lock), declared.reference)


def _package(record: Mapping[str, Any]) -> Package:
    fields = {name: record[name] for name in Package.__struct_fields__}
    return msgspec.convert(fields, Package)


def _glibc(depends: Iterable[str]) -> Iterable[tuple[int, int]]:
    """What a package says that the C library must have at least."""
    for each in depends:
        for major, minor in _NEEDS.findall(each):
            yield int(major), int(minor)


def _site_packages(found: Iterable[Mapping[str, Any]]) -> str:
    """Where the Python among the packages has its modules. CEP 17, and what was before it."""
    for record in found:
        if record["name"] == "python":
            minor = ".".join(str(record["version"]).split(".")[:2])
            return str(record["site_packages"] or f"lib/python{minor}/site-packages")
    return ""


def _cutoff(declared: Declared) -> float | None:
    """`before DATE`: a day counts whole, a time without a zone is UTC."""
    if declared.exclude_newer is None:
        return None
    try:
        moment = datetime.datetime.fromisoformat(declared.exclude_newer)
    except ValueError as error:
        raise ImageError(
            f"read environment `{shown(declared.reference)}`: `{shown(declared.exclude_newer)}` "
            "is no date such as 2026-01-31"
        ) from error
    if "T" not in declared.exclude_newer:
        moment += datetime.timedelta(days=1, milliseconds=-1)
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()


def _key(declared: Declared, base: Base, channels: list[Channel]) -> str:
    """Of all that decides what is chosen, but for what the channels have at the time."""
    asked = [declared.requirements, channels, declared.exclude_newer, base]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:32]
