"""The kernel layer: ipykernel and what it needs, for an image that has none.

It is mounted read-only, and `inside/boot.py` puts it on the module path of the kernel. The packages
of the image stay in front (`last`), and the versions go with them: a layer that was made lately for
another image is taken when it does, else one is chosen, without what the image has already. Only
where no version of ipykernel goes with them, the layer is whole and in front (`first`).
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Sequence

from sandbox_kernel.errors import ImageError
from sandbox_kernel.image.environments import (
    bytecode,
    environment,
    installed,
    kept_kernels,
    places,
    resolving,
    wheels,
)
from sandbox_kernel.image.environments import python as pythons
from sandbox_kernel.image.environments.declared import Declared
from sandbox_kernel.image.environments.lock import Lock, Wheel
from sandbox_kernel.image.environments.python import Python
from sandbox_kernel.image.image import Image

WANTED = "ipykernel>=6.29"
PLACE = "/opt/sandbox-kernel"
FIRST, LAST = "first", "last"
OPTIONS = ["ro", "nosuid", "nodev"]


@functools.lru_cache(maxsize=16)
def added(image: Image) -> Image:
    """The image with a kernel layer, if it has a Python and no ipykernel.

    Raises ImageError for an image without a Python that can be given one, HostLacks without uv.
    """
    python, has = _packages(image)
    if "ipykernel" in has:
        return image
    order, chosen, trees = _chosen(image.reference, python, has)
    tree = environment.group([*trees, *bytecode.trees(trees, python)])
    mount = {
        "destination": f"{PLACE}/{order}",
        "type": "bind",
        "source": _packages_of(tree, python),
        "options": OPTIONS,
    }
    text = json.dumps([image.digest, order, [wheel.sha256 for wheel in chosen]])
    return image.replaced(
        digest="sha256:" + hashlib.sha256(text.encode()).hexdigest(),
        mounts=(*image.mounts, mount),
        leases=(*image.leases, tree),
    )


def _packages(image: Image) -> tuple[Python, dict[str, str]]:
    """The Python of an image and the versions of the packages that it sees by itself."""
    with environment.tree(image) as files:
        python = pythons.find(files, image.interpreter, image.reference)
        assert image.interpreter is not None
        folders = pythons.site_folders(files, python, image.interpreter)
        found: dict[str, str] = {}
        for package in installed.of_python(files, folders):
            found.setdefault(package.name, package.version)
    return python, found


def _chosen(
    reference: str, python: Python, has: dict[str, str]
) -> tuple[str, Sequence[Wheel], list[str]]:
    """Where the layer stands, its wheels and their trees."""
    whole = Declared(f"ipykernel for {reference}", (WANTED,))
    kept = kept_kernels.find(whole, python, has)
    if kept is not None:
        return LAST, kept, wheels.trees(kept, python, prefix=PLACE)
    order, lock = _lock(whole, reference, python, has)
    chosen = [wheel for wheel in lock.wheels if order == FIRST or wheel.name not in has]
    trees = wheels.trees(chosen, python, prefix=PLACE)
    if order == LAST:
        folders = [_packages_of(tree, python) for tree in trees]
        kept_kernels.keep(whole, python, chosen, folders)
    return order, chosen, trees


def _lock(whole: Declared, reference: str, python: Python, has: dict[str, str]) -> tuple[str, Lock]:
    """Where the layer stands, and the wheels that it is chosen of."""
    pins = tuple(f"{name}=={version}" for name, version in sorted(has.items()) if _plain(version))
    beside = Declared(f"ipykernel beside the packages of {reference}", (WANTED,), pins)
    text = json.dumps([WANTED, pins, python])
    name = f"kernel-{hashlib.sha256(text.encode()).hexdigest()[:32]}"
    note = os.path.join(places.folder("locks"), name)
    if places.read(note, 16) != FIRST.encode():
        try:
            return LAST, resolving.lock(beside, python)
        except ImageError:
            if not pins:
                raise
    lock = resolving.lock(whole, python)  # raises what is wrong with more than the pins
    places.write(note, FIRST.encode())
    return FIRST, lock


def _packages_of(tree: str, python: Python) -> str:
    return f"{tree}{PLACE}/lib/python{python.minor}/site-packages"


def _plain(version: str) -> bool:
    """Whether it is a version by PEP 440, which distributions do not always keep to."""
    from packaging.version import InvalidVersion, Version

    try:
        return not Version(version).local
    except InvalidVersion:
        return False
