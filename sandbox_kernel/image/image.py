"""An image as data: the class of which a container is an object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NotRequired, TypedDict

from sandbox_kernel.records import Record


class Entry(TypedDict):
    """A directory, link or small file that a container gets beside its layers."""

    kind: Literal["directory", "link", "file"]
    path: str
    mode: NotRequired[int]
    target: NotRequired[str]
    text: NotRequired[str]


class Tree(TypedDict):
    """A read-only folder put together of the host's files, the same for all containers.

    A runtime that makes many containers makes it once; `expanded` says it in OCI words.
    """

    destination: str
    entries: list[Entry]
    mounts: list[Mapping[str, Any]]


class Image(Record):
    """What a reference resolved to. Layers are directories, lowest first.

    `mounts`, `trees` and `entries` are only of the image `host`, which has no layers: it is the
    host's own files, bound read-only, under parents that are made in the container. `config` has
    the keys of the OCI image configuration (Env, WorkingDir, User, Entrypoint, Cmd).
    `interpreter` is the Python to run cells with, as named inside; None when it is not known.
    `leases` are folders that a container locks (flock, shared) as long as it lives, so that no
    collection of garbage takes its layers. `notices` are lines for who makes a container of it.
    """

    reference: str
    digest: str
    layers: tuple[str, ...] = ()
    mounts: tuple[Mapping[str, Any], ...] = ()
    trees: tuple[Tree, ...] = ()
    entries: tuple[Entry, ...] = ()
    config: Mapping[str, Any] = {}
    interpreter: str | None = None
    leases: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    bare: bool = False
    """Nothing of it is executed: a container of it has its files, and no /proc, /sys or /dev."""

    def __hash__(self) -> int:
        return hash((self.reference, self.digest))

    def expanded(self) -> Image:
        """The same with no trees: what they hold stands under entries and mounts."""
        return self.replaced(
            trees=(),
            entries=(*self.entries, *(entry for tree in self.trees for entry in tree["entries"])),
            mounts=(*(mount for tree in self.trees for mount in tree["mounts"]), *self.mounts),
        )
