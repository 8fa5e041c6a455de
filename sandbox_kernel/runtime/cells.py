"""Cells that share a container, as the launcher has them: the control group of each, who is in it.

A process forks itself inside and asks the program outside for a place; the program knows it by a
pidfd, made of what the kernel said of the sender (SCM_CREDENTIALS), never by a number of the
inside. Who may be moved: the agent of the container moves it, by its number in that pid namespace,
so whatever happens to the number meanwhile, nobody of another container or of the host can be hit.
Then we look whether it is the process of the pidfd that came into the group.
"""

from __future__ import annotations

import os
import signal

from sandbox_kernel.errors import HostLacks, NoSuchContainer, StepFailed
from sandbox_kernel.linux import messages, processes, waiting
from sandbox_kernel.runtime.cgroups import cells as groups

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sandbox_kernel.runtime.held import Held


class Cell:
    """The group of a cell, and the process that leads it."""

    __slots__ = ("client", "group", "leader")

    def __init__(self, client: object, group: groups.CellGroup, leader: int) -> None:
        self.client = client
        self.group = group
        self.leader = leader
        """A pidfd, ours; -1 when it was let go."""

    def let_go(self) -> None:
        """The pidfd is not needed any more."""
        if self.leader >= 0:
            os.close(self.leader)
            self.leader = -1


def begin(held: Held, client: object, number: int, leader: int) -> None:
    """Make the group of a cell and ask pid 1 to move the process behind a pidfd into it.

    The answer comes by `moved`. Takes the pidfd. Raises HostLacks, LimitNotEnforceable, StepFailed.
    """
    try:
        if number in held.cells:
            raise StepFailed("begin cell", str(number), "there is a cell of this number")
        inside = processes.inner_pid_of(leader)
        if inside is None or held.agent is None:
            raise StepFailed("begin cell", str(number), "its process is gone, or in no container")
        cell = Cell(client, groups.CellGroup(held.group, f"cell-{number}"), leader)
    except BaseException:
        os.close(leader)
        raise
    held.cells[number] = cell
    entrances = cell.group.entrances()
    try:
        messages.send(held.agent, {"do": "move", "cell": number, "pid": inside}, entrances)
    except BaseException:
        end(held, number)
        raise
    finally:
        for entrance in entrances:
            os.close(entrance)


def moved(held: Held, message: dict[str, Any]) -> tuple[object, dict[str, Any]]:
    """Pid 1 has moved it, or could not: whom to answer, and what.

    Raises nothing: what is wrong ends the cell and is the answer.
    """
    cell = held.cells[message["cell"]]
    client, why = cell.client, message.get("why", "")
    cell.client = None
    ended = waiting.readable(cell.leader)
    if not why and (ended or not cell.group.holds(processes.pid_of(cell.leader))):
        why = "its process did not come into its group"
    if why:
        end(held, message["cell"])
        error = HostLacks(f"move a cell into its control group: {why}")
        return client, {"event": "error", "kind": "HostLacks", "text": str(error)}
    return client, {"event": "cell", "limits": cell.group.limits}


def usage(held: Held, number: int) -> dict[str, Any]:
    """What a cell used so far, and what its container has left."""
    memory, pids = groups.room(held.group)
    used = _find(held, number).group.usage() if number in held.cells else {}
    return {"event": "cell", "usage": used, "room": {"memory": memory, "pids": pids}}


def end(held: Held, number: int) -> None:
    """End all that is in the group of a cell, and the group."""
    cell = _find(held, number)
    cell.group.kill()
    cell.group.remove()
    cell.let_go()
    del held.cells[number]


def retire(held: Held, number: int) -> bool:
    """End the process that leads a cell; whether its group is gone too, as nobody is left in it."""
    cell = _find(held, number)
    if cell.leader >= 0 and not waiting.readable(cell.leader):
        processes.send_signal(cell.leader, signal.SIGKILL)
        waiting.readable(cell.leader, 1.0)
    cell.let_go()
    if not cell.group.is_empty():
        return False
    end(held, number)
    return True


def unanswered(held: Held) -> list[object]:
    """The container ends: who still waits for a cell of it to come into its group."""
    return [cell.client for cell in held.cells.values() if cell.client is not None]


def let_go(held: Held) -> None:
    """The container ends, and the groups of its cells with its own."""
    for cell in held.cells.values():
        cell.let_go()


def _find(held: Held, number: int) -> Cell:
    cell = held.cells.get(number)
    if cell is None:
        raise NoSuchContainer(f"find cell `{number}` of `{held.id}`: it is over")
    return cell
