"""The files of a container as a stack: the layers of its image, and the writable one on top.

What lies in the writable layer is read by descriptors, name by name; no link is followed, and no
file is opened. Sources: the directory that the launcher gives a descriptor of, and the unpacked
layers of the store. How overlayfs marks what is gone: overlayfs.rst, "whiteouts and opaque
directories".
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from sandbox_kernel import errors
from sandbox_kernel.container import layering
from sandbox_kernel.image import layers
from sandbox_kernel.image.layers import below, summing
from sandbox_kernel.image.store import Store
from sandbox_kernel.linux import inotify, paths
from sandbox_kernel.observe import fact
from sandbox_kernel.observe.observed import Observed
from sandbox_kernel.observe.source import Source, drained

MOST_NAMES = 4000
"""Names of the writable layer that are looked at. More are counted by the file system alone."""
MOST_REMEMBERED = 20_000
"""Names that were looked up in the layers below."""
MOST_FOLDERS = 500
"""Folders that tell of changes by themselves."""
DEEPEST = 60
SHARE = 0.02
"""Of a processor, at most, for looking through a writable layer that is large."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Kind = Literal["new", "copied", "removed", "hidden"]


@dataclass(frozen=True, slots=True)
class Layer:
    """One read-only layer of the image. Sizes are None until it was looked through."""

    digest: str
    made_by: str
    bytes: int | None = None
    files: int | None = None
    wasted: int | None = None
    """Bytes that nobody can see, since a higher layer replaced or removed them."""


@dataclass(frozen=True, slots=True)
class Written:
    """One name of the writable layer that is not just a folder on the way to another."""

    path: str
    kind: Kind
    """new; copied: a file of a layer below, copied up to be changed; removed: a whiteout stands for
    it; hidden: a folder that hides the one of the same name below."""
    what: str
    """file, folder, link, device, pipe, socket."""
    bytes: int
    below: int
    """Bytes of the file below that it hides."""
    changed: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Stack:
    """All of it. `layers` are the lowest first; there are none where `trees` of the host are."""

    image: str
    digest: str
    layers: tuple[Layer, ...]
    trees: tuple[str, ...]
    """Folders of this machine that are shown read-only, for the image `host`."""
    written: tuple[Written, ...]
    """The newest first."""
    more: bool
    """There are more names than are looked at."""
    unseen: tuple[str, ...]
    """Folders that are not for the caller to see."""
    used: int | None
    """Bytes of the writable layer in use, as the file system counts them."""
    limit: int | None
    source: str


def described(digest: str, places: Sequence[str]) -> tuple[Layer, ...]:
    """The layers of an image, the lowest first, with the step that made each if that is known."""
    stored = Store.open().lookup(digest)
    if stored is None or len(stored.manifest.layers) != len(places):
        return tuple(Layer("", "") for _ in places)
    steps = [step for step in stored.config.history or () if not step.empty_layer]
    made_by = [step.created_by or step.comment or "" for step in steps]
    made_by += [""] * (len(places) - len(made_by))
    return tuple(
        Layer(layer.digest, text)
        for layer, text in zip(stored.manifest.layers, made_by, strict=False)
    )


