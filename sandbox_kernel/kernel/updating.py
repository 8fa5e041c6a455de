"""`%sandbox update` beside the relay's loop: an index or a registry may let one wait for long."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any


class Update:
    """One update in a thread of its own. `wake` can be read when it is over."""

    def __init__(self, ask: Callable[[], dict[str, Any]]) -> None:
        self.wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._ask = ask
        self._shown: dict[str, Any] = {}
        self._failure: BaseException | None = None
        threading.Thread(target=self._run, name="update", daemon=True).start()

    def _run(self) -> None:
        try:
            self._shown = self._ask()
        except BaseException as error:  # whatever it is, the loop must hear of the end
            self._failure = error
        os.eventfd_write(self.wake, 1)

    def result(self) -> dict[str, Any]:
        """The mime bundle to show, once it is over. Raises what the update raised."""
        os.close(self.wake)
        if self._failure is not None:
            raise self._failure
        return self._shown
