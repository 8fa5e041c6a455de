"""The views as ipywidgets of a notebook whose kernel runs on the host: one class for each kind."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import anywidget
import traitlets

from sandbox_kernel.widgets import contract, opening
from sandbox_kernel.widgets.contract import View
from sandbox_kernel.widgets.kinds import KINDS, class_name
from sandbox_kernel.widgets.live import Live

if TYPE_CHECKING:
    from sandbox_kernel import Sandbox
    from sandbox_kernel.container import Container
    from sandbox_kernel.observe import Observed

FIRST_SECONDS = 1.0
"""How long a view that is shown waits to have something to show."""


class Widget(anywidget.AnyWidget):
    """A live view of a container: given, or named.

    >>> Limits(container)
    >>> Limits("work")  # a container that is kept under this name
    >>> Limits("work", language="zh")

    Facts come from a thread of their own, so neither a busy cell in the container nor a busy
    notebook stops them. It ends with the container; then its last state stays in the notebook.
    """

    kind: ClassVar[str]
    markup = traitlets.Unicode().tag(sync=True)
    series = traitlets.Dict().tag(sync=True)
    beat = traitlets.Int().tag(sync=True)
    language = traitlets.Unicode(
        "", help="`en` or `zh`; empty: that of the page, before it is shown that of the user"
    ).tag(sync=True)

    def __init__(
        self,
        container: Container | Sandbox | str | None = None,
        *,
        language: str = "",
        interval: float | None = None,
        **given: Any,
    ) -> None:
        found, close = _find(container)
        try:
            opened = opening.open_view(self.kind, found, language or None, **given)
        except BaseException:
            close()
            raise
        if interval is not None:
            opened.source.set_interval(interval)
        self._shown_as: str | None = None
        self._publishing = threading.Lock()
        super().__init__(language=language, markup=str(opened.view.markup()))
        # ipykernel from 7.4 on has a page heard where the last message to it came from. Ours come
        # from threads, which count as the main shell: a cell that runs there would make pages wait.
        # Without this attribute they are heard in the subshell that they asked for.
        if hasattr(self.comm, "_reply_subshell_for"):
            self.comm._reply_subshell_for = None
        self.on_msg(self._hear)
        self._live = Live(opened, self._news, lambda: self._gone(close))

    def stop(self, usage: Mapping[str, Any] | None = None, why: str = "") -> None:
        """No more news. Who knows what was used in the end, and why it ended, tells it."""

        def finish(view: View) -> None:
            complete = getattr(view, "finish", None)
            if usage and complete:
                complete(usage)

        self._live.stop(why, finish=finish)
        self._news()
        self._keep()

    def wait_ended(self, seconds: float) -> bool:
        """Waits for the end of a container that is ending; whether the last state is shown."""
        return self._live.wait_ended(seconds)

    def close(self) -> None:
        """Ends the view, as `stop`, and takes it out of the page."""
        if hasattr(self, "_live"):
            self._shown_as = None
            self._live.stop()
        super().close()

    def __repr__(self) -> str:
        return self._live.text()

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None, **_: object
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        shown = super()._repr_mimebundle_()
        data, metadata = shown if isinstance(shown, tuple) else (shown or {}, {})
        return {**data, **self._live.bundle()}, metadata

    def _ipython_display_(self) -> None:
        """Shows it as an output that can be found again, when the last state is to stay in it."""
        from IPython.display import publish_display_data

        self._live.wait_looked(FIRST_SECONDS)
        self._shown_as = self._shown_as or secrets.token_hex(8)
        data, metadata = self._repr_mimebundle_()
        publish_display_data(  # type: ignore[no-untyped-call]
            data, metadata, transient={"display_id": self._shown_as}
        )
        if not self._live.live:
            self._keep()

    # -- by other threads -------------------------------------------------------------------------

    def _hear(self, _: object, content: object, buffers: object) -> None:
        """What a page says, in whichever thread the kernel hears it."""
        self._live.hear(content)

    def _news(self) -> None:
        if not hasattr(self, "_live"):
            return  # the first facts came before all else was there: the state has them
        with self._publishing, self.hold_sync():  # one message, whatever has changed
            for name, value in self._live.news().items():
                setattr(self, name, value)

    def _gone(self, close: Any) -> None:
        close()
        self._keep()

    def _keep(self) -> None:
        """Replaces the output by the last state as a page: a saved notebook has no kernel."""
        if self._shown_as is None or not _in_a_notebook():
            return
        from IPython.display import publish_display_data

        publish_display_data(  # type: ignore[no-untyped-call]
            self._live.bundle(), transient={"display_id": self._shown_as}, update=True
        )


def _made(kind: str) -> type[Widget]:
    fields = {
        "kind": kind,
        "__doc__": Widget.__doc__,
        "__module__": __name__,
        "_esm": contract.script(),
        "_css": contract.style(kind),
    }
    return type(class_name(kind), (Widget,), fields)


CLASSES = {kind: _made(kind) for kind in KINDS}
"""The word for `--show`, and the class."""


def _find(given: Container | Sandbox | str | None) -> tuple[Observed | None, Any]:
    """The container, and what lets go of it: it is let go of here if it was found here."""
    if isinstance(given, str):
        from sandbox_kernel.container import find

        found = find(given)
        return found, found.close
    held: Any = given
    observed: Observed | None = getattr(held, "container", held)  # a Sandbox has one
    return observed, lambda: None


def _in_a_notebook() -> bool:
    from IPython.core.getipython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None
