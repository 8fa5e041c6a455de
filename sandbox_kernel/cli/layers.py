"""`sandbox-kernel tree`, `commit`, and `diff` of two: what layers hold, and how images differ."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from sandbox_kernel import container, errors, grammar, image
from sandbox_kernel.arguments import Flag, Parsed
from sandbox_kernel.cli import output
from sandbox_kernel.cli.verb import FORMAT, Verb
from sandbox_kernel.container import committing, layering
from sandbox_kernel.image import layers
from sandbox_kernel.image.layers import comparing, summing
from sandbox_kernel.image.layers.comparing import Difference
from sandbox_kernel.image.layers.summing import Folder, ImageSum
from sandbox_kernel.image.store import Store
from sandbox_kernel.observe.layers import described

_DEPTH = Flag("depth", ("--depth",), "N", "How many folders deep.", default="2")
_FILES = Flag("files", ("--files",), "", "List each name: A added, C changed, D deleted.")
_AUTHOR = Flag("author", ("--author", "-a"), "WHO", "Who made the image.")
_MESSAGE = Flag("message", ("--message", "-m"), "TEXT", "What the image's history says of it.")
_DEEPEST = 100


class Layer(NamedTuple):
    """What is told of a layer beside what is in it; empty where the store does not know it."""

    digest: str
    made_by: str


class Told(NamedTuple):
    """An image summed up: each layer of `sum` with its facts, lowest first."""

    reference: str
    digest: str
    layers: tuple[Layer, ...]
    sum: ImageSum


def tree(found: Parsed) -> int:
    """Prints which layer brings which files, and what is wasted."""
    depth = depth_of(found)
    with output.progress("looking into the layers"):
        told = tell(found.rest[0], names=bool(found.own.get("files")))
    if found.own.get("format") == "json":
        output.data(facts(told, depth))
        return 0
    for line in lines(told, depth):
        print(output.clean(line))
    return 0


def depth_of(found: Parsed) -> int:
    """Raises InvalidOption."""
    return grammar.whole(found.own.get("depth", "2"), "--depth", least=0, most=_DEEPEST)


def tell(reference: str, *, names: bool = False) -> Told:
    """Sum up an image. Raises ImageError for one that has no layers."""
    resolved = image.resolve(reference)
    if not resolved.layers:
        raise errors.ImageError(
            f"look into image `{reference}`: it has no layers: name one that was pulled or built"
        )
    known = [
        Layer(each.digest, each.made_by) for each in described(resolved.digest, resolved.layers)
    ]
    return Told(
        reference,
        resolved.digest,
        tuple(known),
        summing.image([layers.Tree(layer) for layer in resolved.layers], names=names),
    )


def facts(told: Told, depth: int) -> dict[str, Any]:
    """What `tree --format json` prints. Sizes in bytes."""
    return {
        "reference": told.reference,
        "digest": told.digest,
        "files": told.sum.files,
        "bytes": told.sum.bytes,
        "wasted": told.sum.wasted,
        "efficiency": round(told.sum.efficiency, 4),
        "layers": [
            {
                "digest": layer.digest,
                "created_by": layer.made_by,
                "files": each.files,
                "bytes": each.bytes,
                "added": each.added,
                "changed": each.changed,
                "removed": each.removed,
                "wasted": each.wasted,
                "folders": _folders(each.root, depth),
                "names": [name._asdict() for name in each.names],
            }
            for layer, each in zip(told.layers, told.sum.layers, strict=True)
        ],
        "wasted_paths": [
            {"path": "/" + one.path, "times": one.times, "bytes": one.bytes}
            for one in told.sum.paths
        ],
    }


def _folders(folder: Folder, depth: int) -> dict[str, Any]:
    if not depth:
        return {}
    return {
        name: {
            "files": below.files,
            "bytes": below.bytes,
            "removed": below.removed,
            "folders": _folders(below, depth - 1),
        }
        for name, below in sorted(folder.below.items())
    }


def lines(told: Told, depth: int) -> Iterator[str]:
    """The same as text, the lowest layer first, the largest folder of each first."""
    yield summary(told)
    for number, (layer, each) in enumerate(zip(told.layers, told.sum.layers, strict=True), 1):
        yield ""
        yield f"layer {number}  {headline(layer, each)}"
        if layer.made_by:
            yield f"  created by: {output.short(layer.made_by, 70)}"
        if each.names:
            for kind, path, size in each.names:
                yield f"  {kind} {grammar.shown_size(size) if size else '-':>10}  {path}"
        else:
            yield from _drawn(each.root, depth, "  ")
    if told.sum.paths:
        yield ""
        yield "wasted"
        for one in told.sum.paths:
            yield f"  {grammar.shown_size(one.bytes):>10}  {one.times} x /{one.path}"


def summary(told: Told) -> str:
    """One line for the image."""
    count = len(told.layers)
    return (
        f"{told.reference}  {count} layer{'s' * (count != 1)}, {told.sum.files} files, "
        f"{grammar.shown_size(told.sum.bytes)}; wasted {grammar.shown_size(told.sum.wasted)}, "
        f"efficiency {100 * told.sum.efficiency:.1f} %"
    )


def headline(layer: Layer, each: summing.LayerSum) -> str:
    """One line for a layer."""
    said = f"{each.files} files, {grammar.shown_size(each.bytes)}: "
    said += f"{each.added} added, {each.changed} changed, {each.removed} removed"
    if each.wasted:
        said += f", {grammar.shown_size(each.wasted)} wasted"
    digest = layer.digest.partition(":")[2][:12]
    return f"{digest}  {said}" if digest else said


def _drawn(folder: Folder, depth: int, indent: str) -> Iterator[str]:
    if not depth:
        return
    for name, below in largest_first(folder):
        removed = f"  {below.removed} removed" if below.removed else ""
        yield f"{indent}{name}/  {grammar.shown_size(below.bytes)}, {below.files} files{removed}"
        yield from _drawn(below, depth - 1, indent + "  ")


def largest_first(folder: Folder) -> list[tuple[str, Folder]]:
    """The folders in a folder."""
    return sorted(folder.below.items(), key=lambda pair: (-pair[1].bytes, pair[0]))


def compare(first: str, second: str) -> list[Difference]:
    """What is different between two, each a container or an image. Raises ImageError."""
    with ExitStack() as stack:
        one, runtimes = stack.enter_context(_layers(first))
        other, others = stack.enter_context(_layers(second))
        found = comparing.difference(one, other)
    own = runtimes | others
    return [each for each in found if each.path not in own]


@contextmanager
def _layers(word: str) -> Iterator[tuple[list[layers.Tree], frozenset[str]]]:
    """The layers of a container of this name, else of an image; and what is the runtime's own."""
    try:
        live = container.find(word)
    except errors.NoSuchContainer:
        resolved = image.resolve(word)
        if resolved.mounts or resolved.trees:
            raise errors.ImageError(
                f"compare image `{word}`: it is files of this machine and has no layers: name "
                "another one"
            ) from None
        yield [layers.Tree(layer) for layer in resolved.layers], frozenset()
        return
    made = layering.made(live)
    above = {path[:at] for path in made for at, letter in enumerate(path) if letter == "/" and at}
    with layering.writable(live) as top:
        yield [*(layers.Tree(layer) for layer in live.image.layers), top], made | above


def commit(found: Parsed) -> int:
    """Prints the digest of the image that was made."""
    live = container.find(found.rest[0])
    with output.progress(f"committing {live.name}"):
        stored = committing.commit(
            Store.open(),
            live,
            found.rest[1] if len(found.rest) > 1 else None,
            author=found.own.get("author"),
            comment=found.own.get("message"),
        )
    if found.own.get("format") == "json":
        output.data({"digest": stored.digest, "names": list(stored.names), "size": stored.size})
    else:
        print(stored.digest)
    return 0


VERBS = {
    "tree": Verb(
        "tree [options] IMAGE",
        "Print which layer of an image brings which files and how many bytes, and how many of "
        "them nobody can see, since a higher layer replaced or removed them.",
        tree,
        (_DEPTH, _FILES, FORMAT),
        least=1,
        most=1,
    ),
    "commit": Verb(
        "commit [options] CONTAINER [NAME]",
        "Keep a container's files as an image: the layers of its image, and one of what changed. "
        "What runs in it goes on meanwhile.",
        commit,
        (_AUTHOR, _MESSAGE, FORMAT),
        least=1,
        most=2,
    ),
}
