"""Environments as images: declared by packages, resolved by uv or rattler, written as layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox_kernel.image.environments import declared, environment, resolving

if TYPE_CHECKING:
    from sandbox_kernel.image.environments.conda.lock import Lock as CondaLock
    from sandbox_kernel.image.environments.lock import Lock
    from sandbox_kernel.image.image import Image
    from sandbox_kernel.image.reference import Reference
    from sandbox_kernel.image.registry.progress import Listener

__all__ = ["locked", "resolve"]


def resolve(
    reference: Reference | str, *, progress: Listener | None = None, fresh: bool = False
) -> Image:
    """The image of `packages:`, `requirements:`, `pyproject:` or `conda:`, over its base.

    `progress` is told of the base. `fresh` asks index or channels anew. Raises ImageError,
    HostLacks.
    """
    from sandbox_kernel.image.resolve import resolve as resolve_any

    found = declared.read(str(reference))
    base = resolve_any(found.base, progress=progress)
    if declared.is_conda(str(reference)):
        from sandbox_kernel.image.environments.conda import image as conda

        return conda.image(found, base, fresh=fresh)
    return environment.image(found, base, fresh=fresh)


def locked(reference: str, *, fresh: bool = False) -> Lock | CondaLock:
    """The lock of such a reference over its base. Raises ImageError, HostLacks."""
    from sandbox_kernel.image.resolve import resolve as resolve_any

    found = declared.read(reference)
    base = resolve_any(found.base)
    if declared.is_conda(reference):
        from sandbox_kernel.image.environments.conda import image as conda
        from sandbox_kernel.image.environments.conda import resolving as conda_resolving

        return conda_resolving.lock(found, conda.base_of(base), fresh=fresh)
    python = environment.python_of(base)
    return resolving.lock(found, python, fresh=fresh)
