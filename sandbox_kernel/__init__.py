"""Run notebook code in Linux containers. The public names, each imported when first used."""

from __future__ import annotations

TYPE_CHECKING = False  # not from `typing`, which is heavy for the launcher

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from sandbox_kernel import aio
    from sandbox_kernel.engine import Result, Run, Sandbox, run
    from sandbox_kernel.mapping import Results, map  # noqa: A004 - named as what it stands for

__version__ = "0.1.0"
__all__ = ["Result", "Results", "Run", "Sandbox", "aio", "map", "run"]

_ROOMS = {"aio": "aio", "Results": "mapping", "map": "mapping"}


def __getattr__(name: str) -> object:
    """The public names; importing what they need takes longer than most uses of this package."""
    if name not in __all__:
        raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
    import importlib

    room = importlib.import_module(f"sandbox_kernel.{_ROOMS.get(name, 'engine')}")
    return room if name == "aio" else getattr(room, name)


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Called by `%load_ext sandbox_kernel`: registers the magics of the package `magics`."""
    # The magics stand above this package in the import order, and IPython looks for this
    # function here. The name is resolved when the user asks for it, so no import points up.
    import importlib

    importlib.import_module("magics").register(shell)
