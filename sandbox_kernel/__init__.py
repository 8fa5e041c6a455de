"""Run notebook code in Linux containers. The public names, each imported when first used."""

from __future__ import annotations

TYPE_CHECKING = False  # not from `typing`, which is heavy for the launcher

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__version__ = "0.1.0"


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Called by `%load_ext sandbox_kernel`: registers the magics of the package `magics`."""
    # The magics stand above this package in the import order, and IPython looks for this
    # function here. The name is resolved when the user asks for it, so no import points up.
    import importlib

    importlib.import_module("magics").register(shell)
