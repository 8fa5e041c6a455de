"""Whether the kernel ended processes of a group for want of memory, of a group that is not ours.

A process that was ended can't tell why, and to its parent it died of SIGKILL like any other. What
tells is the counter of the group that it was in; asked while it lives, since on v1 a zombie shows
no group any more.
"""

from __future__ import annotations

from sandbox_kernel.runtime.cgroups import files, mounted


class Counter:
    """The counter of this process's own group, in which what it starts is too, from now on."""

    def __init__(self) -> None:
        self._file = _file_of_own_group()
        self._before = self._count()

    def grew(self) -> bool:
        """Whether somebody in the group was ended for that meanwhile."""
        return self._count() > self._before

    def _count(self) -> int:
        return files.read_table(self._file).get("oom_kill", 0) if self._file else 0


def _file_of_own_group() -> str:
    """Empty where there is none: no controller, or the group is not in what is mounted here."""
    mounts = mounted.read()
    if memory := mounts.v1.get("memory"):
        directory, name = mounted.own(memory, "memory"), "memory.oom_control"
    elif mounts.v2:
        directory, name = mounted.own_v2(mounts.v2), "memory.events.local"
    else:
        directory = None
    return f"{directory}/{name}" if directory else ""
