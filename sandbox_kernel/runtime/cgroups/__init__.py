"""Limits and usage by control groups: `choose` finds the driver that works on this machine.

`contract` says what a driver offers. `v1` works on separate hierarchies, `v2` on one tree, `absent`
says why there is neither. `systemd` asks for a delegated scope, from outside the launcher.
`delegation` knows what root types to hand a subtree to a user.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox_kernel.runtime.cgroups.contract import Driver


def choose(parent: str | None = None) -> Driver:
    """The driver for this machine and this user; `absent` with its reasons when there is none.

    `parent` puts all groups elsewhere than the usual place: a path below the mount of each
    hierarchy, or an absolute directory on v2 (the scope that `systemd` got). It is made when root
    asks and it is missing.
    """
    from sandbox_kernel.runtime.cgroups import absent, mounted

    mounts = mounted.read()
    if mounts.v1 and not (parent and parent.startswith("/")):
        from sandbox_kernel.runtime.cgroups import v1

        return v1.probe(mounts, parent) or absent.Driver(v1.reasons(mounts, parent))
    if mounts.v2 is not None:
        from sandbox_kernel.runtime.cgroups import v2

        driver, reason = v2.probe(mounts.v2, parent)
        return driver or absent.Driver(reason)
    return absent.Driver(
        "no cgroup file system is mounted: mount it (`mount -t cgroup2 none /sys/fs/cgroup`) "
        "or start the machine with systemd"
    )


def usage(paths: Mapping[str, str]) -> dict[str, int | float | None]:
    """What a container used (see `contract.Group.usage`), read here and now from its group's files.

    `paths` as `Group.paths` has them. For a program that asks after each cell: it saves the way
    to the launcher and back.
    """
    if "" in paths:
        from sandbox_kernel.runtime.cgroups import v2

        return v2.usage(paths[""])
    from sandbox_kernel.runtime.cgroups import v1_usage

    return v1_usage.of(paths)
