"""Live views of containers, for notebooks. Each is imported when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandbox_kernel.widgets.limits import Limits

__all__ = ["Limits"]


def __getattr__(name: str) -> object:
    """ipywidgets takes longer to load than all else here, and what only uses `view` needs none."""
    if name != "Limits":
        raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
    from sandbox_kernel.widgets.limits import Limits

    return Limits
