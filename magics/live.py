"""Live views of containers, where there is a notebook to show them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from IPython.core.getipython import get_ipython

from sandbox_kernel.course import texts
from sandbox_kernel.widgets import kinds

if TYPE_CHECKING:
    from sandbox_kernel.container import Container
    from sandbox_kernel.widgets.notebook import Widget


def in_a_notebook() -> bool:
    """Whether a Jupyter kernel runs this, not a terminal."""
    return getattr(get_ipython(), "kernel", None) is not None


def show(container: Container | str | None, names: Iterable[str] = ("limits",)) -> list[Widget]:
    """Shows views of a container, given or named; they end with the container.

    In a chapter of the course they speak its language, elsewhere that of the page.
    """
    from IPython.display import display

    from sandbox_kernel.widgets import notebook  # takes a while, so only when one is asked for

    shown = []
    for name in names:
        subject = None if name in kinds.OF_ALL else container
        made = notebook.CLASSES[name](subject, language=texts.of_the_folder())
        shown.append(made)
        display(made)  # type: ignore[no-untyped-call]
    return shown
