"""Descriptors of this process: some are kept for what must not fail, such as to end a container.

Raising and lowering limits, reading what was used, killing: all of it opens files. So who would
make something that lasts asks here first, and is refused while there is still room for the rest.
"""

from __future__ import annotations

import errno
import os
import resource

from sandbox_kernel.errors import StepFailed

KEPT = 64
"""Of a limit below four times as many, a quarter."""


def need(step: str, subject: str) -> None:
    """Raises StepFailed when only those are left that are kept.

    A new descriptor has the lowest free number. Whoever is refused at a number takes none above it,
    so the numbers above stay free but for what lasts a moment.
    """
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    try:
        lowest = os.open("/", os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        raise StepFailed(step, subject, why(), errno.EMFILE) from error
    os.close(lowest)
    if lowest >= most - min(KEPT, most // 4):
        raise StepFailed(step, subject, why(), errno.EMFILE)


def why() -> str:
    """That there is none for that, how many there may be, and what to do."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return (
        f"{os.strerror(errno.EMFILE)} ({most} at most): end containers, or have a higher limit "
        "(`ulimit -n`) where the program is started"
    )
