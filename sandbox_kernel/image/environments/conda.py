"""`conda:FILE`: why it is refused, and what to write instead.

A conda package may bring link scripts, which its installer runs outside of any container. In a
build they run in one, so that is the way to a conda environment.
"""

from __future__ import annotations

import os
from typing import NoReturn

from sandbox_kernel.errors import HostLacks, ImageError, shown

PLACES = (
    "/usr/local/bin/micromamba",
    "/usr/bin/micromamba",
    "/opt/conda/bin/micromamba",
    "/opt/conda/bin/mamba",
)
OF_THE_USER = (".local/bin/micromamba", "bin/micromamba", "miniforge3/bin/mamba")


def program() -> str:
    """The absolute path of micromamba or mamba. Raises HostLacks when there is none."""
    home = os.path.expanduser("~")
    own = [os.path.join(home, place) for place in OF_THE_USER] if os.path.isabs(home) else []
    for place in (*PLACES, *own):
        if os.path.isfile(place) and os.access(place, os.X_OK):
            return place
    raise HostLacks(
        f"make a conda environment: neither micromamba nor mamba is at `{'`, `'.join(PLACES)}`, "
        "nor in your home: declare what is on your index by `packages:`, or install one and build "
        "with it by `build:PATH`"
    )


def refuse(reference: str) -> NoReturn:
    """Raises HostLacks without micromamba, and with it ImageError: a build is the way."""
    path = program()
    raise ImageError(
        f"make `{shown(reference)}`: packages of conda bring scripts that would run on this "
        f"machine: build it in a container: `build:PATH` with a Containerfile that copies `{path}` "
        "and runs it"
    )
