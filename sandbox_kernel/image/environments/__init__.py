"""Python environments as images: declared by packages, resolved by uv, written as layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox_kernel.image.environments import conda, declared, environment, resolving

if TYPE_CHECKING:
    from sandbox_kernel.image.environments.lock import Lock
    from sandbox_kernel.image.image import Image
    from sandbox_kernel.image.reference import Reference
    from sandbox_kernel.image.registry.progress import Listener

__all__ = ["locked", "resolve"]


def resolve(
    reference: Reference | str, *, progress: Listener | None = None, fresh: bool = False
) -> Image:
    """The image of `packages:`, `requirements:` or `pyproject:`, over its base.

    `progress` is told of the base. `fresh` asks the index anew. Raises ImageError, HostLacks.
    """
    from sandbox_kernel.image.resolve import resolve as resolve_any

    if str(reference).startswith("conda:"):
        conda.refuse(str(reference))
    found = declared.read(str(reference))
    base = resolve_any(found.base, progress=progress)
    return environment.image(found, base, fresh=fresh)


def locked(reference: str, *, fresh: bool = False) -> Lock:
    """The lock of such a reference over its base. Raises ImageError, HostLacks."""
    from sandbox_kernel.image.resolve import resolve as resolve_any

    found = declared.read(reference)
    python = environment.python_of(resolve_any(found.base))
    return resolving.lock(found, python, fresh=fresh)
