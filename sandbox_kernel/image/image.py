"""An image as data: the class of which a container is an object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NotRequired, TypedDict


class Entry(TypedDict):
    """A directory, link or small file that a container gets beside its layers."""

    kind: Literal["directory", "link", "file"]
    path: str
    mode: NotRequired[int]
    target: NotRequired[str]
    text: NotRequired[str]


@dataclass(frozen=True)
class Image:
    """What a reference resolved to. Layers are directories, lowest first.

    `mounts` and `entries` are only of the image `host`, which has no layers: it is the host's own
    files, bound read-only, under parents that are made in the container. `config` has the keys of
    the OCI image configuration (Env, WorkingDir, User, Entrypoint, Cmd). `interpreter` is the
    Python to run cells with, as named inside; None when it is not known.
    """

    reference: str
    digest: str
    layers: tuple[str, ...] = ()
    mounts: tuple[Mapping[str, Any], ...] = ()
    entries: tuple[Entry, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    interpreter: str | None = None

    def __hash__(self) -> int:
        return hash((self.reference, self.digest))
