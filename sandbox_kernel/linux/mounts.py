"""Mounting by descriptor: fsopen(2), fsmount(2), open_tree(2), move_mount(2), mount_setattr(2).

Constants: include/uapi/linux/mount.h and include/uapi/linux/fcntl.h, in the kernel's spelling.
"""

from __future__ import annotations

import os

from sandbox_kernel.linux import libc as c
from sandbox_kernel.linux import paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox_kernel.linux.multicall import Calls, Cell

OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000

COPYING = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | AT_RECURSIVE
"""How the mounts at a descriptor are copied."""

MOVE_MOUNT_F_EMPTY_PATH = 0x00000004
MOVE_MOUNT_T_EMPTY_PATH = 0x00000040

PLACING = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH

FSOPEN_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6
FSCONFIG_CMD_RECONFIGURE = 7
FSPICK_CLOEXEC = 1
FSPICK_EMPTY_PATH = 8
FSMOUNT_CLOEXEC = 1

MOUNT_ATTR_RDONLY = 0x00000001
MOUNT_ATTR_NOSUID = 0x00000002
MOUNT_ATTR_NODEV = 0x00000004
MOUNT_ATTR_NOEXEC = 0x00000008
MOUNT_ATTR_IDMAP = 0x00100000

MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MNT_DETACH = 2

# The mount options of the OCI runtime specification that set an attribute of the mount.
ATTRIBUTE_OF_OPTION = {
    "ro": MOUNT_ATTR_RDONLY,
    "nosuid": MOUNT_ATTR_NOSUID,
    "nodev": MOUNT_ATTR_NODEV,
    "noexec": MOUNT_ATTR_NOEXEC,
}

_mount = c.libc.mount
_mount.argtypes = (
    c.c_char_p,
    c.c_char_p,
    c.c_char_p,
    c.c_ulong,
    c.c_char_p,
)
_mount.restype = c.c_int
_umount2 = c.libc.umount2
_umount2.argtypes = (c.c_char_p, c.c_int)
_umount2.restype = c.c_int


class MountAttr(c.Structure):
    """struct mount_attr { __u64 attr_set, attr_clr, propagation, userns_fd; };"""

    _fields_ = (
        ("attr_set", c.c_uint64),
        ("attr_clr", c.c_uint64),
        ("propagation", c.c_uint64),
        ("userns_fd", c.c_uint64),
    )


def new_filesystem(kind: str, options: tuple[tuple[str, str | None], ...], attributes: int) -> int:
    """A detached mount of a new file system. Returns its descriptor. Raises OSError."""
    context = c.syscall(c.FSOPEN, kind.encode(), FSOPEN_CLOEXEC)
    try:
        for key, value in options:
            if value is None:
                c.syscall(c.FSCONFIG, context, FSCONFIG_SET_FLAG, key.encode(), None, 0)
            else:
                text = paths.encoded(value)
                c.syscall(c.FSCONFIG, context, FSCONFIG_SET_STRING, key.encode(), text, 0)
        c.syscall(c.FSCONFIG, context, FSCONFIG_CMD_CREATE, None, None, 0)
        return c.syscall(c.FSMOUNT, context, FSMOUNT_CLOEXEC, attributes)
    finally:
        os.close(context)


def clone_tree(descriptor: int, path: str = "", *, recursive: bool = True) -> int:
    """A detached copy of the mounts at a place. Returns its descriptor. Raises OSError."""
    flags = COPYING if recursive else COPYING & ~AT_RECURSIVE
    if path:
        flags &= ~AT_EMPTY_PATH
    return c.syscall(c.OPEN_TREE, descriptor, paths.encoded(path), flags)


def place(mount: int, target: int) -> None:
    """Attach a detached mount on the place that `target` (an O_PATH descriptor) stands for."""
    c.syscall(c.MOVE_MOUNT, mount, b"", target, b"", PLACING)


def set_attributes(mount: int, attributes: int, *, recursive: bool = True) -> None:
    """Add attributes (read-only, ...) to a mount and those below it."""
    change(mount, wanted=attributes, recursive=recursive)


def change(
    mount: int, *, wanted: int = 0, cleared: int = 0, propagation: int = 0, recursive: bool = False
) -> None:
    """Set and clear attributes of a mount, or say how mounts below it go on (MS_SHARED, ...)."""
    attributes = MountAttr(attr_set=wanted, attr_clr=cleared, propagation=propagation)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    size = c.sizeof(attributes)
    c.syscall(c.MOUNT_SETATTR, mount, b"", flags, c.byref(attributes), size)


