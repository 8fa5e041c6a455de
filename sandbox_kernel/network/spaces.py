"""Network namespaces: the holder's own, those of containers, and a thread that stays in the host's.

A namespace is joined by one thread only, so the holder's main thread is in its own one, visits
those of containers, and has sockets of the host's made by the thread that never left it: an
ordinary user could not come back (network_namespaces(7), user_namespaces(7)).
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

from sandbox_kernel.linux import processes

T = TypeVar("T")
OWN = "/proc/thread-self/ns/net"


def open_own() -> int:
    """A descriptor of the network namespace of this thread."""
    return os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)


def identity(space: int | str) -> str:
    """What tells one network namespace from all others that live now."""
    found = os.stat(space)
    return f"{found.st_ino:x}"


class Outside:
    """A thread in the network namespace in which this was made."""

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="outside", daemon=True)
        self._thread.start()

    def call(self, do: Callable[[], T]) -> T:
        """Do it there, and wait. What it raises is raised here."""
        future: Future[T] = Future()
        self._orders.put((do, future))
        return future.result()

    def _work(self) -> None:
        while True:
            do, future = self._orders.get()
            try:
                future.set_result(do())
            except BaseException as error:
                future.set_exception(error)


class Spaces:
    """The holder's own namespace, which its main thread is in from now on."""

    def __init__(self) -> None:
        self.outside = Outside()
        self.host = self.outside.call(open_own)
        processes.unshare(processes.CLONE_NEWNET)
        self.own = open_own()

    @contextlib.contextmanager
    def inside(self, space: int) -> Iterator[None]:
        """For what is made in a container's namespace: its sockets stay of use afterwards."""
        processes.setns(space, processes.CLONE_NEWNET)
        try:
            yield
        finally:
            # Staying in a container's namespace would be worse than any other end.
            try:
                processes.setns(self.own, processes.CLONE_NEWNET)
            except OSError:
                os.abort()


def write_switch(path: str, value: str) -> None:
    """Set a switch of /proc/sys/net in the namespace of this thread. Raises OSError."""
    file = os.open(f"/proc/sys/net/{path}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(file, value.encode())
    finally:
        os.close(file)


def read_switch(path: str) -> str:
    """How it is set."""
    with open(f"/proc/sys/net/{path}", encoding="ascii") as file:
        return file.read().strip()
