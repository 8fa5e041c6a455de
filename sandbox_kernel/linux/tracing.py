"""Following the system calls of other processes: ptrace(2).

Numbers and structures: include/uapi/linux/ptrace.h. All requests for a process come from the thread
that follows it. When that thread ends, the kernel lets all of them go on as before.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from collections import namedtuple

from sandbox_kernel.linux import libc as c

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    class SystemCall(NamedTuple):
        """Where a process stands: at the entry of a call, or at its exit."""

        entry: bool
        architecture: int
        number: int
        arguments: tuple[int, ...]
        result: int
        failed: bool

else:
    SystemCall = namedtuple("SystemCall", "entry architecture number arguments result failed")

PTRACE_SYSCALL = 24
PTRACE_SEIZE = 0x4206
PTRACE_INTERRUPT = 0x4207
PTRACE_LISTEN = 0x4208
PTRACE_GET_SYSCALL_INFO = 0x420E

PTRACE_O_TRACESYSGOOD = 0x00000001
PTRACE_O_TRACEFORK = 0x00000002
PTRACE_O_TRACEVFORK = 0x00000004
PTRACE_O_TRACECLONE = 0x00000008
PTRACE_O_TRACEEXEC = 0x00000010
_OPTIONS = (
    PTRACE_O_TRACESYSGOOD
    | PTRACE_O_TRACEFORK
    | PTRACE_O_TRACEVFORK
    | PTRACE_O_TRACECLONE
    | PTRACE_O_TRACEEXEC
)
PTRACE_EVENT_STOP = 128
PTRACE_SYSCALL_INFO_ENTRY = 1
PTRACE_SYSCALL_INFO_EXIT = 2

SYSCALL_STOP = signal.SIGTRAP | 0x80
"""The signal of a stop at a system call, since PTRACE_O_TRACESYSGOOD."""
__WALL = 0x40000000
WAIT = __WALL | os.WNOHANG
_STOPS = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)

# struct ptrace_syscall_info { __u8 op; __u8 reserved; __u16 flags; __u32 arch;
#   __u64 instruction_pointer, stack_pointer;
#   union { struct { __u64 nr, args[6]; } entry; struct { __s64 rval; __u8 is_error; } exit; }; }
_HEAD = struct.Struct("=BxxxI16x")
_ENTRY = struct.Struct("=Q6Q")
_EXIT = struct.Struct("=qB")
_SIZE = 88

_ptrace = c.libc.ptrace
_ptrace.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_ptrace.restype = ctypes.c_long
_buffer = ctypes.create_string_buffer(_SIZE)


def follow(thread: int) -> None:
    """Begin to follow a thread, and those that it starts; stops it once. Raises OSError."""
    c.check(_ptrace(PTRACE_SEIZE, thread, None, _OPTIONS))
    c.check(_ptrace(PTRACE_INTERRUPT, thread, None, None))


def go_on(thread: int, number: int = 0) -> None:
    """Let a stopped thread run to its next stop, with a signal that it was to get. OSError."""
    c.check(_ptrace(PTRACE_SYSCALL, thread, None, number))


def listen(thread: int) -> None:
    """Leave a thread stopped that job control has stopped. Raises OSError."""
    c.check(_ptrace(PTRACE_LISTEN, thread, None, None))


def is_group_stop(status: int) -> bool:
    """Whether job control has stopped it: the status is of waitpid(2)."""
    return status >> 16 == PTRACE_EVENT_STOP and (status >> 8 & 0xFF) in _STOPS


def system_call(thread: int) -> SystemCall | None:
    """The call at which a thread has stopped; None: at none. Raises OSError."""
    c.check(_ptrace(PTRACE_GET_SYSCALL_INFO, thread, _SIZE, ctypes.addressof(_buffer)))
    kind, architecture = _HEAD.unpack_from(_buffer)
    if kind == PTRACE_SYSCALL_INFO_ENTRY:
        number, *arguments = _ENTRY.unpack_from(_buffer, _HEAD.size)
        return SystemCall(True, architecture, number, tuple(arguments), 0, False)
    if kind == PTRACE_SYSCALL_INFO_EXIT:
        result, failed = _EXIT.unpack_from(_buffer, _HEAD.size)
        return SystemCall(False, architecture, -1, (), result, bool(failed))
    return None
