"""Making a layer of a tree on disk, in a confined process; equal trees give equal bytes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from sandbox_kernel.errors import InvalidOption
from sandbox_kernel.image.layers import process
from sandbox_kernel.image.layers.compression import PIECE
from sandbox_kernel.image.layers.contents import Tree

_EPOCH = "SOURCE_DATE_EPOCH"


class Writable(Protocol):
    """Where bytes go."""

    def write(self, data: bytes, /) -> object: ...


@dataclass(frozen=True)
class Packed:
    """A layer that was made. Sizes in bytes."""

    digest: str
    size: int
    diff_id: str
    plain_size: int
    members: int


def pack(
    tree: str | Tree,
    out: int | Writable,
    *,
    epoch: int | None = None,
    prefix: str = "",
    owner: tuple[int, int] | None = None,
    made: Iterable[str] = (),
) -> Packed:
    """Pack a directory, or a container's writable layer, as a gzip-compressed layer into `out`.

    `epoch`: no time is later than these seconds; None: what SOURCE_DATE_EPOCH says, if anything.
    `prefix`: where the tree stands in the image. `owner`: (uid, gid) of everything, else as on
    disk, where the ids are those of images. Whiteouts as overlayfs has them become those of the
    specification; sockets and devices are left out. `made`: what a runtime put there for its own
    ends (absolute paths), which is left out unless there is something in it.

    Raises ImageError (what can't be in a layer), HostLacks (this machine), and what `out` raises.
    """
    found = tree if isinstance(tree, Tree) else Tree(tree)
    by_name = isinstance(found.place, str)
    order = {
        "directory": os.path.realpath(found.place) if isinstance(found.place, str) else None,
        "epoch": source_date_epoch() if epoch is None else epoch,
        "prefix": prefix,
        "owner": owner,
        "made": [path.strip("/") for path in made],
    }
    more = () if isinstance(found.place, str) else (found.place,)
    what = f"pack `{tree}`" if by_name else "pack the writable layer"
    if isinstance(out, int):
        with process.start("pack", order, (out, *more), first=found.first) as worker:
            answer = worker.answer(what)
    else:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, reading)
            try:
                worker = stack.enter_context(
                    process.start("pack", order, (writing, *more), first=found.first)
                )
            finally:
                os.close(writing)
            _pump(reading, out.write)
            answer = worker.answer(what)
    return Packed(**answer["packed"])


def source_date_epoch() -> int | None:
    """What SOURCE_DATE_EPOCH says (reproducible-builds.org). Raises InvalidOption."""
    text = os.environ.get(_EPOCH)
    if not text:
        return None
    if not text.isdecimal() or len(text) > 12:
        raise InvalidOption(_EPOCH, text, "whole seconds since 1970")
    return int(text)


def _pump(reading: int, write: Callable[[bytes], object]) -> None:
    while data := os.read(reading, PIECE):
        write(data)
