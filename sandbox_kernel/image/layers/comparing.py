"""What is different between what two stacks of layers show: two images, or a container and one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from sandbox_kernel.image.layers import contents
from sandbox_kernel.image.layers.contents import Entry, Node, Shown, Tree

Kind = Literal["A", "C", "D"]


class Difference(NamedTuple):
    """One path: A added, C changed, D deleted from the first to the second; and what is changed.

    `what`: words of kind, content, size, mode, owner. Sizes in bytes, 0 where there is no file.
    """

    kind: Kind
    path: str
    what: tuple[str, ...]
    before: int
    after: int


def difference(first: Sequence[Tree], second: Sequence[Tree]) -> list[Difference]:
    """Every path that is not the same, in the order of paths. Times are not looked at.

    Files are compared by what is in them; a layer that both have is read once. Raises ImageError,
    HostLacks.
    """
    read: dict[str | int, list[Entry]] = {}
    one, other = Shown(), Shown()
    for made, trees in ((one, first), (other, second)):
        for tree in trees:
            if tree.place not in read:
                read[tree.place] = list(contents.entries(tree, contents=True))
            made.add(read[tree.place])
    found: list[Difference] = []
    _compare(one.root, other.root, "", found)
    return found


def _compare(one: Node, other: Node, prefix: str, found: list[Difference]) -> None:
    for name in sorted({*one.below, *other.below}):
        path = f"{prefix}/{name}"
        before, after = one.below.get(name), other.below.get(name)
        if before is None and after is not None:
            found += _all("A", path, after)
        elif after is None and before is not None:
            found += _all("D", path, before)
        elif before is not None and after is not None:
            what = _what(before.entry, after.entry)
            if what:
                sizes = _size(before.entry), _size(after.entry)
                found.append(Difference("C", path, what, *sizes))
            _compare(before, after, path, found)


def _all(kind: Kind, path: str, node: Node) -> list[Difference]:
    nodes = [(path, node), *((f"{path}/{below}", inner) for below, inner in node.walk())]
    return [
        Difference(
            kind,
            at,
            (),
            _size(each.entry) if kind == "D" else 0,
            _size(each.entry) if kind == "A" else 0,
        )
        for at, each in nodes
    ]


def _what(before: Entry | None, after: Entry | None) -> tuple[str, ...]:
    if before is None or after is None:
        return ()
    if before.kind != after.kind:
        return ("kind",)
    what = []
    if before.content != after.content:
        what.append("content")
    if before.size != after.size:
        what.append("size")
    if before.mode != after.mode:
        what.append("mode")
    if (before.uid, before.gid) != (after.uid, after.gid):
        what.append("owner")
    return tuple(what)


def _size(entry: Entry | None) -> int:
    return entry.size if entry is not None and entry.kind == "file" else 0
