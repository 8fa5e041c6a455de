"""How far a long cell is: a bar in a notebook, a line in a terminal, a line of text at the end."""

from __future__ import annotations

import sys
import time
from typing import Any

from magics import live
from sandbox_kernel.grammar import shown_seconds

LEAST_SECONDS = 0.1


class Progress:
    """Counts items as they are done. For one thread."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self.failed = 0
        self._workers = 0
        self._began = self._told = time.monotonic()
        self._bar: Any = None
        self._display: Any = None

    def start(self, workers: int) -> None:
        """So many work at once from now on."""
        self._workers = min(workers, self.total)
        if live.in_a_notebook():
            import ipywidgets
            from IPython.display import display

            self._bar = ipywidgets.IntProgress(max=max(1, self.total), description=self._count())
            self._display = display(self._bar, display_id=True)  # type: ignore[no-untyped-call]

    def count(self, *, failed: bool) -> None:
        """One more is done. Said before it is shown, since an interrupt can come between."""
        self.done += 1
        self.failed += failed

    def show(self) -> None:
        """How far it is by now, unless that was said just before."""
        now = time.monotonic()
        if now - self._told < LEAST_SECONDS and self.done < self.total:
            return
        self._told = now
        if self._bar is not None:
            self._bar.value, self._bar.description = self.done, self._count()
            if self.failed:
                self._bar.bar_style = "danger"
        elif sys.stderr.isatty():
            sys.stderr.write(f"\r{self.text()}\x1b[K")
            sys.stderr.flush()

    def make_room(self) -> None:
        """Something else is going to be printed: in a terminal the line gives way to it."""
        if self._bar is None and sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def close(self) -> None:
        """No more come. What stays is text: a widget would need its kernel."""
        if self._display is not None:
            self._bar.close()
            plain = {"text/plain": self.text()}
            self._display.update(plain, raw=True)
        elif sys.stderr.isatty():
            self.make_room()
            print(self.text(), file=sys.stderr)

    def text(self) -> str:
        """How far it is, in words."""
        took = shown_seconds(round(time.monotonic() - self._began, 1))
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self._count()} items{failed}, {self._workers} at once, {took}"

    def _count(self) -> str:
        return f"{self.done}/{self.total}"
