"""Live views of containers, for notebooks. Each is imported when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox_kernel.widgets.kinds import KINDS, class_name

if TYPE_CHECKING:
    from sandbox_kernel.widgets.notebook import Widget

__all__ = [class_name(name) for name in KINDS]


def __getattr__(name: str) -> type[Widget]:
    """ipywidgets takes longer to load than all else here, and what shows no widget needs none."""
    if name not in __all__:
        raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
    from sandbox_kernel.widgets import notebook

    return {class_name(kind): made for kind, made in notebook.CLASSES.items()}[name]
