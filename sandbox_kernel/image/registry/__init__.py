"""Registries: pulling and pushing images by the OCI distribution specification 1.1.

What speaks HTTP is imported by the first pull or push: who only names an image does not wait for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox_kernel.image.registry.progress import LAST, Listener, Progress

if TYPE_CHECKING:
    from sandbox_kernel.image.registry.pulling import pull

__all__ = ["LAST", "Listener", "Progress", "pull"]


def __getattr__(name: str) -> object:
    if name == "pull":
        from sandbox_kernel.image.registry.pulling import pull

        return pull
    raise AttributeError(name)