class Files(Source):
    """Looks at the stack of one container; what is made or removed wakes it."""

    def __init__(self, container: Observed) -> None:
        super().__init__(container.name, container.pid)
        self._container = container
        self._base = self._upper = self._watch = -1
        self._below: list[int] = []
        self._made: frozenset[str] = frozenset()
        self._layers: tuple[Layer, ...] = ()
        self._hidden: dict[bytes, int | None] = {}
        self._watched: set[tuple[int, int]] = set()
        self._found: tuple[tuple[Written, ...], bool, tuple[str, ...]] = ((), False, ())
        self._due = 0.0

    def opened(self) -> Sequence[int]:
        self._base, layered = self._container.open_writable()
        self._upper = paths.open_below(
            self._base,
            "upper" if layered else ".",
            _FOLDER,
            paths.RESOLVE_NO_SYMLINKS | paths.RESOLVE_BENEATH,
        )
        self._made = _with_parents(layering.made_in(self._container.id))
        image = self._container.image
        self._below = [os.open(place, _FOLDER) for place in reversed(image.layers)]
        if image.layers:
            self._layers = described(image.digest, image.layers)
            threading.Thread(target=self._sum, name="sum layers", daemon=True).start()
        self._watch = inotify.open_many()
        return [self._watch]

    def closed(self) -> None:
        for descriptor in (*self._below, self._watch, self._upper, self._base):
            if descriptor >= 0:
                os.close(descriptor)
        self._below, self._watch, self._upper, self._base = [], -1, -1, -1

    def facts(self) -> Stack:
        told = drained(self._watch)
        now = time.monotonic()
        if now >= self._due or (told and self._due - now < 1.0):
            self._found = self._walk()
            spent = time.monotonic() - now
            self._due = now + max(self.interval * 0.9, spent / SHARE)
        written, more, unseen = self._found
        image = self._container.image
        used = os.fstatvfs(self._base)
        return Stack(
            image=image.reference,
            digest=image.digest,
            layers=self._layers,
            trees=_trees(self._container) if not image.layers else (),
            written=written,
            more=more,
            unseen=unseen,
            used=(used.f_blocks - used.f_bfree) * used.f_frsize,
            limit=used.f_blocks * used.f_frsize or None,
            source="the writable layer, by the launcher's descriptor",
        )

    def _sum(self) -> None:
        """Sizes take a while, and layers do not change: once, beside all else."""
        places = self._container.image.layers
        with suppress(errors.SandboxError, OSError):
            whole = summing.image([layers.Tree(place) for place in places])
            self._layers = tuple(
                Layer(layer.digest, layer.made_by, each.bytes, each.files, each.wasted)
                for layer, each in zip(self._layers, whole.layers, strict=True)
            )

    # -- the writable layer -----------------------------------------------------------------------

    def _walk(self) -> tuple[tuple[Written, ...], bool, tuple[str, ...]]:
        found: list[Written] = []
        unseen: list[str] = []
        left = [MOST_NAMES]
        self._folder(self._upper, b"", found, unseen, left, 0)
        found.sort(key=lambda each: (-each.changed, each.path))
        return tuple(found), left[0] < 0, tuple(unseen)

    def _folder(
        self,
        folder: int,
        prefix: bytes,
        found: list[Written],
        unseen: list[str],
        left: list[int],
        depth: int,
    ) -> None:
        here = os.fstat(folder)
        if (here.st_dev, here.st_ino) not in self._watched and len(self._watched) < MOST_FOLDERS:
            with suppress(OSError):  # more watches than this user may have: looks alone see it
                inotify.add_folder(self._watch, folder)
                self._watched.add((here.st_dev, here.st_ino))
        for entry in sorted(os.listdir(folder)):
            name = os.fsencode(entry)
            left[0] -= 1
            if left[0] < 0:
                return
            try:
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            except OSError:
                continue  # it went meanwhile
            if status.st_dev != here.st_dev:
                continue  # a mount's
            path = prefix + b"/" + name
            shown = fact.text(path)
            if not stat.S_ISDIR(status.st_mode):
                if shown not in self._made:
                    found.append(self._written(path, shown, status))
                continue
            try:
                inner = os.open(name, _FOLDER, dir_fd=folder)
            except FileNotFoundError:
                continue
            except OSError:
                unseen.append(shown)
                continue
            try:
                size = self._size_below(path)
                opaque = size is not None and below.is_opaque(inner)
                if (size is None or opaque) and shown not in self._made:
                    kind: Kind = "hidden" if opaque else "new"
                    found.append(Written(shown, kind, "folder", 0, 0, status.st_mtime))
                if depth < DEEPEST:
                    self._folder(inner, path, found, unseen, left, depth + 1)
            finally:
                os.close(inner)

    def _written(self, path: bytes, shown: str, status: os.stat_result) -> Written:
        size = self._size_below(path)
        if below.is_whiteout(status):
            return Written(shown, "removed", "file", 0, size or 0, status.st_mtime)
        kind: Kind = "new" if size is None else "copied"
        what = _what(status.st_mode)
        own = status.st_size if what == "file" else 0
        return Written(shown, kind, what, own, size or 0, max(status.st_mtime, status.st_ctime))

    def _size_below(self, path: bytes) -> int | None:
        """Bytes of what the layers show at a path, 0 for what is no file; None: nothing is there.

        The layers never change, so it is asked once.
        """
        if path not in self._hidden:
            if len(self._hidden) >= MOST_REMEMBERED:
                self._hidden.clear()
            size: int | None = None
            found = below.find(self._below, path.strip(b"/").split(b"/")) if self._below else None
            if found is not None:
                os.close(found.folder)
                size = found.status.st_size if stat.S_ISREG(found.status.st_mode) else 0
            self._hidden[path] = size
        return self._hidden[path]


def _what(mode: int) -> str:
    kinds = {stat.S_IFREG: "file", stat.S_IFLNK: "link", stat.S_IFIFO: "pipe",
             stat.S_IFSOCK: "socket"}  # fmt: skip
    return kinds.get(stat.S_IFMT(mode), "device")


def _with_parents(made: frozenset[str]) -> frozenset[str]:
    """What the runtime made in the writable layer, with the folders that lead there."""
    above = {path[:at] for path in made for at, letter in enumerate(path) if letter == "/" and at}
    return made | above


def _trees(container: Observed) -> tuple[str, ...]:
    image = container.image
    places = [tree["destination"] for tree in image.trees]
    return tuple(places + [str(mount["destination"]) for mount in image.mounts])
