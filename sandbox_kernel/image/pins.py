"""Pinned notebooks: which digest or lock a name meant, kept in the notebook, used the next time.

The notebook's file is the front end's to write, and every front end copies `language_info` of the
kernel's info into the metadata of the notebook. So that is where the pins stand: below
`metadata.language_info.sandbox_kernel.images`. What moves is pinned: a tag of a registry, the
packages of an environment, and the names in the Containerfile of a build. A pin that comes with a
notebook is no more trusted than the name that it stands for: of a registry it says which manifest
of that very repository, also of one that a Containerfile names; of an environment it has names,
versions and hashes of wheels, and no addresses.

`update` makes new ones. The notebook's file keeps the old pin until the front end has saved it, so
that the old one is noted as left behind, and does not count any more in this notebook.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from sandbox_kernel import settings, settings_files
from sandbox_kernel.errors import ImageError, shown
from sandbox_kernel.image import bases
from sandbox_kernel.image import digest as digests
from sandbox_kernel.image import reference as references
from sandbox_kernel.image.bases import Bases
from sandbox_kernel.image.digest import Digest
from sandbox_kernel.image.environments import declared, places
from sandbox_kernel.image.environments import lock as locks
from sandbox_kernel.image.environments.conda import lock as conda_locks
from sandbox_kernel.image.environments.conda.lock import Lock as CondaLock
from sandbox_kernel.image.environments.lock import Lock
from sandbox_kernel.image.reference import Build, Registry

if TYPE_CHECKING:
    from sandbox_kernel.image.store import Store

MOST_PINS = 64
MOST_NOTE = 1 << 20
WHERE = "metadata.language_info.sandbox_kernel"


class Pin(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a name meant: a manifest's digest, a lock, which is of one of two kinds, or the bases
    of a build."""

    digest: str
    lock: Lock | None = None
    conda: CondaLock | None = None
    bases: Bases | None = None

    @property
    def held(self) -> Lock | CondaLock | None:
        """The lock, of whichever kind."""
        return self.lock or self.conda

    @property
    def content(self) -> Lock | CondaLock | Bases | None:
        """What its digest is of, where that is no manifest."""
        return self.held or self.bases


class _Metadata(msgspec.Struct, frozen=True):
    images: dict[str, Pin] = {}


class _Moved(msgspec.Struct, frozen=True):
    """A pin that was left behind, and the one that took its place."""

    left: str
    pin: Pin


