"""What `build:PATH[#FILE][@DIGEST]` names: the image that the Containerfile there makes."""

from __future__ import annotations

import os

from sandbox_kernel import policy, settings
from sandbox_kernel.building import build as building
from sandbox_kernel.building.events import Event, Pulling
from sandbox_kernel.building.request import BuildRequest, read_epoch
from sandbox_kernel.errors import ImageError, shown
from sandbox_kernel.image import bases
from sandbox_kernel.image.digest import Digest
from sandbox_kernel.image.reference import Build
from sandbox_kernel.image.registry.progress import Listener
from sandbox_kernel.image.store import Store, Stored


def build(
    store: Store, asked: Build, *, progress: Listener | None = None, pull: bool = False
) -> Stored:
    """Build it, or take it from the cache. Limits are those of this folder's settings.

    What the names in it meant is noted; `pull`: registries are asked for them anew. Raises as
    `build.build`.
    """
    known = bases.find(asked.bases, str(asked)).meant if asked.bases else {}
    used: dict[str, Digest] = {}

    def tell(event: Event) -> None:
        if progress is not None and isinstance(event, Pulling):
            progress(event.progress)

    # A reference may come from a notebook: it may not ask for more than a notebook may.
    within = settings.load()
    file = asked.file
    if file is not None:
        file = _within(asked.path, file)
    request = BuildRequest(
        context=asked.path,
        file=file,
        plan=policy.plan(settings.NOTEBOOK, within=within),
        allow_image=lambda image: hold(image, settings.NOTEBOOK),
        epoch=read_epoch({}),
        bases=known,
        pull=pull,
        used=used.__setitem__,
    )
    made = building.build(store, request, tell)
    bases.note(asked, bases.of(used))
    return made


def _within(context: str, file: str) -> str:
    """The path of a Containerfile of a reference, which lies in its folder. Raises ImageError."""
    root = os.path.realpath(context)
    path = os.path.realpath(os.path.join(root, file))
    if not path.startswith(root.rstrip("/") + "/"):
        raise ImageError(
            f"build `{shown(context)}`: the file `{shown(file)}` does not lie in that folder: "
            "name one that does"
        )
    return path


def hold(image: str, source: str) -> None:
    """Policy for a base image: the same as for the image of a container. Raises NotAllowed."""
    policy.plan(source, image=image)
