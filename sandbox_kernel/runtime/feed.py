"""The last of what happened, kept for whoever asks: a container's output, a launcher's events.

A reader says how far he has read and gets what came after it. Nothing is ever sent unasked, so a
slow reader costs nothing; what he was too late for is gone, and he is told how much.
"""

from __future__ import annotations

from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Feed:
    """Items in order, the oldest dropped when all together are larger than `most`."""

    __slots__ = ("_items", "_most", "_readers", "end", "start")

    def __init__(self, most: int) -> None:
        self._most = most
        self._items: deque[tuple[int, Any]] = deque()
        self._readers: list[Callable[[], None]] = []
        self.start = 0
        """The position of the oldest item that is still here."""
        self.end = 0
        """The position that the next item will have."""

    def append(self, item: Any, size: int) -> None:
        """One more item, of this size: bytes, or 1 where items are counted."""
        self._items.append((size, item))
        self.end += size
        while self.end - self.start > self._most and len(self._items) > 1:
            self.start += self._items.popleft()[0]
        self.wake()

    def wait(self, read: Callable[[], None]) -> None:
        """Call this once, when there is more, or will be none."""
        self._readers.append(read)

    def wake(self) -> None:
        """Nothing more may come: whoever waits is called."""
        readers, self._readers = self._readers, []
        for read in readers:
            read()

    def after(self, position: int) -> tuple[list[Any], int]:
        """What came at or after a position, and how much before it the reader has missed."""
        found = []
        at = self.end
        for size, item in reversed(self._items):
            at -= size
            if at < position:
                break
            found.append(item)
        found.reverse()
        return found, max(0, self.start - position)