class Pins:
    """The pins of one notebook; of a program that serves none, they are kept for its life."""

    def __init__(self, found: Mapping[str, Pin] | None = None, notebook: str = "") -> None:
        self._pins = dict(found or {})
        self._notebook = notebook
        for name, moved in self._noted().items():
            if name in self._pins and self._pins[name].digest == moved.left:
                self._pins[name] = moved.pin

    @classmethod
    def of_notebook(cls) -> Pins:
        """Those of the notebook that this process serves. Raises ImageError for what can't be."""
        path = os.environ.get(settings.NOTEBOOK_VARIABLE, "")
        if not path.endswith(".ipynb"):
            return cls()
        path = os.path.abspath(path)
        metadata = settings_files.notebook_metadata(path, path) or {}
        language = metadata.get("language_info")
        table = language.get("sandbox_kernel") if isinstance(language, dict) else None
        return cls(decode(table, path), path)

    def metadata(self) -> dict[str, Any]:
        """What `language_info` gets: nothing where nothing is pinned."""
        if not self._pins:
            return {}
        last = dict(list(self._pins.items())[-MOST_PINS:])
        return {"sandbox_kernel": msgspec.to_builtins(_Metadata(last))}

    def pinned(self, text: str) -> str:
        """The reference with what its names meant; as it is where they have no pin."""
        if declared.is_environment(text):
            parts = declared.split(text)
            base = self.pinned(parts.base)
            pin = None if parts.lock else self._pins.get(_key(text))
            if pin is None or pin.held is None or not pin.held.is_for(declared.read(text)):
                return str(parts._replace(base=base))
            return str(parts._replace(base=base, lock=locks.keep(pin.held)))
        build = _build(text)
        if build is not None:
            pin = None if build.bases else self._pins.get(_build_key(build))
            if pin is None or pin.bases is None:
                return text
            return str(build.replaced(bases=locks.keep(pin.bases)))
        named = _registry(text)
        pin = self._pins.get(text)
        if named is None or named.digest or pin is None:
            return text
        return f"{text}@{pin.digest}"

    def record(self, text: str) -> None:
        """Pins the names of a reference that was resolved just now, as it was asked for.

        Raises ImageError when what was resolved is gone already.
        """
        if declared.is_environment(text):
            parts = declared.split(text)
            self.record(parts.base)
            pin = self._pins.get(_key(text))
            held = pin.held if pin else None
            if parts.lock is None and not (held and held.is_for(declared.read(text))):
                self._set(_key(text), _of_environment(text))
            return
        build = _build(text)
        if build is not None:
            self._record_build(build)
            return
        named = _registry(text)
        if named is not None and named.digest is None and text not in self._pins:
            self._set(text, Pin(_stored(text)))

    def _record_build(self, build: Build) -> None:
        """A Containerfile may have other names now: those that it had keep what they meant."""
        if build.bases:
            return
        key = _build_key(build)
        pin = self._pins.get(key)
        found = bases.noted(build.replaced(bases=pin.bases.digest) if pin and pin.bases else build)
        if found is None:
            return
        if not found.names:
            self._pins.pop(key, None)
        elif pin is None or pin.bases != found:
            self._set(key, Pin(found.digest, bases=found))

    def update(self, text: str) -> list[str]:
        """Asks registry and index anew, pins what they say, and tells what changed, in lines.

        Raises ImageError, HostLacks; the pins are then as they were.
        """
        if declared.is_environment(text):
            parts = declared.split(text)._replace(lock=None)
            told = self.update(parts.base)
            plain = str(parts)
            before = self._pins.get(_key(plain))
            pin = _of_environment(plain, fresh=True)
            self._move(_key(plain), pin)
            return [*told, *_changes(plain, before, pin)]
        build = _build(text)
        if build is not None:
            return [] if build.bases else self._update_build(text, build)
        named = _registry(text)
        if named is None or named.digest is not None:
            return []
        from sandbox_kernel.image.registry import pull
        from sandbox_kernel.image.store import Store

        before = self._pins.get(text)
        store = Store.open()
        pin = Pin(str(pull(store, named).digest))
        self._move(text, pin)
        return [*_changes(text, before, pin), *_layers(store, before, pin)]

    def _update_build(self, text: str, build: Build) -> list[str]:
        from sandbox_kernel.image.resolve import build_anew

        build_anew(build)
        found = bases.noted(build)
        if found is None or not found.names:
            return [f"{text}: built anew; it names no image of a registry that could move"]
        key = _build_key(build)
        before, pin = self._pins.get(key), Pin(found.digest, bases=found)
        self._move(key, pin)
        return _changes(text, before, pin)

    def _set(self, name: str, pin: Pin) -> None:
        self._pins.pop(name, None)
        self._pins[name] = pin

    def _move(self, name: str, pin: Pin) -> None:
        before = self._pins.get(name)
        self._set(name, pin)
        if before is None or before.digest == pin.digest or not self._notebook:
            return
        noted = {**self._noted(), name: _Moved(before.digest, pin)}
        places.write(self._note(), msgspec.json.encode(noted))

    def _note(self) -> str:
        name = hashlib.sha256(self._notebook.encode()).hexdigest()[:32]
        return os.path.join(places.folder("moved"), f"{name}.json")

    def _noted(self) -> dict[str, _Moved]:
        if not self._notebook or not self._pins:
            return {}
        data = places.read(self._note(), MOST_NOTE)
        return msgspec.json.decode(data, type=dict[str, _Moved]) if data else {}


