"""`Limits`: a live view of what a container uses against its limits, as a Jupyter widget."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from sandbox_kernel import observe
from sandbox_kernel.observe import INTERVAL, Observed, Observer, Reading, Sample
from sandbox_kernel.widgets import view

if TYPE_CHECKING:
    from sandbox_kernel import Sandbox
    from sandbox_kernel.container import Container


FIRST_SECONDS = 1.0
"""How long a view that is shown waits to have something to show."""


class Limits(anywidget.AnyWidget):
    """Memory, CPU, processes and files of a container against their limits, while it lives.

    >>> Limits(container)
    >>> Limits("work")  # a container that is kept under this name

    Samples come from a thread of their own, so neither a busy cell in the container nor a busy
    notebook stops them. It ends with the container; then its last state stays in the notebook.
    """

    _esm = Path(view.FOLDER) / "limits.js"
    _css = Path(view.FOLDER) / "limits.css"
    markup = traitlets.Unicode().tag(sync=True)

    def __init__(self, container: Container | Sandbox | str, *, interval: float = INTERVAL) -> None:
        found, self._found = _find(container)
        self._view = view.View(found.name)
        self._shown_as: str | None = None
        self._over = threading.Event()
        self._lock = threading.Lock()
        super().__init__(markup=self._view.markup())
        self._observer = Observer(found, self._told, self._ended, interval=interval)

    def stop(self, usage: Mapping[str, Any] | None = None, why: str | None = None) -> None:
        """No more samples. Who knows what was used in the end, and why it ended, tells it."""
        self._observer.stop()
        with self._lock:
            if usage:
                reading = Reading(time.monotonic(), usage)
                self._view.add(observe.sample(None, reading, self._observer.limits, time.time()))
            if why:
                self._view.end(why)
            self._show()
        self._keep()

    def wait_ended(self, seconds: float) -> bool:
        """Waits for the end of a container that is ending; whether the last state is shown."""
        return self._observer.wait_ended(seconds)

    def close(self) -> None:
        """Ends the view, as `stop`, and takes it out of the page."""
        if hasattr(self, "_observer"):
            self._shown_as = None
            self._observer.stop()
        super().close()

    def __repr__(self) -> str:
        with self._lock:
            return self._view.text()

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None, **_: object
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        shown = super()._repr_mimebundle_()
        data, metadata = shown if isinstance(shown, tuple) else (shown or {}, {})
        with self._lock:
            return {**data, **self._view.bundle()}, metadata

    def _ipython_display_(self) -> None:
        """Shows it as an output that can be found again, when the last state is to stay in it."""
        from IPython.display import publish_display_data

        self._observer.wait_sampled(FIRST_SECONDS)
        self._shown_as = self._shown_as or secrets.token_hex(8)
        data, metadata = self._repr_mimebundle_()
        publish_display_data(  # type: ignore[no-untyped-call]
            data, metadata, transient={"display_id": self._shown_as}
        )
        if not self._view.live:
            self._keep()

    # -- called by the observer's thread ----------------------------------------------------------

    def _told(self, sample: Sample) -> None:
        with self._lock:
            self._view.add(sample)
            self._show()

    def _ended(self, why: str) -> None:
        with self._lock:
            self._view.end(why)
            self._show()
        if self._found is not None:
            self._found.close()
        self._keep()

    def _show(self) -> None:
        self.markup = self._view.markup()

    def _keep(self) -> None:
        """Replaces the output by the last state as a page: a saved notebook has no kernel."""
        if self._shown_as is None or not _in_a_notebook():
            return
        from IPython.display import publish_display_data

        with self._lock:
            data = self._view.bundle()
        publish_display_data(  # type: ignore[no-untyped-call]
            data, transient={"display_id": self._shown_as}, update=True
        )


def _find(given: Container | Sandbox | str) -> tuple[Observed, Container | None]:
    """The container, and the same if it was found here, and so is to be let go of here."""
    if isinstance(given, str):
        from sandbox_kernel.container import find

        found = find(given)
        return found, found
    held: Any = given
    observed: Observed = getattr(held, "container", held)  # a Sandbox has one
    return observed, None


def _in_a_notebook() -> bool:
    from IPython.core.getipython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None
