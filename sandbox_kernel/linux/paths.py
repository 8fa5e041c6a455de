"""Finding and making paths below a root that is not trusted: openat2(2), step by step, by fd.

Constants: include/uapi/linux/openat2.h.
"""

from __future__ import annotations

import functools
import os

from sandbox_kernel.linux import libc as c

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10


class OpenHow(c.Structure):
    """struct open_how { __u64 flags, mode, resolve; };"""

    _fields_ = (
        ("flags", c.c_uint64),
        ("mode", c.c_uint64),
        ("resolve", c.c_uint64),
    )


HOW_SIZE = c.sizeof(OpenHow)
# The same few ways and names come with each container.
_how = functools.lru_cache(maxsize=64)(OpenHow)
encoded = functools.lru_cache(maxsize=1024)(os.fsencode)


def open_below(root: int, path: str, flags: int, resolve: int, mode: int = 0) -> int:
    """Open `path` relative to the directory `root`. Raises OSError.

    With RESOLVE_IN_ROOT an absolute path is one below `root`, with AT_FDCWD one of our own.
    """
    how = _how(flags | os.O_CLOEXEC, mode, resolve)
    return c.syscall(c.OPENAT2, root, encoded(path), c.byref(how), HOW_SIZE)


def find(root: int, path: str) -> int:
    """An O_PATH descriptor of an existing place below `root`; no link of any kind is followed."""
    return open_below(root, path, os.O_PATH | os.O_NOFOLLOW, RESOLVE_NO_SYMLINKS | RESOLVE_IN_ROOT)


def find_or_make(root: int, path: str, *, directory: bool, mode: int = 0o755) -> int:
    """An O_PATH descriptor of a mount target, which is made if it is missing.

    Each step is made and opened relative to the one before it, so nothing can be made outside
    `root` even while its owner swaps directories for links (CVE-2024-45310). A link on the way is
    an error (ELOOP), not something to follow.
    """
    try:
        return find(root, path)
    except FileNotFoundError:
        pass
    parts = [part for part in path.split("/") if part]
    here = os.dup(root)
    try:
        for index, part in enumerate(parts):
            last = index == len(parts) - 1
            if last and not directory:
                file = os.open(
                    part,
                    os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC,
                    0o644,
                    dir_fd=here,
                )
                os.close(file)
            else:
                try:
                    os.mkdir(part, mode, dir_fd=here)
                except FileExistsError:
                    pass
            below = open_below(
                here, part, os.O_PATH | os.O_NOFOLLOW, RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH
            )
            os.close(here)
            here = below
    except BaseException:
        os.close(here)
        raise
    return here
