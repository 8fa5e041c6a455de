"""A launcher's loop, epoll(7): each descriptor that is waited for has a function to call."""

from __future__ import annotations

import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Loop:
    """Of one thread; nothing that it calls may block for long."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}

    def watch(self, descriptor: int, handler: Callable[[], None]) -> None:
        """Call the handler whenever the descriptor is readable."""
        self._handlers[descriptor] = handler
        self._epoll.register(descriptor, select.EPOLLIN)

    def forget(self, descriptor: int) -> None:
        """Wait for it no more; before it is closed."""
        if self._handlers.pop(descriptor, None):
            self._epoll.unregister(descriptor)

    def watches(self, descriptor: int) -> bool:
        """Whether it is waited for."""
        return descriptor in self._handlers

    def turn(self, seconds: float) -> None:
        """Wait for so long at most (-1: for ever), and call whose descriptors are readable."""
        for descriptor, _ in self._epoll.poll(seconds):
            handler = self._handlers.get(descriptor)
            if handler:
                handler()

    def close(self) -> None:
        """It waits for nothing any more."""
        self._epoll.close()
