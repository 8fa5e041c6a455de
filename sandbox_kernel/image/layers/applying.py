"""Unpacking one layer, and removing what was unpacked; both in a confined process."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Protocol

from sandbox_kernel.image.layers import limits as _limits
from sandbox_kernel.image.layers import process
from sandbox_kernel.image.layers.compression import PIECE, Compression
from sandbox_kernel.image.layers.facts import LayerFacts
from sandbox_kernel.linux import writing


class Readable(Protocol):
    """A source of bytes: b"" is the end."""

    def read(self, count: int, /) -> bytes: ...


def apply(
    source: int | Readable,
    compression: Compression,
    directory: str,
    *,
    diff_id: str | None = None,
    parents: Sequence[str] | None = None,
    alone: bool = False,
    limits: _limits.Limits = _limits.DEFAULT,
) -> LayerFacts:
    """Unpack a layer into an empty directory, while it comes.

    `source`: a descriptor (a file, a pipe, a socket) that is read to its end and stays open, or
    something with `read`, which is called in this thread. `diff_id`: what the plain bytes must hash
    to. `parents`: the unpacked layers below, lowest first; () for the lowest layer; None while they
    are not known, and then `LayerFacts.depends` says if they would have made a difference.
    `alone`: stop as soon as that is so; what is there then is of no use, and its facts are empty.

    Raises ImageError (a layer that is not as it must be), HostLacks (the file system or this
    machine). The directory then holds part of it: `remove_tree` takes it away. Nothing is synced.
    """
    name = diff_id or "without a name"
    order = {
        "directory": os.path.realpath(directory),
        "below": None if parents is None else [os.path.realpath(path) for path in parents[::-1]],
        "compression": compression,
        "diff_id": diff_id,
        "alone": alone,
        "limits": limits._asdict(),
    }
    what = f"unpack layer `{name}`"
    if isinstance(source, int):
        with process.start("apply", order, (source,)) as worker:
            answer = worker.answer(what)
    else:
        reading, sink = os.pipe2(os.O_CLOEXEC)
        with contextlib.ExitStack() as stack:
            feed = stack.enter_context(contextlib.closing(_Feed(sink)))
            try:
                worker = stack.enter_context(process.start("apply", order, (reading,)))
            finally:
                os.close(reading)  # the other one alone reads, so that its end is felt here
            feed.pump(source)
            answer = worker.answer(what)
    return facts_of(answer["facts"])


class _Feed:
    """The writing end of a pipe, closed once."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def pump(self, source: Readable) -> None:
        """All of a source; a reader that went away has said why."""
        try:
            while data := source.read(PIECE):
                writing.whole(self._descriptor, data)
        except BrokenPipeError:
            return
        self.close()

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def facts_of(answer: dict[str, object]) -> LayerFacts:
    """From the words of the confined process."""
    return LayerFacts(
        **{  # type: ignore[arg-type]
            key: tuple(value) if isinstance(value, list) else value for key, value in answer.items()
        }
    )


def remove_tree(path: str) -> bool:
    """Remove an unpacked layer, also one whose files have ids of the user's ranges.

    Returns whether it was there. Raises HostLacks. No link is followed, no mount entered.
    """
    parent, name = os.path.split(os.path.abspath(path))
    if not os.path.lexists(path):
        return False
    with process.start("remove", {"directory": os.path.realpath(parent), "name": name}) as worker:
        removed: bool = worker.answer(f"remove `{path}`")["removed"]
    return removed
