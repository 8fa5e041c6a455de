"""What goes wrong on this command line, and `doing`, which names the step that failed."""

from __future__ import annotations

import os

from sandbox_kernel.errors import InvalidOption, SandboxError, StepFailed
from sandbox_kernel.runtime.steps import step as doing

__all__ = ["StepFailed", "doing", "said", "wrong"]


def wrong(field: str, value: object, allowed: str) -> InvalidOption:
    """A value of config.json that can't be."""
    return InvalidOption(f"config.json: {field}", value, allowed)


def said(error: BaseException) -> str:
    """The one line that is printed and logged."""
    if isinstance(error, OSError) and error.errno and not isinstance(error, StepFailed):
        where = f" `{error.filename}`" if error.filename else ""
        return f"{os.strerror(error.errno)}{where}"
    if isinstance(error, (SandboxError, OSError)):
        return str(error)
    return f"read what was given: it is not as the specification has it: {error!r}"
