"""Network namespaces of containers that are over: several end at little more than the price of one.

Before one is gone the kernel waits several times for all processors, once for all that nobody holds
any more by then (`cleanup_net` of net/core/net_namespace.c). So the last descriptors are kept until
there are some, for a moment at most. No process is in such a namespace, and no other way leads to
it.
"""

from __future__ import annotations

import os
import time

MOST = 16
SECONDS = 0.25


class EndedNetworks:
    """Descriptors of them, which are closed together."""

    def __init__(self) -> None:
        self._descriptors: list[int] = []
        self.due: float | None = None
        """When those that are there have been kept long enough, by time.monotonic."""

    def add(self, descriptors: list[int]) -> None:
        """More of them, ours from now on."""
        self._descriptors += descriptors
        if len(self._descriptors) >= MOST:
            self.close()
        elif self._descriptors and self.due is None:
            self.due = time.monotonic() + SECONDS

    def close(self) -> None:
        """Let those go that are there."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()
        self.due = None
