"""The C library through ctypes, and raw system calls by number. No policy is here.

Every function that other modules declare on `libc` sets `argtypes` and `restype`; every result is
checked by `check`, so that no failed call goes unseen.
"""

from __future__ import annotations

import ctypes
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

libc = ctypes.CDLL(None, use_errno=True)


def _raw(count: int) -> Callable[..., int]:
    """syscall(2) with this many arguments, which may be integers, bytes, None or byref."""
    function = libc["syscall"]
    function.restype = ctypes.c_long
    function.argtypes = (ctypes.c_long, *[ctypes.c_void_p] * count)
    return function


_RAW = tuple(_raw(count) for count in range(7))

# include/uapi/asm-generic/unistd.h: since Linux 5.1 new calls have one number on all machines.
OPEN_TREE = 428
MOVE_MOUNT = 429
FSOPEN = 430
FSCONFIG = 431
FSMOUNT = 432
FSPICK = 433
PIDFD_OPEN = 434
CLONE3 = 435
CLOSE_RANGE = 436
OPENAT2 = 437
MOUNT_SETATTR = 442

# Older calls have a number for each machine: arch/x86/entry/syscalls/syscall_64.tbl and
# include/uapi/asm-generic/unistd.h. An unknown machine is an error, never a guess.
_BY_MACHINE = {
    "x86_64": {
        "pivot_root": 155,
        "seccomp": 317,
        "setgroups": 116,
        "setresgid": 119,
        "setresuid": 117,
    },
    "aarch64": {
        "pivot_root": 41,
        "seccomp": 277,
        "setgroups": 159,
        "setresgid": 149,
        "setresuid": 147,
    },
}


def number(name: str) -> int:
    """The number of an older system call on this machine.

    Raises OSError(ENOSYS) on a machine whose numbers are not known here.
    """
    machine = os.uname().machine
    try:
        return _BY_MACHINE[machine][name]
    except KeyError:
        raise OSError(38, f"system call `{name}`: its number on `{machine}` is not known") from None


def syscall(call: int, *arguments: object) -> int:
    """One raw system call; integers are passed in full registers. Raises OSError with errno."""
    result = _RAW[len(arguments)](call, *arguments)
    if result < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))
    return result


def check(result: int) -> int:
    """The result of a libc function that returns -1 and sets errno. Raises OSError."""
    if result < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))
    return result