def decode(table: object, where: str) -> dict[str, Pin]:
    """The pins that a notebook came with. Raises ImageError for all that they must not be."""
    if table is None:
        return {}
    doing = f"read `{WHERE}` of `{shown(where)}`"
    remedy = "remove it there, and the names are looked up anew"
    try:
        found = msgspec.convert(table, _Metadata).images
        if len(found) > MOST_PINS:
            raise ImageError(f"more than {MOST_PINS} images")
        for pin in found.values():
            digests.parse(pin.digest)
            if pin.lock is not None:
                locks.decode(locks.encode(pin.lock), where)
            if pin.conda is not None:
                conda_locks.decode(conda_locks.encode(pin.conda), where)
            if pin.bases is not None:
                bases.check(pin.bases)
            if pin.content is not None and pin.content.digest != pin.digest:
                raise ImageError(f"`{pin.digest}` is not the digest of its lock")
    except (msgspec.ValidationError, UnicodeError, ImageError) as error:
        raise ImageError(f"{doing}: {shown(error)}: {remedy}") from None
    return found


def _key(text: str) -> str:
    """An environment's name in a notebook: with paths as seen from its folder, and no lock."""
    parts = declared.split(text)
    rest = parts.rest
    if parts.kind != "packages" and os.path.isabs(rest):
        rest = os.path.relpath(rest)
    return str(parts._replace(rest=rest, lock=None))


def _build(text: str) -> Build | None:
    found = references.parse(text)
    return found if isinstance(found, Build) else None


def _build_key(build: Build) -> str:
    """A build's name in a notebook: its path as seen from there."""
    path = os.path.relpath(build.path) if os.path.isabs(build.path) else build.path
    return str(build.replaced(path=path, bases=None))


def _registry(text: str) -> Registry | None:
    found = references.parse(text)
    return found if isinstance(found, Registry) else None


def _of_environment(text: str, *, fresh: bool = False) -> Pin:
    from sandbox_kernel.image import environments

    lock = environments.locked(text, fresh=fresh)
    if isinstance(lock, CondaLock):
        return Pin(lock.digest, conda=lock)
    return Pin(lock.digest, lock)


def _stored(text: str) -> Digest:
    from sandbox_kernel.image.store import Store

    return Store.open().find(text).digest


def _layers(store: Store, before: Pin | None, after: Pin) -> list[str]:
    """How much of an image is new, where the one before it is still here."""
    if before is None or before.digest == after.digest:
        return []
    old, new = store.lookup(before.digest), store.find(after.digest)
    known = old.diff_ids if old is not None else ()
    fresh = [layer for layer in new.diff_ids if layer not in known]
    was, now = (old.created if old is not None else ""), new.created
    lines = [f"  {len(fresh)} of {len(new.diff_ids)} layers are new"] if old is not None else []
    return [*lines, *([f"  made {was} -> {now}"] if was and was != now else [])]


def _changes(name: str, before: Pin | None, after: Pin) -> list[str]:
    """What another pin means, in words."""
    if before is not None and before.digest == after.digest:
        return [f"{name}: as it was, {after.digest[:19]}"]
    was = before.digest[:19] if before is not None else "not pinned"
    lines = [f"{name}: {was} -> {after.digest[:19]}"]
    if before is None or before.content is None or after.content is None:
        return lines
    old = {each.name: each for each in before.content.chosen}
    new = {each.name: each for each in after.content.chosen}
    for package in sorted({*old, *new}):
        if package not in new:
            lines.append(f"  - {package} {old[package].version}")
        elif package not in old:
            lines.append(f"  + {package} {new[package].version}")
        elif old[package] != new[package]:
            versions = old[package].version, new[package].version
            other = (
                "another file" if versions[0] == versions[1] else f"{versions[0]} -> {versions[1]}"
            )
            lines.append(f"  {package} {other}")
    if before.lock and after.lock and before.lock.python != after.lock.python:
        lines.append(f"  Python {before.lock.python} -> {after.lock.python}")
    return lines
