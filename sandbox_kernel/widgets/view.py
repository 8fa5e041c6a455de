"""What is shown of samples: one state, as HTML for pages and as text for everything else.

The live view, the output that stays in a saved notebook, and the text of a terminal are made here,
so they say the same. A reader who sees no colours, or no pictures, has all of it in words.
"""

from __future__ import annotations

import html
import os
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from sandbox_kernel.grammar import shown_seconds, shown_size

if TYPE_CHECKING:
    from sandbox_kernel.observe import Sample

MOST_SAMPLES = 120
LEAST_SPAN = 30  # samples for which a sparkline has room from the start
HIGH, FULL = 80, 95
"""Percent of a limit from which the words "near" and "at" stand beside it."""
BAR = 20
WIDTH, HEIGHT = 240, 24  # of a sparkline, in its own units
FOLDER = os.path.dirname(os.path.abspath(__file__))


class Row(NamedTuple):
    """One quantity. `percent` of its limit; None: there is no limit, or nothing is known yet."""

    name: str
    text: str
    percent: int | None
    history: tuple[int, ...]
    """Percent of the limit, or of the largest where there is none, oldest first."""

    @property
    def level(self) -> str:
        """`ok`, `high` or `full`."""
        percent = self.percent or 0
        return "full" if percent >= FULL else "high" if percent >= HIGH else "ok"

    @property
    def words(self) -> str:
        """The numbers, and what a colour would say."""
        warning = {"ok": "", "high": ": near the limit", "full": ": at the limit"}[self.level]
        return self.text + warning


