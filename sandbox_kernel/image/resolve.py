"""From an image reference to an `Image`: `host`, `dir:PATH` and `scratch`."""

from __future__ import annotations

import functools
import hashlib
import os

from sandbox_kernel.errors import ImageError
from sandbox_kernel.image import host
from sandbox_kernel.image.image import Image

# Where a Python usually lies in a root file system, best first.
INTERPRETERS = ("usr/local/bin/python3", "usr/bin/python3", "bin/python3")


def resolve(reference: str) -> Image:
    """The image of a reference. Raises ImageError when it names nothing that is there."""
    if reference == "host":
        return _host()
    if reference == "scratch":
        return Image("scratch", _digest("scratch"))
    if reference.startswith("dir:"):
        return _directory(reference, reference[len("dir:") :])
    raise ImageError(
        f"resolve image `{reference}`: it is none of `host`, `dir:PATH` and `scratch`: "
        "use one of these"
    )


@functools.cache
def _host() -> Image:
    return host.image()


def _directory(reference: str, path: str) -> Image:
    if not os.path.isdir(path):
        raise ImageError(
            f"resolve image `{reference}`: `{path}` is no directory: name the root of a file system"
        )
    root = os.path.realpath(path)
    interpreter = next(
        ("/" + name for name in INTERPRETERS if os.path.lexists(f"{root}/{name}")), None
    )
    return Image(reference, _digest(root), layers=(root,), interpreter=interpreter)


def _digest(text: str) -> str:
    """A name for an image whose content is not addressed: it says which, not what is in it."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
