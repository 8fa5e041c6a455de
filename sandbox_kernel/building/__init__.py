"""Builds: from a Containerfile and its context to an image in the store.

`request` says what is asked for, `build` does it. Only a light part is imported here: the room of
images gets to know who builds what `build:PATH` names (`image.provide_builder`).
"""

from __future__ import annotations

from sandbox_kernel.image.resolve import Builder, provide_builder


def _find() -> Builder:
    from sandbox_kernel.building.referenced import build

    return build


provide_builder(_find)
