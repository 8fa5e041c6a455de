"""The processes of a container: those of its group or, where it has none, of its pid namespace.

Who has no group of his own is an ordinary user to whom none was handed over. Then a container is
what its first process is pid 1 of. Where that is in a pid namespace of others, nobody can say whose
a process is.
"""

from __future__ import annotations

import os

from sandbox_kernel.oci import state
from sandbox_kernel.oci.faults import StepFailed
from sandbox_kernel.oci.groups import Group

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def found(known: Mapping[str, Any]) -> list[int]:
    """All of them, as our pid namespace numbers them. Raises StepFailed if nobody can say."""
    group = Group(known["groups"])
    if group.directories:
        return group.members()
    if not state.lives(known):
        return []
    first = known["pid"]
    namespace = _namespace(first)
    if _innermost(first) != 1 or namespace in (None, _namespace(os.getpid())):
        raise StepFailed(
            "find the processes of", str(known["id"]),
            "it has no control group, and no pid namespace that is its alone: ask for one of them",
        )  # fmt: skip
    # One in a namespace below that has another one: its parents lead to whom has this one.
    parents = {int(name): 0 for name in os.listdir("/proc") if name.isdigit()}
    inside = set()
    for pid in parents:
        parents[pid] = _parent(pid)
        if _namespace(pid) == namespace:
            inside.add(pid)
    return sorted(pid for pid in parents if _leads(pid, parents, inside))


def send(known: Mapping[str, Any], number: int) -> None:
    """A signal to each of them. Raises StepFailed if nobody can say which they are."""
    for pid in found(known):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def _leads(pid: int, parents: Mapping[int, int], inside: set[int]) -> bool:
    while pid:
        if pid in inside:
            return True
        pid = parents.get(pid, 0)
    return False


def _namespace(pid: int) -> int | None:
    """None: it has ended, or it is of a user whose processes are not shown to us."""
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


def _parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b") ")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _innermost(pid: int) -> int:
    """Its number in its own pid namespace (proc_pid_status(5), NSpid)."""
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as lines:
        numbers = next((line for line in lines if line.startswith("NSpid:")), "NSpid: 0")
    return int(numbers.split()[-1])
