"""Run notebook code in Linux containers. The public names, each imported when first used."""

from __future__ import annotations

TYPE_CHECKING = False  # not from `typing`, which is heavy for the launcher

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from sandbox_kernel.engine import Result, Run, Sandbox, run

__version__ = "0.1.0"
__all__ = ["Result", "Run", "Sandbox", "run"]


def __getattr__(name: str) -> object:
    """The public names of `engine`; importing it takes longer than most uses of this package."""
    if name not in __all__:
        raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
    import importlib

    return getattr(importlib.import_module("sandbox_kernel.engine"), name)


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Called by `%load_ext sandbox_kernel`: registers the magics of the package `magics`."""
    # The magics stand above this package in the import order, and IPython looks for this
    # function here. The name is resolved when the user asks for it, so no import points up.
    import importlib

    importlib.import_module("magics").register(shell)