class View:
    """The samples of one container, and how they look. For one thread at a time."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.live = True
        self.why_ended = ""
        self._samples: deque[Sample] = deque(maxlen=MOST_SAMPLES)

    def add(self, sample: Sample) -> None:
        """One more sample; the oldest gives way."""
        self._samples.append(sample)

    def end(self, why: str) -> None:
        """No more samples come: `why`, such as "the container ended"."""
        self.live = False
        self.why_ended = why

    @property
    def last(self) -> Sample | None:
        """The newest sample."""
        return self._samples[-1] if self._samples else None

    def rows(self) -> list[Row]:
        """Memory, CPU, processes and storage; without those that this machine does not count."""
        last = self.last
        if last is None:
            return []
        limits, samples = last.limits, self._samples
        rows = []
        if last.memory_bytes is not None:
            text = _of(shown_size, last.memory_bytes, limits.memory)
            if last.memory_peak_bytes is not None:
                text += f", at most {shown_size(last.memory_peak_bytes)}"
            rows.append(_row("Memory", text, [s.memory_bytes for s in samples], limits.memory))
        if last.cpu_seconds is not None:
            used = [sample.processors for sample in samples]
            text = f"{shown_seconds(round(last.cpu_seconds, 2))} in all"
            if used[-1] is not None:
                limit = limits.processors
                text = _of(lambda n: f"{n:.2f}", used[-1], limit, "processors") + ", " + text
            rows.append(_row("CPU", text, used, limits.most_processors))
        if last.pids is not None:
            text = _of(str, last.pids, limits.pids)
            if last.pids_peak is not None:
                text += f", at most {last.pids_peak}"
            rows.append(_row("Processes", text, [s.pids for s in samples], limits.pids))
        if last.storage_bytes is not None:
            text = _of(shown_size, last.storage_bytes, limits.storage)
            rows.append(_row("Files", text, [s.storage_bytes for s in samples], limits.storage))
        return rows

    def notes(self) -> list[str]:
        """What has no limit to be measured against, each in a few words."""
        last = self.last
        if last is None:
            return []
        found = []
        if last.throttled_seconds:
            found.append(f"held back by the CPU limit for {last.throttled_seconds:.1f} s in all")
        if last.written_bytes:
            found.append(f"{shown_size(last.written_bytes)} written to devices")
        if last.oom_kills:
            found.append("out of memory")
        return found

    def status(self) -> str:
        """Whether it is live, and of when it is."""
        if self.live:
            return "live" if self.last else "waiting for the first sample"
        if self.last is None:
            return self.why_ended
        return f"{self.why_ended} ({time.strftime('%H:%M:%S', time.localtime(self.last.taken))})"

    # -- as it is shown ---------------------------------------------------------------------------

    def text(self) -> str:
        """For terminals, and for pages without HTML."""
        lines = [f"container {self.name}: {self.status()}"]
        for row in self.rows():
            filled = "#" * round((row.percent or 0) * BAR / 100)
            bar = " " * (BAR + 2) if row.percent is None else f"[{filled:-<{BAR}}]"
            percent = "" if row.percent is None else f"{row.percent} %"
            lines.append(f"{row.name:<10}{bar} {percent:>5}  {row.words}")
        return "\n".join([*lines, *self.notes()])

    def markup(self) -> str:
        """As HTML without style and script, for the live view."""
        rows = "".join(map(_markup, self.rows()))
        notes = html.escape("; ".join(self.notes()))
        state = "live" if self.live else "ended"
        return (
            f'<div class="sandbox-limits" role="group" data-state="{state}"'
            f' aria-label="Use against limits of container {html.escape(self.name)}">'
            f'<div class="sandbox-limits-head"><strong>{html.escape(self.name)}</strong> '
            f'<span role="status">{html.escape(self.status())}</span></div>'
            f"{rows}"
            f'<div class="sandbox-limits-notes">{notes}</div></div>'
        )

    def page(self) -> str:
        """As HTML with its style, for a saved notebook."""
        return f"<style>{style()}</style>{self.markup()}"

    def bundle(self) -> dict[str, str]:
        """The state as it stays in a notebook, where no widget is."""
        return {"text/plain": self.text(), "text/html": self.page()}


def script() -> str:
    """The module that keeps the live view up to date in the page."""
    return _file("limits.js")


def style() -> str:
    """How it looks, in light and in dark."""
    return _file("limits.css")


def _file(name: str) -> str:
    with open(f"{FOLDER}/{name}", encoding="utf-8") as file:
        return file.read()


def _of(shown: object, used: float, limit: float | None, unit: str = "") -> str:
    assert callable(shown)
    unit = f" {unit}" if unit else ""
    if limit is None:
        return f"{shown(used)}{unit}, no limit"
    return f"{shown(used)} of {f'{limit:g}' if unit else shown(limit)}{unit}"


def _row(name: str, text: str, values: list[float | None] | list[int | None],
         limit: float | None) -> Row:  # fmt: skip
    known = [value for value in values if value is not None]
    most = limit or max(known, default=0) or 1
    history = tuple(_percent(value, most) for value in known)
    percent = history[-1] if limit and values[-1] is not None else None
    return Row(name, text, percent, history)


def _percent(value: float, most: float) -> int:
    return max(0, min(100, round(100 * value / most)))


def _markup(row: Row) -> str:
    name, words = html.escape(row.name), html.escape(row.words)
    if row.percent is None:
        bar = '<div class="sandbox-limits-bar" data-level="none"></div>'
    else:
        bar = (
            f'<div class="sandbox-limits-bar" data-level="{row.level}" role="meter"'
            f' aria-label="{name}" aria-valuemin="0" aria-valuemax="100"'
            f' aria-valuenow="{row.percent}" aria-valuetext="{words}">'
            f'<div style="width: {row.percent}%"></div></div>'
        )
    percent = "" if row.percent is None else f"{row.percent} %"
    return (
        f'<div class="sandbox-limits-row"><span class="sandbox-limits-name">{name}</span> {bar}'
        f'<span class="sandbox-limits-percent">{percent}</span> '
        f'<span class="sandbox-limits-words">{words}</span> {_sparkline(row)}</div>'
    )


def _sparkline(row: Row) -> str:
    """The history as a line that ends at the right; words and meter say the rest to readers."""
    span = max(len(row.history), LEAST_SPAN)
    start = span - len(row.history)
    step = WIDTH / (span - 1)
    points = " ".join(
        f"{(start + index) * step:.1f},{HEIGHT - value * HEIGHT / 100:.1f}"
        for index, value in enumerate(row.history)
    )
    return (
        f'<svg class="sandbox-limits-line" data-level="{row.level}" aria-hidden="true"'
        f' viewBox="0 -1 {WIDTH} {HEIGHT + 2}" preserveAspectRatio="none">'
        f'<polyline points="{points}"></polyline></svg>'
    )
