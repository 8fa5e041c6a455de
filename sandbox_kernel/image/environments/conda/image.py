"""An image that is a conda environment over a base: its layers and its configuration.

As with wheels, lowest first: what the environment is beside its packages, the small packages as one
layer, each large one as its own. The environment has a Python of its own, or none; of the base it
takes the C library and its loader.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os

from sandbox_kernel.image.environments import bytecode, environment, places
from sandbox_kernel.image.environments.conda import below, linking, resolving
from sandbox_kernel.image.environments.conda.below import Base
from sandbox_kernel.image.environments.conda.linking import PREFIX, RECORDS
from sandbox_kernel.image.environments.conda.lock import Lock
from sandbox_kernel.image.environments.declared import Declared
from sandbox_kernel.image.environments.python import Python
from sandbox_kernel.image.environments.tree import Tree
from sandbox_kernel.image.image import Image

MOST_NAMED = 5


def image(declared: Declared, base: Image, *, fresh: bool = False) -> Image:
    """The image of a declaration over its base. Raises ImageError, HostLacks."""
    lock = resolving.lock(declared, base_of(base), fresh=fresh)
    return compose(declared.reference, lock, base)


def base_of(base: Image) -> Base:
    """What an image gives to packages of conda. Raises ImageError."""
    if base.reference == "host":
        return _of_host()
    with environment.tree(base) as files:
        return below.find(files, base.reference)


@functools.cache
def _of_host() -> Base:
    with Tree(("/",)) as files:
        return below.find(files, "host")


def compose(reference: str, lock: Lock, base: Image) -> Image:
    """The image of a lock over a base; what is not here yet is fetched."""
    found = linking.trees(lock, reference)
    layers = _trees(lock, found)
    python = _python(lock)
    compiled = bytecode.trees(found, python) if python else []
    if compiled:
        layers.append(environment.group(compiled))
    interpreter = environment.INTERPRETER if python else None
    text = json.dumps([base.digest, lock.digest, linking.FORM])
    return base.replaced(
        reference=reference,
        digest="sha256:" + hashlib.sha256(text.encode()).hexdigest(),
        layers=(*base.layers, *layers),
        leases=(*base.leases, *layers),
        config=environment.configured(base, {"CONDA_PREFIX": PREFIX}, interpreter),
        interpreter=interpreter or base.interpreter,
        notices=(*base.notices, *_notices(linking.scripts(lock, found))),
    )


def trees(lock: Lock, reference: str) -> list[str]:
    """The layers of a lock without byte code, lowest first."""
    return _trees(lock, linking.trees(lock, reference))


def _trees(lock: Lock, found: list[str]) -> list[str]:
    return [_skeleton(), *environment.layered([each.size for each in lock.packages], found)]


def _python(lock: Lock) -> Python | None:
    """The Python of the environment, for whose version byte code is made."""
    if lock.python_version is None:
        return None
    major, minor = map(int, lock.glibc.split("."))
    path = environment.INTERPRETER
    return Python(path, lock.python_version, "glibc", (major, minor), lock.machine)


def _notices(names: list[str]) -> list[str]:
    """One line on what was left out, where something was."""
    if not names:
        return []
    more = ", ..." if len(names) > MOST_NAMED else ""
    return [
        f"scripts of {', '.join(names[:MOST_NAMED])}{more} that an installer of conda runs were "
        "not run: see docs/environments.md, if something of them is missing"
    ]


def _skeleton() -> str:
    """The environment without packages: the mark by which conda's tools know one."""
    key = hashlib.sha256(f"conda {PREFIX} {linking.FORM}".encode()).hexdigest()[:40]
    path = os.path.join(places.folder("skeletons"), key)
    if places.is_there(path):
        return path
    with places.making() as partial:
        if not os.path.isdir(path):
            made = os.path.join(partial, "skeleton")
            places.make(f"{made}{PREFIX}/{RECORDS}")
            places.write(f"{made}{PREFIX}/{RECORDS}/history", b"")
            os.chmod(f"{made}{PREFIX}/{RECORDS}/history", 0o644)
            places.publish(made, path)
    return path
