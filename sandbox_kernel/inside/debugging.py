"""ipykernel's debugger, without debugpy until somebody debugs. ipykernel 6 and 7.

debugpy is a fifth of the memory that a kernel's imports take, and a quarter of their time; few
kernels are ever debugged. ipykernel imports it for three names and asks one of them at its start;
here these stand for what is loaded when it is asked for. An ipykernel that wants other names gets
debugpy at once.
"""

import importlib
import importlib.util
import sys
from contextlib import contextmanager, suppress
from typing import Any, Iterator

from .clients import standing_in  # which is to be before anybody imports all of jupyter_client

NAMES = {
    "debugpy.server": ("api",),  # first: only after it are the others found
    "_pydevd_bundle": ("pydevd_frame_utils",),
    "_pydevd_bundle.pydevd_suspended_frames": ("SuspendedFramesManager", "_FramesTracker"),
}
"""What `ipykernel.debugger` imports of debugpy, by module."""


def load(debugger: Any) -> None:
    """The names of ipykernel's debugger are what they say, from now on."""
    with kept_hook():
        for module, names in NAMES.items():
            imported = __import__(module, fromlist=names)
            for name in names:
                setattr(debugger, name, getattr(imported, name))


def breakpoint_hook(*arguments: Any, **options: Any) -> Any:
    """What `breakpoint()` does once debugpy is there: nothing, unless somebody debugs."""
    __import__("debugpy.server")
    if sys.breakpointhook is not breakpoint_hook:
        return sys.breakpointhook(*arguments, **options)
    return None


@contextmanager
def kept_hook() -> Iterator[None]:
    """debugpy has `breakpoint()` ask itself when it is imported; not where a cell said who is asked
    before that."""
    had = sys.breakpointhook
    try:
        yield
    finally:
        if had is not breakpoint_hook:
            sys.breakpointhook = had


def is_later() -> bool:
    """Whether debugpy is there, and nobody has loaded it or ipykernel's debugger."""
    known = ("ipykernel.debugger", "debugpy", "pydevd", *NAMES)
    return importlib.util.find_spec("debugpy") is not None and not any(
        name in sys.modules for name in known
    )


def put_off(debugger: Any) -> None:
    """The debugger as it was imported loads debugpy when it starts, or shows variables."""
    original = debugger.VariableExplorer
    start = debugger.Debugger.start

    class Explorer(original):
        """Begins when it is first asked for what it has."""

        begun = False

        def __init__(self) -> None:
            """Does nothing yet."""

        def __getattr__(self, name: str) -> Any:
            if self.begun or name.startswith("__"):
                raise AttributeError(name)
            self.begun = True
            load(debugger)
            given = dict(vars(self))
            original.__init__(self)
            vars(self).update(given)
            return getattr(self, name)

    def started(self: Any) -> Any:
        with kept_hook():
            return start(self)

    debugger.VariableExplorer = Explorer
    debugger.Debugger.start = started
    sys.breakpointhook = breakpoint_hook


def imported() -> Any:
    """The module `ipykernel.debugger`, without debugpy where that can be."""
    name = "ipykernel.debugger"
    if is_later():
        with suppress(ImportError), standing_in(NAMES):
            debugger: Any = importlib.import_module(name)
            is_available = getattr(debugger, "_is_debugpy_available", True)
            if is_available and hasattr(debugger, "VariableExplorer"):
                put_off(debugger)
                return debugger
        sys.modules.pop(name, None)
    return importlib.import_module(name)


debugger = imported()
