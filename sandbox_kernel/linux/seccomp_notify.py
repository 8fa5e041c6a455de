"""Being told of each system call of a process, by a filter that asks: seccomp_unotify(2).

`report_to` is called in the process, just before its program is executed. Whoever gets the listener
hears of each call and lets it go on; when he lets go of the listener, calls fail with ENOSYS. Other
filters decide first: what one of them refuses is not heard of. `install` does the same with a
filter that asks of some calls. Light: runs just before exec.
Numbers and structures: include/uapi/linux/seccomp.h.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct

from sandbox_kernel.errors import HostLacks, StepFailed
from sandbox_kernel.linux import libc as c
from sandbox_kernel.linux import processes
from sandbox_kernel.linux.seccomp_install import (
    SECCOMP_FILTER_FLAG_NEW_LISTENER,
    SECCOMP_SET_MODE_FILTER,
    SockFprog,
)

SECCOMP_RET_USER_NOTIF = 0x7FC00000
SECCOMP_RET_ALLOW = 0x7FFF0000
SECCOMP_USER_NOTIF_FLAG_CONTINUE = 1
# _IOWR('!', 0, struct seccomp_notif) and _IOWR('!', 1, struct seccomp_notif_resp)
SECCOMP_IOCTL_NOTIF_RECV = 0xC0502100
SECCOMP_IOCTL_NOTIF_SEND = 0xC0182101

# struct seccomp_notif { __u64 id; __u32 pid, flags; struct seccomp_data { int nr; ... } data; }
_NOTIFICATION = struct.Struct("=QIIi60x")
# struct seccomp_notif_resp { __u64 id; __s64 val; __s32 error; __u32 flags; }
_RESPONSE = struct.Struct("=QqiI")
# struct cmsghdr { size_t len; int level, type; } with one descriptor, on a 64 bit machine
_CONTROL = struct.Struct("=Qiii4x")
# struct sock_filter { __u16 code; __u8 jt, jf; __u32 k; }
_INSTRUCTION = struct.Struct("=HBBI")
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06

# arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h
_SENDMSG = {"x86_64": 46, "aarch64": 211}


class _Part(ctypes.Structure):
    """struct iovec { void *base; size_t length; }"""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Message(ctypes.Structure):
    """struct msghdr"""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint),
        ("parts", ctypes.c_void_p),
        ("count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


_sendmsg = c.libc["sendmsg"]
_sendmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
_sendmsg.restype = ctypes.c_ssize_t
_seccomp = c.libc["syscall"]


def report_to(channel: int) -> None:
    """Have each further call of this process told to the other end of a socket, which it closes
    itself by execve(2). Raises StepFailed, HostLacks.
    """
    machine = os.uname().machine
    if machine not in _SENDMSG:
        raise HostLacks(f"learn system calls: the number of `sendmsg` on `{machine}` is not known")
    program = b"".join(
        _INSTRUCTION.pack(*each)
        for each in (
            (_LOAD, 0, 0, 0),
            (_EQUAL, 0, 1, _SENDMSG[machine]),
            (_RETURN, 0, 0, SECCOMP_RET_ALLOW),
            (_RETURN, 0, 0, SECCOMP_RET_USER_NOTIF),
        )
    )
    _install(program, SECCOMP_FILTER_FLAG_NEW_LISTENER, channel, b"x", "learn", "system calls")


def install(program: bytes, channel: int, text: bytes, *, no_new_privs: bool, flags: int) -> None:
    """Put a filter on this process that asks, and send its listener with a text over a socket,
    which closes itself by execve(2). Raises StepFailed.

    It may not ask of sendmsg(2): see `_install`.
    """
    if no_new_privs:
        processes.prctl(processes.PR_SET_NO_NEW_PRIVS, 1)
    flags |= SECCOMP_FILTER_FLAG_NEW_LISTENER
    _install(program, flags, channel, text, "install", "a seccomp program with a listener")


def _install(
    program: bytes, flags: int, channel: int, said: bytes, step: str, subject: str
) -> None:
    """Both at once.

    JUSTIFICATION: who is to learn what a program calls has to hear of its first call. SAFETY: all
    structures live to the end of this function. From the filter on each call waits for somebody who
    hears of it, and nobody can before the listener is sent: so the message is made ready before,
    with the number that the listener will have, and sending is the one call that does not wait.
    """
    os.set_inheritable(channel, False)
    listener = os.dup(channel)
    os.close(listener)  # the lowest that is free, which is the next one
    code = ctypes.create_string_buffer(program, len(program))
    header = SockFprog(len(program) // _INSTRUCTION.size, ctypes.addressof(code))
    text = ctypes.create_string_buffer(said, len(said))
    part = _Part(ctypes.addressof(text), len(said))
    control = ctypes.create_string_buffer(
        _CONTROL.pack(20, socket.SOL_SOCKET, socket.SCM_RIGHTS, listener), _CONTROL.size
    )
    message = _Message(
        None, 0, ctypes.addressof(part), 1, ctypes.addressof(control), _CONTROL.size, 0
    )
    where = ctypes.c_void_p(ctypes.addressof(message))
    number = ctypes.c_long(c.number("seccomp"))
    mode, flag = ctypes.c_long(SECCOMP_SET_MODE_FILTER), ctypes.c_long(flags)
    filter_ = ctypes.c_void_p(ctypes.addressof(header))
    made = _seccomp(number, mode, flag, filter_)
    sent = _sendmsg(channel, where, 0) if made == listener else made
    if sent < 0:
        error = ctypes.get_errno()
        raise StepFailed(step, subject, os.strerror(error), error)


def hear(listener: int) -> int | None:
    """The number of the next call, which goes on then; None: who made it was ended meanwhile.

    Raises OSError.
    """
    heard = bytearray(_NOTIFICATION.size)
    try:
        fcntl.ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, heard)
        identity, _, _, number = _NOTIFICATION.unpack(heard)
        answer = _RESPONSE.pack(identity, 0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE)
        fcntl.ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, bytearray(answer))
    except FileNotFoundError:
        return None
    return int(number)
