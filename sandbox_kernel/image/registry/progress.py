"""What a pull or a push tells while it goes on: one event for each piece that got further."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Literal

from sandbox_kernel.image.digest import Digest
from sandbox_kernel.records import Record

Stage = Literal[
    "waiting", "downloading", "unpacking", "uploading", "done", "there", "mounted", "failed"
]
LAST: frozenset[Stage] = frozenset({"done", "there", "mounted", "failed"})
"""Stages after which nothing more comes of a piece. `there`: nothing had to be moved."""
_SECONDS = 0.05


class Progress(Record):
    """How far one layer is. Bytes as they are transferred."""

    digest: Digest
    stage: Stage
    done: int
    total: int


Listener = Callable[[Progress], None]


class Teller:
    """Passes events on to a listener, from many threads one at a time, and not too often."""

    def __init__(self, listener: Listener | None) -> None:
        self._listener = listener
        self._lock = threading.Lock()
        self._told: dict[tuple[Digest, Stage], float] = {}

    def tell(self, digest: Digest, stage: Stage, done: int, total: int) -> None:
        """One event. Those of one stage are thinned out, but for its first and last."""
        if self._listener is None:
            return
        now = time.monotonic()
        with self._lock:
            last = self._told.get((digest, stage))
            if last is not None and now - last < _SECONDS and done < total:
                return
            self._told[digest, stage] = now
            self._listener(Progress(digest, stage, done, total))
