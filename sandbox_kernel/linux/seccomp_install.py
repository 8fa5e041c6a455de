"""Install a compiled seccomp program on the calling thread. Light: runs just before exec.

How a program is made is in `linux/seccomp.py`; what it allows in `bundle/seccomp_profile.py`.
"""

from __future__ import annotations

import errno

from sandbox_kernel.errors import StepFailed
from sandbox_kernel.linux import libc as c
from sandbox_kernel.linux import processes

# include/uapi/linux/prctl.h
PR_SET_SECCOMP = 22
# include/uapi/linux/seccomp.h
SECCOMP_MODE_FILTER = 2
SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_TSYNC = 1 << 0
SECCOMP_FILTER_FLAG_LOG = 1 << 1
SECCOMP_FILTER_FLAG_SPEC_ALLOW = 1 << 2
SECCOMP_FILTER_FLAG_NEW_LISTENER = 1 << 3
SECCOMP_FILTER_FLAG_TSYNC_ESRCH = 1 << 4
SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV = 1 << 5

# struct sock_filter { __u16 code; __u8 jt; __u8 jf; __u32 k; }
INSTRUCTION_SIZE = 8
BPF_MAXINSNS = 4096


_prctl = c.libc["prctl"]
_prctl.argtypes = (c.c_int, c.c_ulong, c.c_void_p, c.c_ulong, c.c_ulong)
_prctl.restype = c.c_int


class SockFprog(c.Structure):
    """struct sock_fprog { unsigned short len; struct sock_filter *filter; }"""

    _fields_ = (("len", c.c_ushort), ("filter", c.c_void_p))


def install(program: bytes, *, no_new_privs: bool = True, flags: int = 0) -> None:
    """Put the filter on this thread, after setting no_new_privs; it stays for every descendant.

    Without no_new_privs the thread needs CAP_SYS_ADMIN. `flags` are those of seccomp(2), but for a
    listener: `seccomp_notify.install`.

    JUSTIFICATION: the last wall between the payload and the kernel. SAFETY: `buffer` lives until
    the call is over, the kernel copies it; the length is checked against the instruction size, so
    the kernel never reads past it. Any failure raises, and the caller then must not exec.
    """
    count, rest = divmod(len(program), INSTRUCTION_SIZE)
    if rest or not 0 < count <= BPF_MAXINSNS:
        raise StepFailed("install seccomp program of", f"{len(program)} bytes", "not a program")
    buffer = (c.c_char * len(program)).from_buffer_copy(program)
    header = SockFprog(count, c.addressof(buffer))
    try:
        if no_new_privs:
            processes.prctl(processes.PR_SET_NO_NEW_PRIVS, 1)
        if flags:
            c.syscall(c.number("seccomp"), SECCOMP_SET_MODE_FILTER, flags, c.byref(header))
        else:
            c.check(_prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, c.byref(header), 0, 0))
    except OSError as error:
        why = str(error.strerror)
        if error.errno == errno.EINVAL:
            why += ": the kernel needs CONFIG_SECCOMP_FILTER"
        raise StepFailed(
            "install seccomp program of", f"{count} instructions", why, error.errno or 0
        ) from error
