"""The images of a notebook's plans, with what their names meant the last time: see `image.pins`.

What can't move, such as `host` and `dir:PATH`, takes no time here: nothing is imported for it.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sandbox_kernel.image.pins import Pins
    from sandbox_kernel.policy import ContainerPlan

    from .requests import Request
    from .wire import Message

INFO = "kernel_info_request"
PIN_SECONDS = 10.0
"""How long `kernel_info` waits for pins, of an image that moves; later ones are told later."""
FIXED = ("host", "scratch")
FIXED_KINDS = ("dir:", "oci:", "oci-archive:", "docker-archive:", "sha256:")
NOTHING_MOVES = "nothing to update: what `{}` is does not move by itself"


class Pinning:
    """One notebook's pins, read when a plan first needs them."""

    def __init__(self) -> None:
        self._pins: Pins | None = None

    def plan(self, named: ContainerPlan) -> ContainerPlan:
        """The plan with its image pinned. Raises ImageError for pins that can't be read."""
        if not moves(named.image):
            return named
        return named.replaced(image=self._known().pinned(named.image))

    def record(self, named: ContainerPlan) -> None:
        """Pins the image of a plan that was resolved just now. Raises ImageError."""
        if moves(named.image):
            self._known().record(named.image)

    def update(self, named: ContainerPlan) -> str:
        """Asks anew what the image's name means; what changed. Raises ImageError, HostLacks."""
        if not moves(named.image):
            return NOTHING_MOVES.format(named.image)
        return "\n".join(self._known().update(named.image))

    def info(self, content: dict[str, Any]) -> dict[str, Any]:
        """A `kernel_info_reply` whose `language_info` has the pins, for the notebook to keep."""
        found = self._pins.metadata() if self._pins is not None else {}
        return {**content, "language_info": {**content["language_info"], **found}}

    def _known(self) -> Pins:
        if self._pins is None:
            from sandbox_kernel.image.pins import Pins

            self._pins = Pins.of_notebook()
        return self._pins


class Waiting:
    """Requests for `kernel_info` that wait for pins: most front ends ask but once.

    Everything else is answered meanwhile. `image` is the one of the plan, None while that is not
    known yet.
    """

    def __init__(self, settled: threading.Event) -> None:
        self._settled = settled
        self._asked: list[tuple[Request, Message]] = []
        self._until: float | None = None

    def takes(self, image: str | None, request: Request, message: Message) -> bool:
        """Whether it has to wait, until `released` gives it back."""
        waits = self._waits(image)
        if waits:
            self._asked.append((request, message))
        return waits

    @property
    def due(self) -> float | None:
        """When those that wait do so no longer, by the monotonic clock."""
        return self._until if self._asked else None

    def released(self, image: str | None) -> list[tuple[Request, Message]]:
        """Those that need not wait any more."""
        if not self._asked or self._waits(image):
            return []
        asked, self._asked = self._asked, []
        return asked

    def _waits(self, image: str | None) -> bool:
        if self._settled.is_set() or (image is not None and not moves(image)):
            return False
        now = time.monotonic()
        self._until = self._until or now + PIN_SECONDS
        return now < self._until


def moves(image: str) -> bool:
    """Whether a name may mean something else another day."""
    return image not in FIXED and not image.startswith(FIXED_KINDS)
