"""Whether a service in a container is ready: a port of it has a listener, a check of it succeeds.

Ports are looked up in the kernel's table of the container's network namespace, so nothing connects
to the service, and a namespace with no way in will do. A check is a program of the image that runs
in the container, again and again until it ends with status 0.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sandbox_kernel import errors, grammar
from sandbox_kernel.container.process import Process, ProcessSpec

WAIT_SECONDS = 30.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.2
_CHECK_SECONDS = 10.0
# /proc/net/tcp: sl local_address rem_address st; 0A is TCP_LISTEN
_LISTENER = re.compile(r"^ *\d+: [0-9A-F]+:([0-9A-F]{4}) [0-9A-F]+:[0-9A-F]{4} 0A ", re.M)


class Served(Protocol):
    """The part of `Container` that is needed."""

    name: str
    pid: int

    def run(self, process: ProcessSpec) -> Process:
        """Start one more process in it."""


@dataclass(frozen=True, kw_only=True)
class Readiness:
    """What has to be true, and how long that may take."""

    ports: tuple[int, ...] = ()
    check: tuple[str, ...] = ()
    """A program and its arguments."""
    seconds: float = WAIT_SECONDS

    def __bool__(self) -> bool:
        return bool(self.ports or self.check)

    def wait(self, container: Served, over: Callable[[float], bool]) -> None:
        """Returns when it is true. `over` waits so many seconds, and tells if the service ended.

        Raises NotReady: it ended before, or it took too long. What there is of it is left.
        """
        end = time.monotonic() + self.seconds
        pause = _FIRST_PAUSE
        while missing := self._missing(container):
            left = end - time.monotonic()
            if left <= 0:
                raise errors.NotReady(
                    container.name, f"{missing} after {grammar.shown_seconds(self.seconds)}"
                )
            if over(min(pause, left)):
                raise errors.NotReady(container.name, "it ended before it was ready")
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    def _missing(self, container: Served) -> str:
        """What is not yet true; nothing when all is."""
        if self.ports:
            open_ports = listeners(container.pid)
            for port in self.ports:
                if port not in open_ports:
                    return f"nothing listens on port {port}"
        if self.check:
            try:
                status = _status_of(container, self.check)
            except (errors.NoSuchContainer, errors.LauncherGone):
                return "it is gone"
            if status != 0:
                return f"`{errors.shown(' '.join(self.check))}` ends with status {status}"
        return ""


def read(
    ports: Sequence[str], check: str | None, seconds: str | None, words: Callable[[str], list[str]]
) -> Readiness:
    """What was typed. `words` splits the check. Raises InvalidOption."""
    numbers = [
        grammar.whole(port, "--wait-port", least=1, most=65535)
        for given in ports
        for port in given.split(",")
    ]
    argv = tuple(words(check)) if check is not None else ()
    if check is not None and not argv:
        raise errors.InvalidOption("--healthcheck", check, "a program of the image, such as `true`")
    limit = WAIT_SECONDS if seconds is None else grammar.seconds(seconds, "--wait-time")
    found = Readiness(ports=tuple(dict.fromkeys(numbers)), check=argv, seconds=limit)
    if seconds is not None and not found:
        allowed = "only with --wait-port or --healthcheck"
        raise errors.InvalidOption("--wait-time", seconds, allowed)
    return found


def listeners(pid: int) -> set[int]:
    """The ports on which something listens, in the network namespace of a process."""
    found: set[int] = set()
    for table in ("tcp", "tcp6"):
        try:
            with open(f"/proc/{pid}/net/{table}", encoding="ascii") as file:
                found |= {int(port, 16) for port in _LISTENER.findall(file.read())}
        except (FileNotFoundError, ProcessLookupError):
            continue  # it just ended, or the kernel has no IPv6
    return found


def _status_of(container: Served, check: tuple[str, ...]) -> int:
    process = container.run(ProcessSpec(argv=check, timeout=_CHECK_SECONDS))
    try:
        return process.wait().shell_status
    finally:
        process.close()
