"""One view together with where its facts come from: what a carrier shows, and tells of its reader.

A carrier is an ipywidget of a notebook (`notebook.py`) or a comm of the sandbox kernel
(`sandbox_kernel/kernel/widgets.py`). It hears that there is news, takes it, and hands on what
clients ask.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from sandbox_kernel import errors
from sandbox_kernel.observe.observer import Observer
from sandbox_kernel.observe.source import Source
from sandbox_kernel.widgets.contract import Deed, View

BEAT_SECONDS = 2.0
"""A view in which nothing changes says this often that it lives."""
STILL_SECONDS = 0.9
"""A chart in which nothing changes is moved on no sooner."""
MOST_FIELDS = 32
MOST_CHARACTERS = 4096


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A view, its source, and what may be done by it: the name of a deed to what does it."""

    view: View
    source: Source
    deeds: Mapping[str, Callable[[Mapping[str, Any]], None]] = field(default_factory=dict)
    closed: Callable[[], None] = lambda: None
    """Called once, when the last facts were taken."""


class Live:
    """Fills the view in a thread. `changed` is called, by any thread, when there is news."""

    def __init__(
        self,
        opened: Opened,
        changed: Callable[[], None],
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self._view = opened.view
        self._deeds = opened.deeds
        self._closed = opened.closed
        self._tell = changed
        self._fresh = True
        """Whether something may be new since the news were taken."""
        self._over = ended
        self._lock = threading.Lock()
        self._doing = threading.Lock()
        self._sent = ""
        self._beats = 0
        self._sent_at = 0.0
        self._drawn = 0
        self._row: object = None
        """The last row of numbers that was told."""
        self._done = 0
        """The last request that was carried out, and is to be seen by the next look."""
        self._observer = Observer(opened.source, self._told, self._ended)

    @property
    def name(self) -> str:
        """The word for this kind of view."""
        return self._view.name

    @property
    def live(self) -> bool:
        """Whether there may be news."""
        return self._view.live

    def news(self) -> dict[str, Any]:
        """What clients have to know that was not asked before: fields of the model, or none."""
        with self._lock:
            told: dict[str, Any] = {}
            if not self._fresh:
                return told
            self._fresh = False
            markup = str(self._view.markup())
            if markup != self._sent:
                self._sent = told["markup"] = markup
            now = time.monotonic()
            first, rows = self._view.drawn()
            start = max(first, self._drawn)
            fresh = [*islice(rows, start - first, None)]
            # Where nothing changes a chart only wanders: that may happen once in a second.
            still = not told and all(row == self._row for row in fresh)
            if fresh and not (still and now - self._sent_at < STILL_SECONDS):
                told["series"] = {"from": start, "rows": fresh}
                self._drawn, self._row = start + len(fresh), fresh[-1]
            if told:
                self._sent_at = now
            elif now - self._sent_at >= BEAT_SECONDS:
                self._sent_at = now
                self._beats += 1
                told["beat"] = self._beats
            return told

    def state(self) -> dict[str, Any]:
        """All fields of the model."""
        with self._lock:
            first, rows = self._view.drawn()
            return {
                "markup": str(self._view.markup()),
                "series": {"from": first, "rows": list(rows)},
                "beat": self._beats,
            }

    def bundle(self) -> dict[str, Any]:
        """How it looks without a widget."""
        with self._lock:
            return dict(self._view.bundle())

    def text(self) -> str:
        """How it looks as text."""
        with self._lock:
            return self._view.text()

    def hear(self, content: object) -> None:
        """What a client asked: `{"act": name, "fields": {...}, "number": n}`. Returns at once."""
        match content:
            case {"act": str(action), "fields": dict(fields), "number": int(number)}:
                asked = {
                    str(key): value[:MOST_CHARACTERS]
                    for key, value in list(fields.items())[:MOST_FIELDS]
                    if isinstance(value, str)
                }
                self._act(action, asked, number)

    def wait_looked(self, seconds: float) -> bool:
        """Whether there is something to show, or never will be, within so many seconds."""
        return self._observer.wait_looked(seconds)

    def wait_ended(self, seconds: float) -> bool:
        """Whether the last state is known, within so many seconds."""
        return self._observer.wait_ended(seconds)

    def stop(
        self, why: str = "", *, finish: Callable[[View], None] | None = None, wait: bool = True
    ) -> None:
        """No more news, since `why`; without it the observer says whether it had ended before.

        `finish` gets the view before, to complete it.
        """
        with self._lock:
            if finish:
                finish(self._view)
            if why:
                self._view.end(why, known=True)
            self._fresh = True
        self._observer.stop(wait=wait)

    def _changed(self) -> None:
        self._fresh = True
        self._tell()

    # -- by the observer's thread, and by those that do deeds -------------------------------------

    def _told(self, facts: Any) -> None:
        with self._lock:
            if self._view.live:
                self._view.show(facts)
            done, self._done = self._done, 0
            if done:
                self._view.answered(done)
        self._changed()

    def _ended(self, why: str) -> None:
        with self._lock:
            self._view.end(why)
        self._closed()
        self._changed()
        self._over()

    def _act(self, action: str, fields: Mapping[str, str], number: int) -> None:
        refusal = ""
        deed: Deed | None = None
        with self._lock:
            if action == "series":  # a page that was just opened, or missed some
                self._drawn = 0
                self._view.answered(number)
                return
            try:
                if self._view.live or action == "language":
                    deed = self._view.act(action, fields)
            except errors.SandboxError as error:
                refusal = errors.shown(error)
            if deed is None:
                self._view.answered(number, refusal)
        if deed is None:
            self._changed()
            return
        doing = threading.Thread(
            target=self._do, args=(deed, number), name=f"do {deed.name}", daemon=True
        )
        doing.start()

    def _do(self, deed: Deed, number: int) -> None:
        """One after the other; what is done is looked at before it is said to be done."""
        refusal = ""
        with self._doing:
            try:
                self._deeds[deed.name](deed.fields)
            except (errors.SandboxError, OSError, TimeoutError) as error:
                refusal = errors.shown(error)
        with self._lock:
            if refusal or not self._view.live:
                self._view.answered(number, refusal)
            else:
                self._done = max(self._done, number)
        self._observer.look()
        if refusal:
            self._changed()
