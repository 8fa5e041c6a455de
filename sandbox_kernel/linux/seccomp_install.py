"""Install a compiled seccomp program on the calling thread. Light: runs just before exec.

How a program is made is in `linux/seccomp.py`; what it allows in `bundle/seccomp_profile.py`.
"""

from __future__ import annotations

import ctypes
import errno

from sandbox_kernel.errors import StepFailed
from sandbox_kernel.linux import processes
from sandbox_kernel.linux.libc import check, libc

# include/uapi/linux/prctl.h
PR_SET_SECCOMP = 22
# include/uapi/linux/seccomp.h
SECCOMP_MODE_FILTER = 2

# struct sock_filter { __u16 code; __u8 jt; __u8 jf; __u32 k; }
INSTRUCTION_SIZE = 8
BPF_MAXINSNS = 4096


_prctl = libc["prctl"]
_prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong)
_prctl.restype = ctypes.c_int


class SockFprog(ctypes.Structure):
    """struct sock_fprog { unsigned short len; struct sock_filter *filter; }"""

    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def install(program: bytes, *, no_new_privs: bool = True) -> None:
    """Put the filter on this thread, after setting no_new_privs; it stays for every descendant.

    Without no_new_privs the thread needs CAP_SYS_ADMIN.

    JUSTIFICATION: the last wall between the payload and the kernel. SAFETY: `buffer` lives until
    the call is over, the kernel copies it; the length is checked against the instruction size, so
    the kernel never reads past it. Any failure raises, and the caller then must not exec.
    """
    count, rest = divmod(len(program), INSTRUCTION_SIZE)
    if rest or not 0 < count <= BPF_MAXINSNS:
        raise StepFailed("install seccomp program of", f"{len(program)} bytes", "not a program")
    buffer = ctypes.create_string_buffer(program, len(program))
    header = SockFprog(count, ctypes.cast(buffer, ctypes.c_void_p))
    try:
        if no_new_privs:
            processes.prctl(processes.PR_SET_NO_NEW_PRIVS, 1)
        check(_prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(header), 0, 0))
    except OSError as error:
        why = str(error.strerror)
        if error.errno == errno.EINVAL:
            why += ": the kernel needs CONFIG_SECCOMP_FILTER"
        raise StepFailed(
            "install seccomp program of", f"{count} instructions", why, error.errno or 0
        ) from error
