"""In a template: a kernel whose start is done as far as it needs no thread, socket or file.

Imported as the last of the template's modules, so that it is refused like any other when it fails
or leaves a thread; kernels then do all of their start themselves.
"""

from contextlib import suppress

import zmq

from . import application, ways

for name in (
    "IPython.core.completerlib",
    "IPython.core.logger",
    "IPython.core.oinspect",
    "IPython.extensions.storemagic",
    "faulthandler",
    "msgspec",
    "psutil",
    "resource",
    "sqlite3",
    "tornado.platform.asyncio",
):
    try:
        __import__(name)
    except ImportError:  # of another version, or not installed
        continue

for kind in (zmq.Context, zmq.Socket):
    # With each attribute zmq asks all that it inherits from for their annotations. A type makes
    # its own when it is first asked, and all types below it are looked through anew after that.
    for one in kind.__mro__:
        getattr(one, "__annotations__", None)

app = application.made()
app.begin()
with suppress(Exception):  # of another version: a kernel goes all of its way itself
    ways.go(app.prepared)
