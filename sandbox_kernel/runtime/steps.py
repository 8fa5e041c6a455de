"""Naming the step of a container's making that failed. Light: every command starts with it."""

from __future__ import annotations

import os

from sandbox_kernel.errors import StepFailed


class step:  # noqa: N801 - reads as a statement: `with step("mount", "/proc"):`
    """Turns the OSError of one step into a StepFailed that names it."""

    __slots__ = ("subject", "verb")

    def __init__(self, verb: str, subject: str) -> None:
        self.verb = verb
        self.subject = subject

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and not isinstance(error, StepFailed):
            why = os.strerror(error.errno) if error.errno else str(error)
            raise StepFailed(self.verb, self.subject, why, error.errno or 0) from error
