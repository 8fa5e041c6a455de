"""Waiting for descriptors: poll(2), since select(2) refuses numbers from 1024 on.

A launcher that holds two hundred containers has more than that, and so may a program that uses
this package.
"""

from __future__ import annotations

import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from socket import socket

_OVER = select.POLLERR | select.POLLHUP | select.POLLNVAL


def readable(descriptor: int | socket, seconds: float | None = 0) -> bool:
    """Whether there is something to read, its end included, now or within so many seconds.

    Of a pidfd: whether its process has ended. None waits for as long as it takes.
    """
    return bool(ready([descriptor], [], seconds)[0])


def writable(descriptor: int | socket) -> bool:
    """Whether it takes something now, or would refuse it at once."""
    return bool(ready([], [descriptor], 0)[1])


def ready(
    inputs: Iterable[int | socket],
    outputs: Iterable[int | socket],
    seconds: float | None,
) -> tuple[list[int], list[int]]:
    """The numbers of those that can be read and of those that can be written, as select(2) says."""
    poll = select.poll()
    wanted: dict[int, int] = {}
    for event, descriptors in ((select.POLLIN, inputs), (select.POLLOUT, outputs)):
        for each in descriptors:
            number = each if isinstance(each, int) else each.fileno()
            wanted[number] = wanted.get(number, 0) | event
    for number, events in wanted.items():
        poll.register(number, events)
    found = poll.poll(None if seconds is None else seconds * 1000)

    def those(event: int) -> list[int]:
        return [
            number for number, said in found if wanted[number] & event and said & (event | _OVER)
        ]

    return those(select.POLLIN), those(select.POLLOUT)
