"""`%container pull` and `push` in a notebook: one line that is brought up to date, then the digest.

In a terminal they are the command's own, with its bars.
"""

from __future__ import annotations

import time
from typing import Any

from magics import live
from magics.notebook import Notebook
from sandbox_kernel import arguments, image
from sandbox_kernel.cli import registries, transfers
from sandbox_kernel.image.registry.progress import Progress

LEAST_SECONDS = 0.1


def pull(notebook: Notebook, words: list[str]) -> bool:
    """An image that this notebook may use; the ceilings of the user's settings hold."""
    found = arguments.parse(words, registries.VERBS["pull"].all_flags())
    if len(found.rest) != 1:
        return False  # the verb itself says how it is called
    notebook.plan({"image": found.rest[0]})
    if not live.in_a_notebook():
        return False
    with _Line() as shown:
        stored = registries.pull_one(found, shown.show)
    for notice in registries.notices(stored):
        print(f"note: {notice}")
    registries.show(found, found.rest[0], stored.digest)
    return True


def push(notebook: Notebook, words: list[str]) -> bool:
    """An image of the store, to where this notebook might have got it: to other registries nothing
    of the user's goes on a notebook's word."""
    found = arguments.parse(words, registries.VERBS["push"].all_flags())
    if not 1 <= len(found.rest) <= 2:
        return False
    notebook.plan({"image": found.rest[-1]})
    if not live.in_a_notebook():
        return False
    with _Line() as shown:
        digest = registries.push_one(found, shown.show)
    registries.show(found, found.rest[-1], digest)
    return True


def get(reference: str) -> None:
    """Have an image that a cell needs; what comes of it from elsewhere is shown as it comes."""
    with _Line() if live.in_a_notebook() else transfers.Bars() as shown:
        listen = shown.show if isinstance(shown, _Line) else shown
        image.resolve(reference, progress=listen)


class _Line:
    """A line of text in the output of a cell, which changes. Called by one thread at a time."""

    def __init__(self) -> None:
        self._events: dict[str, Progress] = {}
        self._display: Any = None
        self._told = 0.0

    def __enter__(self) -> _Line:
        return self

    def __exit__(self, *_: object) -> None:
        if self._events:
            self._tell()

    def show(self, event: Progress) -> None:
        """One event."""
        self._events[event.digest] = event
        now = time.monotonic()
        if now - self._told >= LEAST_SECONDS:
            self._told = now
            self._tell()

    def _tell(self) -> None:
        from IPython.display import display

        text = {"text/plain": transfers.line(self._events)}
        if self._display is None:
            self._display = display(text, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._display.update(text, raw=True)
