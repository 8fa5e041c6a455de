"""What a user types in a notebook: `%%container`, `%container` and `%sandbox`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["register"]


def register(shell: InteractiveShell) -> None:
    """Makes the magics known to this shell, with their help and completion. Twice is once."""
    from magics.commands import ContainerMagics
    from magics.completion import Completer

    known = shell.magics_manager.registry.get("ContainerMagics")
    if known is not None:
        return
    magics = ContainerMagics(shell)
    shell.register_magics(magics)
    Completer(shell, magics.notebook).install()
