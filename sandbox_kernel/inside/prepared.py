"""In a template: a kernel whose start is done as far as it needs no thread, socket or file.

Imported as the last of the template's modules, so that it is refused like any other when it fails
or leaves a thread; kernels then do all of their start themselves.
"""

import ctypes
from contextlib import suppress

import zmq

from . import application, ways

SQLITE_CONFIG_PAGECACHE = 7


def without_page_caches() -> None:
    """SQLite gives pages of files memory as it comes to them (sqlite3_config of its C interface).

    It would make room for 20 of them with each connection, and write into all of it. IPython's
    history has two connections, each of which reads a few pages.
    """
    import _sqlite3

    # Finds names of what it is linked with too; in some Pythons it is part of the program.
    library = ctypes.CDLL(getattr(_sqlite3, "__file__", None))
    if hasattr(library, "sqlite3_config") and library.sqlite3_shutdown() == 0:
        library.sqlite3_config(SQLITE_CONFIG_PAGECACHE, None, 0, 0)
        library.sqlite3_initialize()


for name in (
    "IPython.core.completerlib",
    "IPython.core.logger",
    "IPython.core.oinspect",
    "IPython.extensions.storemagic",
    "faulthandler",
    "resource",
    "sqlite3",
    "tornado.platform.asyncio",
):
    try:
        __import__(name)
    except ImportError:  # of another version, or not installed
        continue

with suppress(ImportError):
    without_page_caches()

for kind in (zmq.Context, zmq.Socket):
    # With each attribute zmq asks all that it inherits from for their annotations. A type makes
    # its own when it is first asked, and all types below it are looked through anew after that.
    for one in kind.__mro__:
        getattr(one, "__annotations__", None)

app = application.made()
app.begin()
with suppress(Exception):  # of another version: a kernel goes all of its way itself
    ways.go(app.prepared)
