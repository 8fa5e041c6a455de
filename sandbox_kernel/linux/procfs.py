"""Writing below a /proc that is one, and on which nobody mounted anything (CVE-2025-52881).

What an image or a container has at `/proc` may be a folder of its own, whose files take whatever is
written and do nothing. So a mount of proc of our own is used or, where a user namespace may make
none because its /proc is masked, the machine's, opened before a container is entered.
"""

from __future__ import annotations

import os

from sandbox_kernel.errors import StepFailed
from sandbox_kernel.linux import libc as c
from sandbox_kernel.linux import mounts, paths

# include/uapi/linux/magic.h, include/linux/proc_fs.h (PROC_ROOT_INO)
PROC_SUPER_MAGIC = 0x9FA0
ROOT_INODE = 1
# struct statfs begins with its type, `__fsword_t`, and is 120 bytes long on 64 bit machines.
_STATFS_SIZE = 120
_INSIDE = paths.RESOLVE_BENEATH | paths.RESOLVE_NO_XDEV | paths.RESOLVE_NO_SYMLINKS

_fstatfs = c.libc["fstatfs"]
_fstatfs.argtypes = (c.c_int, c.c_void_p)
_fstatfs.restype = c.c_int


def of_the_machine() -> int:
    """The top of what is mounted on /proc. Raises StepFailed unless it is proc, and OSError."""
    opened = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not _is_top(opened):
            raise StepFailed("check", "/proc", "what is there is not the kernel's")
    except BaseException:
        os.close(opened)
        raise
    return opened


def own() -> int:
    """The top of a proc of our pid namespace that is mounted nowhere. Raises OSError."""
    attributes = mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV | mounts.MOUNT_ATTR_NOEXEC
    return mounts.new_filesystem("proc", (), attributes)


def best() -> int:
    """Our own, or the machine's. Raises StepFailed, OSError."""
    try:
        return own()
    except OSError:
        return of_the_machine()


def write(top: int, name: str, text: str) -> None:
    """Write a file below the top, following no link and onto no other mount. Raises OSError."""
    file = paths.open_below(top, name, os.O_WRONLY, _INSIDE)
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)


def write_about_us(top: int, name: str, text: str) -> None:
    """Write a file of this process. Raises OSError."""
    write(top, f"{os.readlink('self', dir_fd=top)}/{name}", text)


def _is_top(opened: int) -> bool:
    found = (c.c_ubyte * _STATFS_SIZE)()
    c.check(_fstatfs(opened, c.byref(found)))
    kind = int.from_bytes(bytes(found[:8]), "little")
    return kind == PROC_SUPER_MAGIC and os.fstat(opened).st_ino == ROOT_INODE
