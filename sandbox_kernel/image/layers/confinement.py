"""The walls around the process that handles layers: what it keeps is one directory and pipes.

In this order, and why:

    user namespace   its capabilities reach only files whose ids are mapped; as root the ids are
                     the image's own, as an ordinary user those of his ranges
    mounts           the directory becomes the root; the old root is detached, so that no name
                     leads out of it, whatever the parser is brought to do
    other namespaces no network, no IPC, no host name
    resource limits  memory, descriptors, no core
    capabilities     only those that give files owners, modes and attributes
    seccomp          last, since what came before needs more calls than the work does
"""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Sequence

from sandbox_kernel.linux import (
    capabilities,
    messages,
    mounts,
    paths,
    processes,
    seccomp_install,
    user_namespaces,
)

_STAGE = "/tmp"  # noqa: S108 - mounted over in a private namespace, never written to
_OTHERS = (
    processes.CLONE_NEWNET
    | processes.CLONE_NEWIPC
    | processes.CLONE_NEWUTS
    | processes.CLONE_NEWCGROUP
)
_KEPT = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_SETFCAP",
)
_MEMORY = 1 << 30
_DESCRIPTORS = 1024
_ATTRIBUTES = mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV | mounts.MOUNT_ATTR_NOEXEC


def become_root(channel: socket.socket) -> int:
    """Enter user and mount namespaces. Returns how many ids there are.

    As root the maps are written by the process at the other end, which is told and answers; its
    answer has the number of ids. Raises HostLacks, OSError.
    """
    if os.geteuid() != 0:
        return user_namespaces.become_root_of_own_namespace()
    processes.unshare(processes.CLONE_NEWUSER | processes.CLONE_NEWNS)
    messages.send(channel, {"maps": True})
    answer = messages.receive(channel)
    if answer is None:
        os._exit(1)  # the caller ended
    os.setresgid(0, 0, 0)
    if _may_set_groups():
        os.setgroups([])
    os.setresuid(0, 0, 0)
    ids: int = answer[0]["ids"]
    return ids


def _may_set_groups() -> bool:
    """Not below a namespace whose maps were written without privilege (user_namespaces(7))."""
    with open("/proc/self/setgroups", encoding="ascii") as file:
        return file.read().strip() == "allow"


def enter(directory: str | None, below: Sequence[str]) -> tuple[int, list[int]]:
    """Make a directory (None: an empty one) the root. Returns it and read-only layers below it."""
    mounts.make_private()
    layers = [_tree(path, _ATTRIBUTES | mounts.MOUNT_ATTR_RDONLY) for path in below]
    if directory is None:
        root = mounts.new_filesystem("tmpfs", (("mode", "0755"), ("size", "64k")), _ATTRIBUTES)
    else:
        root = _tree(directory, _ATTRIBUTES)
    stage = os.open(_STAGE, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    mounts.place(root, stage)
    os.close(stage)
    os.fchdir(root)
    mounts.change_root_here()
    os.close(root)
    processes.unshare(_OTHERS)
    top = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    readable = [
        os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=layer) for layer in layers
    ]
    for layer in layers:
        os.close(layer)
    return top, readable


def lock(program: bytes) -> None:
    """Give up the rest: resources, capabilities, system calls. Every failure raises."""
    resource.setrlimit(resource.RLIMIT_AS, _lower(resource.RLIMIT_AS, _MEMORY))
    resource.setrlimit(resource.RLIMIT_NOFILE, _lower(resource.RLIMIT_NOFILE, _DESCRIPTORS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    kept = capabilities.to_mask(_KEPT)
    capabilities.drop_bounding(kept)
    capabilities.set_sets(effective=kept, permitted=kept, inheritable=0)
    seccomp_install.install(program)


def _lower(which: int, value: int) -> tuple[int, int]:
    _, hard = resource.getrlimit(which)
    most = value if hard == resource.RLIM_INFINITY else min(value, hard)
    return most, most


def _tree(path: str, attributes: int) -> int:
    """A detached mount of one directory, by a name that may hold no link."""
    place = paths.open_below(
        mounts.AT_FDCWD,
        path,
        os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW,
        paths.RESOLVE_NO_SYMLINKS,
    )
    try:
        tree = mounts.clone_tree(place, recursive=False)
    finally:
        os.close(place)
    mounts.set_attributes(tree, attributes, recursive=False)
    return tree
