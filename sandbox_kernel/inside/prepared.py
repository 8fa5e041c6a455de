"""In a template: a kernel whose start is done as far as it needs no thread, socket or file.

Imported as the last of the template's modules, so that it is refused like any other when it fails
or leaves a thread; kernels then do all of their start themselves.
"""

from . import application

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

application.made().begin()
