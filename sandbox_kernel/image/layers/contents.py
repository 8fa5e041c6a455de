"""What layers hold, and what an image of them shows: read in a confined process, kept as a tree.

Layers are directories as `apply` makes them, or a container's writable layer by its descriptor.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from sandbox_kernel.errors import ImageError
from sandbox_kernel.image.layers import process
from sandbox_kernel.image.layers.walking import WHITEOUT

MOST_ENTRIES = 4_000_000
_LONGEST_LINE = 1 << 16


class Entry(NamedTuple):
    """One name of a layer. `kind`: file, directory, link, pipe, socket, device or whiteout.

    `content`: where a link leads; the digest of a file, if it was asked for. `opaque`: a directory
    that hides what is below it. `inode`: of a file with several names in its layer, else 0.
    """

    path: str
    kind: str
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    content: str
    opaque: bool
    inode: int


class Tree(NamedTuple):
    """A layer to look into: its directory, or an open one of a container.

    `first`: the id of ours that is root there.
    """

    place: str | int
    first: int = 0


def entries(tree: Tree, *, contents: bool = False) -> Iterator[Entry]:
    """What a layer holds, each directory before what is in it. Raises ImageError, HostLacks."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    order = {
        "directory": os.path.realpath(tree.place) if isinstance(tree.place, str) else None,
        "contents": contents,
    }
    given = (writing,) if isinstance(tree.place, str) else (writing, tree.place)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, reading)
        try:
            worker = stack.enter_context(process.start("walk", order, given, first=tree.first))
        finally:
            os.close(writing)
        with open(reading, "rb", closefd=False) as lines:
            for count, line in enumerate(iter(lambda: lines.readline(_LONGEST_LINE), b"")):
                if count >= MOST_ENTRIES:
                    raise ImageError(f"look into a layer: it has more than {count} names")
                *facts, opaque, inode = json.loads(line)
                yield Entry._make((*facts, bool(opaque), inode))
        worker.answer("look into a layer")


class Node:
    """One name of what an image shows: its entry, of which layer it is, and what is below it."""

    __slots__ = ("below", "entry", "layer")

    def __init__(self, entry: Entry | None, layer: int) -> None:
        self.entry = entry
        self.layer = layer
        self.below: dict[str, Node] = {}

    def walk(self, prefix: str = "") -> Iterator[tuple[str, Node]]:
        """All below, by path, in the order of names."""
        for name in sorted(self.below):
            node = self.below[name]
            yield prefix + name, node
            yield from node.walk(f"{prefix}{name}/")


class Hidden(NamedTuple):
    """A name of a lower layer that a higher one replaced or removed."""

    entry: Entry
    layer: int
    by: int
    """The layer that hides it."""


class Shown:
    """What layers show together. Add them lowest first; `hidden` gathers what is seen no more."""

    def __init__(self) -> None:
        self.root = Node(None, -1)
        self.hidden: list[Hidden] = []
        self._layer = -1

    def add(self, held: Iterable[Entry]) -> None:
        """One more layer on top."""
        self._layer += 1
        for entry in held:
            parent = self._parent(entry.path)
            name = entry.path.rpartition("/")[2]
            there = parent.below.get(name)
            if entry.kind == WHITEOUT:
                if there is not None and there.layer != self._layer:
                    self._hide(parent.below.pop(name))
                continue
            if there is None:
                parent.below[name] = Node(entry, self._layer)
                continue
            if entry.kind != "directory" or (there.entry and there.entry.kind != "directory"):
                self._hide(parent.below.pop(name))
                parent.below[name] = Node(entry, self._layer)
                continue
            if entry.opaque:
                for below in there.below.values():
                    self._hide(below)
                there.below = {}
            there.entry, there.layer = entry, self._layer

    def _parent(self, path: str) -> Node:
        node = self.root
        for part in path.split("/")[:-1]:
            node = node.below.setdefault(part, Node(None, self._layer))
        return node

    def _hide(self, node: Node) -> None:
        for entry, layer in [
            (node.entry, node.layer),
            *((found.entry, found.layer) for _, found in node.walk()),
        ]:
            if entry is not None:
                self.hidden.append(Hidden(entry, layer, self._layer))


def shown(trees: Sequence[Tree]) -> Shown:
    """What these layers show together, lowest first."""
    made = Shown()
    for tree in trees:
        made.add(entries(tree))
    return made
