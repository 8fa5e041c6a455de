"""An image that is a Python environment over a base: its layers and its configuration.

Above the layers of the base come, lowest first: what the environment is beside its packages (a
virtual environment by PEP 405 at /opt/environment), the small wheels as one layer, each large wheel
as its own. A changed package changes its own layer and leaves the files of all others as they are.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from sandbox_kernel.errors import ImageError, shown
from sandbox_kernel.image.environments import bytecode, places, resolving, wheels
from sandbox_kernel.image.environments import python as pythons
from sandbox_kernel.image.environments.declared import Declared
from sandbox_kernel.image.environments.lock import Lock, Wheel
from sandbox_kernel.image.environments.python import Python
from sandbox_kernel.image.environments.tree import Tree
from sandbox_kernel.image.image import Image

PREFIX = wheels.PREFIX
INTERPRETER = f"{PREFIX}/bin/python"
LARGE = 4 << 20
"""Bytes of a wheel from which on it has a layer of its own."""
MOST_OWN = 8
"""Layers of single wheels: each layer is a mount more for every container."""


def image(declared: Declared, base: Image, *, fresh: bool = False) -> Image:
    """The image of a declaration over its base. Raises ImageError, HostLacks."""
    python = python_of(base)
    lock = resolving.lock(declared, python, fresh=fresh)
    return compose(declared.reference, lock, base, python)


def compose(reference: str, lock: Lock, base: Image, python: Python) -> Image:
    """The image of a lock over a base; what is not here yet is fetched."""
    found = wheels.trees(lock.wheels, python)
    compiled = bytecode.trees(found, python)
    layers = [*_trees(lock.wheels, found, python), *([group(compiled)] if compiled else [])]
    text = json.dumps([base.digest, lock.digest, python.path, wheels.FORM])
    return base.replaced(
        reference=reference,
        digest="sha256:" + hashlib.sha256(text.encode()).hexdigest(),
        layers=(*base.layers, *layers),
        leases=(*base.leases, *layers),
        config=configured(base, {"VIRTUAL_ENV": PREFIX}, INTERPRETER),
        interpreter=INTERPRETER,
    )


def configured(base: Image, also: Mapping[str, str], program: str | None) -> dict[str, Any]:
    """The configuration of the base with the environment's programs first, more variables, and what
    is started when the image has no program of its own."""
    variables = dict(
        str(each).partition("=")[::2] for each in base.config.get("Env") or () if "=" in str(each)
    )
    search = variables.get("PATH") or "/usr/local/bin:/usr/bin:/bin"
    variables |= {"PATH": f"{PREFIX}/bin:{search}", **also}
    config = {**base.config, "Env": [f"{name}={value}" for name, value in variables.items()]}
    if program and not config.get("Entrypoint"):
        config["Cmd"] = [program]
    return config


def tree(image: Image) -> Tree:
    """The files of an image; those of `host` are the machine's own, at their own places."""
    below = ("/",) if image.mounts or not image.layers else ()
    return Tree((*below, *image.layers))


def python_of(image: Image) -> Python:
    """The Python of an image, read from its files. Raises ImageError."""
    if image.reference == "host":
        return _of_host()
    with tree(image) as files:
        return pythons.find(files, image.interpreter, image.reference)


@functools.cache
def _of_host() -> Python:
    # In a virtual environment: the Python that it was made of, since ours is made of that too.
    executable = getattr(sys, "_base_executable", None) or sys.executable
    with Tree(("/",)) as files:
        return pythons.find(files, executable, "host")


def trees(lock: Lock, python: Python) -> list[str]:
    """The layers of a lock without byte code, lowest first."""
    return _trees(lock.wheels, wheels.trees(lock.wheels, python), python)


def _trees(chosen: Sequence[Wheel], found: Sequence[str], python: Python) -> list[str]:
    return [_skeleton(python), *layered([wheel.size for wheel in chosen], found)]


def layered(sizes: Sequence[int], found: Sequence[str]) -> list[str]:
    """The small trees together, then the large ones in the order that they have."""
    large = sorted((size for size in sizes if size >= LARGE), reverse=True)
    least = large[:MOST_OWN][-1] if large else None
    own: list[str] = []
    small: list[str] = []
    for size, path in zip(sizes, found, strict=True):
        alone = least is not None and size >= least and len(own) < MOST_OWN
        (own if alone else small).append(path)
    return [*([group(small)] if small else []), *own]


def group(paths: Sequence[str]) -> str:
    """Several trees as one, of the same files. The order does not matter."""
    names = sorted(map(os.path.basename, paths))
    key = hashlib.sha256("\n".join(names).encode()).hexdigest()[:40]
    path = os.path.join(places.folder("groups"), key)
    if places.is_there(path):
        return path
    with places.making() as partial:
        if not os.path.isdir(path):
            made = os.path.join(partial, "group")
            try:
                for each in sorted(paths):
                    places.link(each, made)
            except OSError as error:
                raise _not_together(error, made, path) from error
            places.publish(made, path)  # of files that are on the disk already
    return path


def _not_together(error: OSError, made: str, path: str) -> ImageError:
    if isinstance(error, NotADirectoryError) and error.filename:
        inside = error.filename.removeprefix(made)
        return ImageError(f"put packages together: `{shown(inside)}`: {error.strerror}: choose "
                          "other versions of them")  # fmt: skip
    return ImageError(f"put packages together in `{shown(path)}`: {error.strerror}: make room "
                      "there")  # fmt: skip


def _skeleton(python: Python) -> str:
    """The environment without packages: links to the base's Python, and who its base is."""
    key = hashlib.sha256(f"{python.path} {python.minor} {PREFIX}".encode()).hexdigest()[:40]
    path = os.path.join(places.folder("skeletons"), key)
    if places.is_there(path):
        return path
    with places.making() as partial:
        if os.path.isdir(path):
            return path
        made = os.path.join(partial, "skeleton")
        base = made + PREFIX
        places.make(f"{base}/bin")
        places.make(f"{base}/lib/python{python.minor}/site-packages")
        home = os.path.dirname(python.path)
        lines = f"home = {home}\ninclude-system-site-packages = false\nversion = {python.minor}\n"
        places.write(f"{base}/pyvenv.cfg", lines.encode())
        os.chmod(f"{base}/pyvenv.cfg", 0o644)
        os.symlink(python.path, f"{base}/bin/python")
        for name in ("python3", f"python{python.minor}"):
            os.symlink("python", f"{base}/bin/{name}")
        places.publish(made, path)
    return path