def map_identities(mount: int, user_namespace: int, *, recursive: bool = False) -> None:
    """Show the files of a detached mount with the ids of a user namespace (Linux 5.12)."""
    attributes = MountAttr(attr_set=MOUNT_ATTR_IDMAP, userns_fd=user_namespace)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    size = c.sizeof(attributes)
    c.syscall(c.MOUNT_SETATTR, mount, b"", flags, c.byref(attributes), size)


def new_filesystem_by(
    calls: Calls, kind: str, options: tuple[tuple[str, str | None], ...], attributes: int
) -> Cell:
    """`new_filesystem` as a list of calls."""
    context = calls.call(c.FSOPEN, kind.encode(), FSOPEN_CLOEXEC)
    for key, value in options:
        if value is None:
            calls.call(c.FSCONFIG, context, FSCONFIG_SET_FLAG, key.encode(), None, 0)
        else:
            text = paths.encoded(value)
            calls.call(c.FSCONFIG, context, FSCONFIG_SET_STRING, key.encode(), text, 0)
    calls.call(c.FSCONFIG, context, FSCONFIG_CMD_CREATE, None, None, 0)
    made = calls.call(c.FSMOUNT, context, FSMOUNT_CLOEXEC, attributes)
    calls.close(context)
    return made


def place_by(calls: Calls, mount: Cell | int, target: Cell | int) -> None:
    """`place` as one of a list of calls."""
    calls.call(c.MOVE_MOUNT, mount, b"", target, b"", PLACING)


def set_attributes_by(
    calls: Calls, mount: Cell | int, attributes: int, *, recursive: bool = True
) -> None:
    """`set_attributes` as one of a list of calls."""
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    asked = bytes(MountAttr(attr_set=attributes))
    calls.call(c.MOUNT_SETATTR, mount, b"", flags, asked, len(asked))


def reconfigure_by(calls: Calls, mounted: Cell, options: tuple[tuple[str, str], ...]) -> None:
    """Set options of the file system that is mounted where a descriptor leads; a list of calls."""
    context = calls.call(c.FSPICK, mounted, b"", FSPICK_CLOEXEC | FSPICK_EMPTY_PATH)
    for key, value in options:
        calls.call(c.FSCONFIG, context, FSCONFIG_SET_STRING, key.encode(), os.fsencode(value), 0)
    calls.call(c.FSCONFIG, context, FSCONFIG_CMD_RECONFIGURE, None, None, 0)
    calls.close(context)


def make_private_by(calls: Calls) -> None:
    """`make_private` as one of a list of calls."""
    calls.call("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)


def change_root_here_by(calls: Calls) -> None:
    """`change_root_here` as a list of calls."""
    calls.call("pivot_root", b".", b".")
    calls.call("umount2", b".", MNT_DETACH)
    calls.call("chdir", b"/")


def mount(source: str, target: str, kind: str, flags: int, data: str) -> None:
    """mount(2), for what needs no descriptor."""
    c.check(
        _mount(os.fsencode(source), os.fsencode(target), kind.encode(), flags, os.fsencode(data))
    )


def make_private() -> None:
    """No mount of this mount namespace is seen elsewhere, and none from elsewhere here."""
    c.check(_mount(None, b"/", None, MS_REC | MS_PRIVATE, None))


def make_slave() -> None:
    """No mount of this mount namespace is seen elsewhere. What is mounted where it was copied from
    comes, and what is unmounted there goes here too, where nothing uses it."""
    c.check(_mount(None, b"/", None, MS_REC | MS_SLAVE, None))


def unescape(field: str) -> str:
    """A path of /proc/self/mountinfo as it is: some characters are octal there."""
    head, *rest = field.split("\\")
    return head + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest)


def detach(target: str) -> None:
    """Take the mount at a path away, with all below it, as soon as nobody uses it."""
    c.check(_umount2(os.fsencode(target), MNT_DETACH))


def change_root_here() -> None:
    """Make the working directory the root and drop the old root (pivot_root(2), NOTES)."""
    c.syscall(c.number("pivot_root"), b".", b".")
    detach(".")
    os.chdir("/")
