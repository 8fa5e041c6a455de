"""What a build tells while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sandbox_kernel.image.registry.progress import Progress


@dataclass(frozen=True)
class StepStarted:
    """One instruction of a stage begins; `number` from 1 of `total`."""

    stage: str
    number: int
    total: int
    text: str


@dataclass(frozen=True)
class StepOutput:
    """What a RUN wrote; `stream` 1 or 2. Values of secrets are masked."""

    stage: str
    number: int
    stream: int
    text: str


@dataclass(frozen=True)
class StepDone:
    """It is done. `cached`: its layer was there already."""

    stage: str
    number: int
    cached: bool
    seconds: float


@dataclass(frozen=True)
class Pulling:
    """A base image is got: how far one of its layers is."""

    reference: str
    progress: Progress


@dataclass(frozen=True)
class Notice:
    """A line that the user should know."""

    text: str


Event = StepStarted | StepOutput | StepDone | Pulling | Notice
Listener = Callable[[Event], None]
