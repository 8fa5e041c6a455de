"""Which layer of an image brings which files and how many bytes, and how many of them are wasted.

Wasted are the bytes of a layer that nobody can see: a higher layer replaced or removed them. A file
with several names counts once in its layer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from sandbox_kernel.image.layers import contents
from sandbox_kernel.image.layers.contents import Entry, Shown, Tree
from sandbox_kernel.image.layers.walking import WHITEOUT

MOST_WASTED = 20


@dataclass
class Folder:
    """A directory of one layer: what the layer has in it. `bytes` and `files` of all below."""

    files: int = 0
    bytes: int = 0
    removed: int = 0
    below: dict[str, Folder] = field(default_factory=dict)


class Named(NamedTuple):
    """One name that a layer brings (A), changes (C) or removes (D). `bytes` of a file."""

    kind: Literal["A", "C", "D"]
    path: str
    bytes: int


@dataclass(frozen=True)
class LayerSum:
    """One layer. `added`: names that no lower layer shows; `changed`: that one did.

    `names`: each of them, if they were asked for.
    """

    files: int
    bytes: int
    added: int
    changed: int
    removed: int
    wasted: int
    root: Folder
    names: tuple[Named, ...]


@dataclass(frozen=True)
class Wasted:
    """A path whose bytes stand in layers for nothing: how often, and how many."""

    path: str
    times: int
    bytes: int


@dataclass(frozen=True)
class ImageSum:
    """A whole image. `efficiency`: the part of all bytes that can be seen, 0 to 1."""

    layers: tuple[LayerSum, ...]
    files: int
    bytes: int
    wasted: int
    efficiency: float
    paths: tuple[Wasted, ...]


def image(trees: Sequence[Tree], *, names: bool = False) -> ImageSum:
    """Sum up the layers of an image, lowest first. Raises ImageError, HostLacks."""
    shown = Shown()
    sums: list[_Counted] = []
    for tree in trees:
        counted = _Counted(shown, names=names)
        shown.add(counted.count(contents.entries(tree)))
        sums.append(counted)
    wasted_of = [0] * len(sums)
    paths: dict[str, list[int]] = defaultdict(list)
    still = _still_seen(shown)
    told: set[tuple[int, int]] = set()
    for hidden in shown.hidden:
        entry = hidden.entry
        if entry.kind != "file" or not entry.size:
            continue
        if entry.inode:
            key = (hidden.layer, entry.inode)
            if key in still or key in told:
                continue
            told.add(key)
        wasted_of[hidden.layer] += entry.size
        paths[entry.path].append(entry.size)
    files = sum(
        1 for _, node in shown.root.walk() if node.entry is not None and node.entry.kind == "file"
    )
    whole = sum(counted.bytes for counted in sums)
    wasted = sum(wasted_of)
    worst = sorted(
        (Wasted(path, len(sizes), sum(sizes)) for path, sizes in paths.items()),
        key=lambda one: (-one.bytes, one.path),
    )
    return ImageSum(
        layers=tuple(counted.sum(lost) for counted, lost in zip(sums, wasted_of, strict=True)),
        files=files,
        bytes=whole - wasted,
        wasted=wasted,
        efficiency=1.0 if not whole else (whole - wasted) / whole,
        paths=tuple(worst[:MOST_WASTED]),
    )


def _still_seen(shown: Shown) -> set[tuple[int, int]]:
    """Files with several names of which one can be seen: their bytes are not wasted."""
    return {
        (node.layer, node.entry.inode)
        for _, node in shown.root.walk()
        if node.entry is not None and node.entry.inode
    }


class _Counted:
    """Counts a layer while it goes by, against what the layers below it show."""

    def __init__(self, lower: Shown, *, names: bool) -> None:
        self._lower = lower
        self._names: list[Named] | None = [] if names else None
        self._inodes: set[int] = set()
        self.files = self.bytes = self.added = self.changed = self.removed = 0
        self.root = Folder()

    def count(self, held: Iterable[Entry]) -> list[Entry]:
        """What went by."""
        listed = list(held)
        for entry in listed:
            there = _is_shown(self._lower, entry.path)
            if entry.kind == WHITEOUT:
                self.removed += there
                self._into(entry, 0)
                self._name("D", entry)
                continue
            if not (entry.kind == "directory" and there):
                self.added += not there
                self.changed += there
                self._name("C" if there else "A", entry)
            size = entry.size
            if entry.inode:
                size = 0 if entry.inode in self._inodes else size
                self._inodes.add(entry.inode)
            self.files += entry.kind == "file"
            self.bytes += size
            self._into(entry, size)
        return listed

    def sum(self, wasted: int) -> LayerSum:
        """All that was counted."""
        return LayerSum(
            self.files,
            self.bytes,
            self.added,
            self.changed,
            self.removed,
            wasted,
            self.root,
            tuple(self._names or ()),
        )

    def _name(self, kind: Literal["A", "C", "D"], entry: Entry) -> None:
        if self._names is not None:
            self._names.append(Named(kind, "/" + entry.path, entry.size))

    def _into(self, entry: Entry, size: int) -> None:
        parts = entry.path.split("/")
        if entry.kind != "directory":
            parts.pop()
        folder = self.root
        for part in ["", *parts]:
            if part:
                folder = folder.below.setdefault(part, Folder())
            folder.bytes += size
            folder.files += entry.kind == "file"
            folder.removed += entry.kind == WHITEOUT


def _is_shown(shown: Shown, path: str) -> bool:
    node = shown.root
    for part in path.split("/"):
        below = node.below.get(part)
        if below is None:
            return False
        node = below
    return True
