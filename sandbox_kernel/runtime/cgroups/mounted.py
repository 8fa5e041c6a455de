"""Where the cgroup hierarchies are mounted, and where this process is in them. Mounts nothing.

Source: /proc/self/mountinfo (proc_pid_mountinfo(5)) and /proc/self/cgroup (cgroups(7)).
"""

from __future__ import annotations

from collections import namedtuple

from sandbox_kernel.linux.mounts import unescape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    class Mount(NamedTuple):
        """One mounted hierarchy: its directory, and which part of the hierarchy it shows."""

        directory: str
        root: str
        read_only: bool

    class Mounts(NamedTuple):
        """All of them. A v2 mount counts only when it has controllers (not in hybrid layouts)."""

        v1: dict[str, Mount]
        v2: Mount | None

else:
    Mount = namedtuple("Mount", "directory root read_only")
    Mounts = namedtuple("Mounts", "v1 v2")

# Documentation/admin-guide/cgroup-v1: the controllers that this package uses.
CONTROLLERS = ("freezer", "memory", "pids", "cpu", "cpuacct", "cpuset", "blkio")


def read() -> Mounts:
    """The hierarchies that are mounted where this process can see them."""
    v1: dict[str, Mount] = {}
    v2: Mount | None = None
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            if " - cgroup" not in line:
                continue
            before, _, after = line.rstrip("\n").partition(" - ")
            fields = before.split(" ")
            kind, _, options = after.split(" ", 2)
            read_only = "ro" in fields[5].split(",")
            mount = Mount(unescape(fields[4]), unescape(fields[3]), read_only)
            if kind == "cgroup2":
                v2 = mount
            elif kind == "cgroup":
                for option in options.rpartition(" ")[2].split(","):
                    if option in CONTROLLERS:
                        v1[option] = mount
    return Mounts(v1, None if v1 else v2)


def own_v2(mount: Mount) -> str | None:
    """The directory of this process's own group on v2; None when the mount does not show it."""
    return own(mount, "")


def own(mount: Mount, controller: str) -> str | None:
    """The same in the hierarchy of a controller of v1."""
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            if controller in controllers.split(","):
                break
        else:
            return None
    root = mount.root.rstrip("/")
    if path != root and not path.startswith(root + "/"):
        return None
    return (mount.directory + path[len(root) :]).rstrip("/")
