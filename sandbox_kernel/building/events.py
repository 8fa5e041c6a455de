"""What a build tells while it goes on."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from sandbox_kernel.image.registry.progress import Progress


class StepStarted(Struct, frozen=True):
    """One instruction of a stage begins; `number` from 1 of `total`."""

    stage: str
    number: int
    total: int
    text: str


class StepOutput(Struct, frozen=True):
    """What a RUN wrote; `stream` 1 or 2. Values of secrets are masked."""

    stage: str
    number: int
    stream: int
    text: str


class StepDone(Struct, frozen=True):
    """It is done. `cached`: its layer was there already."""

    stage: str
    number: int
    cached: bool
    seconds: float


class Pulling(Struct, frozen=True):
    """A base image is got: how far one of its layers is."""

    reference: str
    progress: Progress


class Notice(Struct, frozen=True):
    """A line that the user should know."""

    text: str


Event = StepStarted | StepOutput | StepDone | Pulling | Notice
Listener = Callable[[Event], None]
