"""What the processes of a container may do: capabilities, and how their calls are filtered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

from sandbox_kernel.container import Container
from sandbox_kernel.observe import capabilities, filters, namespaces, processes, trials
from sandbox_kernel.observe.capabilities import Sets
from sandbox_kernel.observe.fact import Fact
from sandbox_kernel.observe.filters import InForce
from sandbox_kernel.observe.source import Source

INTERVAL = 0.5
MOST_PROCESSES = 100
MOST_OUTCOMES = 30


@dataclass(frozen=True, slots=True)
class OfProcess:
    """One process and what it holds."""

    pid: int
    inner_pid: int | None
    name: str
    uid: int
    inner_uid: int | None
    sets: Fact[Sets]


@dataclass(frozen=True, slots=True)
class Permitted:
    """What is held where at one moment."""

    known: tuple[str, ...]
    """Capabilities of the running kernel."""
    processes: tuple[OfProcess, ...]
    """Those of the container; its pid 1 first."""
    granted: tuple[str, ...]
    """What the plan gives to its programs."""
    host: Fact[Sets]
    """What this program holds, to compare with."""
    filter: Fact[InForce]
    """Of the last process that was started in it."""
    user_namespace: int | None
    host_user_namespace: int | None
    outcomes: tuple[trials.Outcome, ...]
    """What was tried, the newest first."""


class Permissions(Source):
    """Of one container, until it ends. Calls can be tried in it meanwhile."""

    def __init__(self, container: Container) -> None:
        super().__init__(container.name, container.pid, INTERVAL)
        self._container = container
        self._lock = Lock()
        self._outcomes: list[trials.Outcome] = []

    def attempt(self, name: str) -> None:
        """Make a call in the container; its outcome is a fact from then on. Raises as `trials`."""
        outcome = trials.attempt(self._container, name)
        with self._lock:
            self._outcomes.insert(0, outcome)
            del self._outcomes[MOST_OUTCOMES:]

    def facts(self) -> Permitted:
        there = processes.of_container(self._container)[:MOST_PROCESSES]
        with self._lock:
            outcomes = tuple(self._outcomes)
        return Permitted(
            known=capabilities.known(),
            processes=tuple(_of(each) for each in there),
            granted=filters.held(self._container.plan),
            host=capabilities.of_process("self"),
            filter=filters.of_process(_program(there, self._container.pid)),
            user_namespace=namespaces.inodes(self._container.pid).get("user"),
            host_user_namespace=namespaces.inodes("self").get("user"),
            outcomes=outcomes,
        )


def _of(process: processes.Process) -> OfProcess:
    return OfProcess(
        process.pid,
        process.inner_pid,
        process.name,
        process.uid,
        process.inner_uid,
        capabilities.of_process(process.pid),
    )


def _program(there: Sequence[processes.Process], first: int) -> int:
    """A process that runs a program: pid 1 only holds, and has no filter to speak of."""
    return next((each.pid for each in reversed(there) if each.pid != first), first)
