"""`%container pull` and `push` in a notebook: a bar for each layer, then the digest.

A front end that shows no HTML has one line that changes. In a terminal they are the command's own.
"""

from __future__ import annotations

import html
import time
from collections.abc import Iterable, Iterator
from typing import Any

from magics import live
from magics.notebook import Notebook
from sandbox_kernel import arguments, image
from sandbox_kernel.cli import registries, transfers
from sandbox_kernel.grammar import shown_size
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
    with _Bars() as shown:
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
    with _Bars() as shown:
        digest = registries.push_one(found, shown.show)
    registries.show(found, found.rest[-1], digest)
    return True


def get(reference: str) -> None:
    """Have an image that a cell needs; what comes of it from elsewhere is shown as it comes."""
    with _Bars() if live.in_a_notebook() else transfers.Bars() as shown:
        listen = shown.show if isinstance(shown, _Bars) else shown
        image.resolve(reference, progress=listen)


class _Bars:
    """How far each layer is, in one output of a cell, which changes.

    Called by one thread at a time.
    """

    def __init__(self) -> None:
        self._events: dict[str, Progress] = {}
        self._display: Any = None
        self._told = 0.0

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *_: object) -> None:
        if self._events:
            self._tell()

    def show(self, event: Progress) -> None:
        """One event. A new stage is shown at once, since nothing may follow for long."""
        before = self._events.get(event.digest)
        self._events[event.digest] = event
        now = time.monotonic()
        if before is None or before.stage != event.stage or now - self._told >= LEAST_SECONDS:
            self._told = now
            self._tell()

    def _tell(self) -> None:
        from IPython.display import display

        line = transfers.line(self._events)
        bundle = {"text/plain": line, "text/html": "".join(_markup(line, self._events.values()))}
        if self._display is None:
            self._display = display(bundle, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._display.update(bundle, raw=True)


def _markup(line: str, events: Iterable[Progress]) -> Iterator[str]:
    """A row for each layer, in the order in which they were first told of."""
    yield f"<div><p>{html.escape(line)}</p><table>"
    for event in events:
        said = transfers.SAID.get(event.stage, event.stage)
        size = f"{shown_size(transfers.moved(event))} of {shown_size(event.total)}"
        yield f"<tr><td><code>{html.escape(transfers.short(event))}</code></td><td>{said}</td>"
        yield f'<td><progress max="{max(event.total, 1)}" value="{transfers.moved(event)}">'
        yield f"</progress></td><td>{size}</td></tr>"
    yield "</table></div>"
