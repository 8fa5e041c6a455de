"""The holder's loop: descriptors and who is called when one of them is ready."""

from __future__ import annotations

import selectors
from collections.abc import Callable

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class Loop:
    """One thread waits here for all that happens."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def watch(self, descriptor: int, handler: Callable[[int], None], events: int = READ) -> None:
        """Call it with what is ready. A second call for the same descriptor replaces the first."""
        if descriptor in self._selector.get_map():
            self._selector.modify(descriptor, events, handler)
        else:
            self._selector.register(descriptor, events, handler)

    def forget(self, descriptor: int) -> None:
        """Before it is closed. Nothing happens when it is not watched."""
        if descriptor in self._selector.get_map():
            self._selector.unregister(descriptor)

    def turn(self, seconds: float | None) -> bool:
        """Wait until something is ready, or so long, and call who waits for it: if somebody did."""
        ready = self._selector.select(seconds)
        for key, events in ready:
            if self._selector.get_map().get(key.fd) is key:  # not forgotten by an earlier one
                key.data(events)
        return bool(ready)
