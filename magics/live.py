"""The live view of a container's use against its limits, where there is a notebook to show it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from IPython.core.getipython import get_ipython

if TYPE_CHECKING:
    from sandbox_kernel.container import Container
    from sandbox_kernel.widgets import Limits


def in_a_notebook() -> bool:
    """Whether a Jupyter kernel runs this, not a terminal."""
    return getattr(get_ipython(), "kernel", None) is not None


def show(container: Container | str) -> Limits:
    """Shows the view of a container, given or named; it ends with the container."""
    from IPython.display import display

    from sandbox_kernel.widgets import Limits  # takes a while, so only when one is asked for

    limits = Limits(container)
    display(limits)  # type: ignore[no-untyped-call]
    return limits
