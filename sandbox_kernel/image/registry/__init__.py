"""Registries: pulling and pushing images by the OCI distribution specification 1.1.

What speaks HTTP is imported by the first pull or push: who names an image does not wait for it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from sandbox_kernel.image.registry.progress import LAST, Listener, Progress

if TYPE_CHECKING:
    from sandbox_kernel.image.registry.listing import referrers, tags
    from sandbox_kernel.image.registry.pulling import pull
    from sandbox_kernel.image.registry.pushing import push

__all__ = ["LAST", "Listener", "Progress", "pull", "push", "referrers", "tags"]

_LATER = {"pull": "pulling", "push": "pushing", "referrers": "listing", "tags": "listing"}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
