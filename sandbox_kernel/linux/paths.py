"""Finding and making paths below a root that is not trusted: openat2(2), step by step, by fd.

Constants: include/uapi/linux/openat2.h.
"""

from __future__ import annotations

import errno
import os

from sandbox_kernel.linux import libc as c

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Unpack

    from sandbox_kernel.linux.multicall import Calls, Cell, Ways

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
# The same few ways and names come with each container. `functools` would do it as well, and takes
# two of the thirty milliseconds that a `run` of the OCI command line has.
_hows: dict[tuple[int, int, int], OpenHow] = {}
_encoded: dict[str, bytes] = {}
MOST_KEPT = 1024


def _how(flags: int, mode: int, resolve: int) -> OpenHow:
    asked = (flags, mode, resolve)
    how = _hows.get(asked)
    if how is None:
        if len(_hows) >= MOST_KEPT:
            _hows.clear()
        how = _hows[asked] = OpenHow(*asked)
    return how


def encoded(path: str) -> bytes:
    """The bytes of a path, as os.fsencode has them."""
    found = _encoded.get(path)
    if found is None:
        if len(_encoded) >= MOST_KEPT:
            _encoded.clear()
        found = _encoded[path] = os.fsencode(path)
    return found


FINDING = (os.O_PATH | os.O_NOFOLLOW, RESOLVE_NO_SYMLINKS | RESOLVE_IN_ROOT)
"""How a place is found below a root that is not trusted; and how the next step of a path is."""
STEPPING = (os.O_PATH | os.O_NOFOLLOW, RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH)
MAKING = os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
"""How a file is made for something to be mounted on it."""


def open_below(root: int, path: str, flags: int, resolve: int, mode: int = 0) -> int:
    """Open `path` relative to the directory `root`. Raises OSError.

    With RESOLVE_IN_ROOT an absolute path is one below `root`, with AT_FDCWD one of our own.
    """
    how = _how(flags | os.O_CLOEXEC, mode, resolve)
    return c.syscall(c.OPENAT2, root, encoded(path), c.byref(how), HOW_SIZE)


def find(root: int, path: str) -> int:
    """An O_PATH descriptor of an existing place below `root`; no link of any kind is followed."""
    return open_below(root, path, *FINDING)


def find_by(
    calls: Calls,
    root: Cell | int,
    path: str,
    *,
    directory: bool = False,
    **ways: Unpack[Ways],
) -> Cell:
    """`find` as one of a list of calls; with `directory` anything else there is ENOTDIR."""
    flags, resolve = FINDING
    how = (flags | (os.O_DIRECTORY if directory else 0), resolve)
    return _open_by(calls, root, path, how, **ways)


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
                os.close(os.open(part, MAKING, 0o644, dir_fd=here))
            else:
                try:
                    os.mkdir(part, mode, dir_fd=here)
                except FileExistsError:
                    pass
            below = open_below(here, part, *STEPPING)
            os.close(here)
            here = below
    except BaseException:
        os.close(here)
        raise
    return here


def find_or_make_by(
    calls: Calls, root: Cell | int, path: str, *, directory: bool, mode: int = 0o755
) -> Cell:
    """`find_or_make` as a list of calls."""
    found = calls.label()
    place = find_by(calls, root, path, passing=(errno.ENOENT,), then=found)
    here = root
    parts = [part for part in path.split("/") if part]
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        name = encoded(part)
        if last and not directory:
            calls.close(calls.call("openat", here, name, MAKING, 0o644))
        else:
            calls.call("mkdirat", here, name, mode, passing=(errno.EEXIST,))
        below = _open_by(calls, here, part, STEPPING, into=place if last else None)
        if here is not root:
            calls.close(here)
        here = below
    calls.here(found)
    return place


def _open_by(
    calls: Calls,
    root: Cell | int,
    path: str,
    how: tuple[int, int],
    **ways: Unpack[Ways],
) -> Cell:
    flags, resolve = how
    asked = bytes(OpenHow(flags | os.O_CLOEXEC, 0, resolve))
    return calls.call(c.OPENAT2, root, encoded(path), asked, HOW_SIZE, **ways)
