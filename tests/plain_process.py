"""A cell run as a plain subprocess: what the container's side sees, without a container."""

from __future__ import annotations

import os
import select
import signal
import sys
from typing import Any

from sandbox_kernel.container import Exit
from sandbox_kernel.container.cell import Bounds, Cell, CellRequest
from sandbox_kernel.container.events import Display, Error, Event, Result, Stderr, Stdout, Value


class PlainProcess:
    """The verbs of a process in a container, of a child process of the test."""

    def __init__(self, argv: tuple[str, ...], descriptors: dict[int, int]) -> None:
        high = {number: os.dup2(fd, 100 + number) for number, fd in descriptors.items()}
        actions: list[Any] = [(os.POSIX_SPAWN_DUP2, fd, n) for n, fd in high.items()]
        actions += [(os.POSIX_SPAWN_CLOSE, fd) for fd in high.values()]
        if 0 not in descriptors:
            actions.append((os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0))
        environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
        self.pid = os.posix_spawnp(argv[0], argv, environment, file_actions=actions)
        for fd in high.values():
            os.close(fd)
        self.pidfd = os.pidfd_open(self.pid)

    def fileno(self) -> int:
        return self.pidfd

    def wait(self, timeout: float | None = None) -> Exit:
        _, status = os.waitpid(self.pid, 0)
        os.close(self.pidfd)
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            return Exit(None, -code, "signal", {}, {})
        return Exit(code, None, "exited", {}, {})

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def ended(self) -> bool:
        return bool(select.select([self.pidfd], [], [], 0)[0])


def run(
    code: str, *, python: str = sys.executable, bounds: Bounds | None = None, **request: Any
) -> list[Event]:
    """All events of one cell."""
    cell = Cell(CellRequest(code=code, **request), bounds or Bounds())
    try:
        process = PlainProcess(cell.argv(python), cell.descriptors)
        cell.handed_over()
        return list(cell.events(process))
    finally:
        cell.close()


def text(events: list[Event], kind: type[Stdout] | type[Stderr] = Stdout) -> str:
    return "".join(event.text for event in events if isinstance(event, kind))


def only(events: list[Event], kind: type[Any]) -> Any:
    found = [event for event in events if isinstance(event, kind)]
    assert len(found) == 1, events
    return found[0]


def values(events: list[Event]) -> dict[str, Any]:
    errors = [event for event in events if isinstance(event, Error)]
    assert not errors, errors
    return {event.name: event.value for event in events if isinstance(event, Value)}


__all__ = ["Bounds", "Display", "Error", "Result", "only", "run", "text", "values"]
