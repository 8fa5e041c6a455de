"""A container's files as layers: those of its image and the writable one, to look into or pack."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from sandbox_kernel.container import finding
from sandbox_kernel.container.container import Container
from sandbox_kernel.image.layers import Tree
from sandbox_kernel.linux import paths


@contextmanager
def writable(container: Container) -> Iterator[Tree]:
    """The writable layer, open as long as the block is. Raises NoSuchContainer."""
    folder, layered = container.open_writable()
    try:
        # The tmpfs belongs to the container's root, and nothing in it can change that.
        first = os.fstat(folder).st_uid if os.geteuid() == 0 else 0
        upper = paths.open_below(
            folder,
            "upper" if layered else ".",
            os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW,
            paths.RESOLVE_NO_SYMLINKS | paths.RESOLVE_BENEATH,
        )
        try:
            yield Tree(upper, first)
        finally:
            os.close(upper)
    finally:
        os.close(folder)


def made(container: Container) -> frozenset[str]:
    """Absolute paths that the runtime put into the writable layer itself."""
    return made_in(container.id)


def made_in(container_id: str) -> frozenset[str]:
    """The same for the container of an id."""
    return frozenset(finding.inspect(container_id)["made"])
