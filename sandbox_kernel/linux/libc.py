"""The C library, and raw system calls by number. No policy is here.

Every function that other modules declare on `libc` sets `argtypes` and `restype`; every result is
checked by `check`, so that no failed call goes unseen.

The types are those of `ctypes`, made here of the same C module: a command whose callers count the
time starts with this file, and importing all of `ctypes` takes a third as long as Python's start.
"""

from __future__ import annotations

import os
from _ctypes import (
    FUNCFLAG_CDECL,
    FUNCFLAG_USE_ERRNO,
    CFuncPtr,
    Structure,
    _SimpleCData,
    addressof,
    byref,
    dlopen,
    get_errno,
    sizeof,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from ctypes import (
        CDLL,
        CFUNCTYPE,
        c_char,
        c_char_p,
        c_int,
        c_long,
        c_ubyte,
        c_uint32,
        c_uint64,
        c_ulong,
        c_ushort,
        c_void_p,
    )

    _AtAddress = CFUNCTYPE(c_ulong, c_void_p)
else:
    # The letters are those of the module `struct`, "z" a string that ends with 0, "P" any pointer.

    class c_char(_SimpleCData):  # noqa: N801 - these are the names of C and of `ctypes`
        _type_ = "c"

    class c_ubyte(_SimpleCData):  # noqa: N801
        _type_ = "B"

    class c_ushort(_SimpleCData):  # noqa: N801
        _type_ = "H"

    class c_int(_SimpleCData):  # noqa: N801
        _type_ = "i"

    class c_uint32(_SimpleCData):  # noqa: N801
        _type_ = "I"

    class c_long(_SimpleCData):  # noqa: N801
        _type_ = "l"

    class c_ulong(_SimpleCData):  # noqa: N801
        _type_ = "L"

    class c_uint64(_SimpleCData):  # noqa: N801
        _type_ = "Q"

    class c_char_p(_SimpleCData):  # noqa: N801
        _type_ = "z"

    class c_void_p(_SimpleCData):  # noqa: N801
        _type_ = "P"

    class _Function(CFuncPtr):
        _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO
        _restype_ = c_int

    _AtAddress = _Function

    class CDLL:
        """A library: `[name]` is a new function object, `.name` always the same."""

        def __init__(self, name: str | None) -> None:
            self._handle = dlopen(name, 0)  # by this name `CFuncPtr` looks for it

        def __getitem__(self, name: str) -> _Function:
            return _Function((name, self))

        def __getattr__(self, name: str) -> _Function:
            function = self[name]
            setattr(self, name, function)
            return function


__all__ = [
    "MACHINE", "Structure", "addressof", "byref", "c_char", "c_char_p", "c_int", "c_long",
    "c_ubyte", "c_uint32", "c_uint64", "c_ulong", "c_ushort", "c_void_p", "check",
    "executable_memory", "function_at", "libc", "load", "number", "read_memory", "sizeof",
    "syscall", "write_memory",
]  # fmt: skip

libc = CDLL(None)


def load(library: str) -> CDLL:
    """A library by its name. Raises OSError when there is none."""
    return CDLL(library)


def _raw(count: int) -> Callable[..., int]:
    """syscall(2) with this many arguments, which may be integers, bytes, None or byref."""
    function = libc["syscall"]
    function.restype = c_long
    function.argtypes = (c_long, *[c_void_p] * count)
    return function


_mmap = libc.mmap
_mmap.argtypes = (c_void_p, c_ulong, c_int, c_int, c_int, c_long)
_mmap.restype = c_void_p
# include/uapi/asm-generic/mman-common.h and include/uapi/linux/mman.h
PROT_READ, PROT_EXEC, MAP_PRIVATE = 0x1, 0x4, 0x02
MAP_FAILED = (1 << 64) - 1

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
MACHINE = os.uname().machine
"""Asked before personality(2) may have the kernel name another one."""
_BY_MACHINE = {
    "x86_64": {
        "chdir": 80,
        "close": 3,
        "fchdir": 81,
        "fcntl": 72,
        "getdents64": 217,
        "ioctl": 16,
        "mkdirat": 258,
        "mount": 165,
        "openat": 257,
        "pivot_root": 155,
        "pread64": 17,
        "pwrite64": 18,
        "read": 0,
        "readlinkat": 267,
        "seccomp": 317,
        "setgroups": 116,
        "sethostname": 170,
        "setns": 308,
        "setresgid": 119,
        "setresuid": 117,
        "socket": 41,
        "statx": 332,
        "symlinkat": 266,
        "umask": 95,
        "umount2": 166,
        "unlinkat": 263,
        "unshare": 272,
        "write": 1,
    },
    "aarch64": {
        "chdir": 49,
        "close": 57,
        "fchdir": 50,
        "fcntl": 25,
        "getdents64": 61,
        "ioctl": 29,
        "mkdirat": 34,
        "mount": 40,
        "openat": 56,
        "pivot_root": 41,
        "pread64": 67,
        "pwrite64": 68,
        "read": 63,
        "readlinkat": 78,
        "seccomp": 277,
        "setgroups": 159,
        "sethostname": 161,
        "setns": 268,
        "setresgid": 149,
        "setresuid": 147,
        "socket": 198,
        "statx": 291,
        "symlinkat": 36,
        "umask": 166,
        "umount2": 39,
        "unlinkat": 35,
        "unshare": 97,
        "write": 64,
    },
}


def number(name: str) -> int:
    """The number of an older system call on this machine.

    Raises OSError(ENOSYS) on a machine whose numbers are not known here.
    """
    try:
        return _BY_MACHINE[MACHINE][name]
    except KeyError:
        raise OSError(38, f"system call `{name}`: its number on `{MACHINE}` is not known") from None


def syscall(call: int, *arguments: object) -> int:
    """One raw system call; integers are passed in full registers. Raises OSError with errno."""
    result = _RAW[len(arguments)](call, *arguments)
    if result < 0:
        errno = get_errno()
        raise OSError(errno, os.strerror(errno))
    return result


def executable_memory(file: int, size: int) -> int:
    """The address where the code in a file can be executed, and not written to. Raises OSError."""
    address: int | None = _mmap(None, size, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, 0)
    if address is None or address == MAP_FAILED:
        errno = get_errno()
        raise OSError(errno, os.strerror(errno))
    return address


def function_at(address: int) -> Callable[[int], int]:
    """The function at an address, which takes an address and returns one."""
    function = _AtAddress(address)
    function.argtypes = (c_void_p,)
    function.restype = c_ulong
    return function


def read_memory(address: int, size: int) -> bytes:
    """What is in memory of this process."""
    return bytes((c_ubyte * size).from_address(address))


def write_memory(address: int, data: bytes) -> None:
    """Change memory of this process."""
    (c_ubyte * len(data)).from_address(address)[:] = list(data)


def check(result: int) -> int:
    """The result of a libc function that returns -1 and sets errno. Raises OSError."""
    if result < 0:
        errno = get_errno()
        raise OSError(errno, os.strerror(errno))
    return result
