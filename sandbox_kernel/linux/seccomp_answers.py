"""What a compiled seccomp program answers to a call: the kernel's classic BPF, evaluated here.

So that a refusal can be laid at the right door: the filter's own program says whether it was the
filter. Sources: Documentation/networking/filter.rst, include/uapi/linux/seccomp.h. Light: the
counter of calls imports it.
"""

from __future__ import annotations

import os
import struct
import sys

from sandbox_kernel.errors import HostLacks, StepFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# include/uapi/linux/seccomp.h
SECCOMP_RET_KILL_PROCESS = 0x80000000
SECCOMP_RET_KILL_THREAD = 0x00000000
SECCOMP_RET_TRAP = 0x00030000
SECCOMP_RET_ERRNO = 0x00050000
SECCOMP_RET_LOG = 0x7FFC0000
SECCOMP_RET_ALLOW = 0x7FFF0000
SECCOMP_RET_ACTION_FULL = 0xFFFF0000
SECCOMP_RET_DATA = 0x0000FFFF

# include/uapi/linux/audit.h
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7, "riscv64": 0xC00000F3}

# struct sock_filter { __u16 code; __u8 jt; __u8 jf; __u32 k; }
_INSTRUCTION = struct.Struct("=HBBI")
# struct seccomp_data { int nr; __u32 arch; __u64 instruction_pointer; __u64 args[6]; }
_DATA = struct.Struct("=IIQ6Q")
_WORD = 0xFFFFFFFF
_WIDE = (1 << 64) - 1

# include/uapi/linux/bpf_common.h: the operations that a seccomp program may have and ours do.
_LOAD_WORD, _AND, _JUMP = 0x20, 0x54, 0x05
_JUMP_EQUAL, _JUMP_GREATER, _JUMP_AT_LEAST, _JUMP_ANY = 0x15, 0x25, 0x35, 0x45
_RETURN = 0x06


def here() -> int:
    """The architecture of calls that this machine's own programs make. Raises HostLacks."""
    machine = os.uname().machine
    if machine not in ARCHITECTURES:
        raise HostLacks(f"read a filter: its architecture on `{machine}` is not known here")
    return ARCHITECTURES[machine]


class Answers:
    """One program, ready to be asked."""

    def __init__(self, program: bytes) -> None:
        if len(program) % _INSTRUCTION.size:
            raise StepFailed("read", f"a filter of {len(program)} bytes", "not a program")
        self._code: list[tuple[int, int, int, int]] = list(_INSTRUCTION.iter_unpack(program))

    def of(self, number: int, arguments: Sequence[int], architecture: int) -> int:
        """What it returns for a call: an action with its data. Raises StepFailed."""
        padded = [value & _WIDE for value in (*arguments, 0, 0, 0, 0, 0, 0)[:6]]
        data = _DATA.pack(number & _WORD, architecture, 0, *padded)
        accumulator = at = 0
        while at < len(self._code):
            operation, if_true, if_false, constant = self._code[at]
            at += 1
            if operation == _LOAD_WORD:
                accumulator = int.from_bytes(data[constant : constant + 4], sys.byteorder)
            elif operation == _AND:
                accumulator &= constant
            elif operation == _JUMP:
                at += constant
            elif operation == _JUMP_EQUAL:
                at += if_true if accumulator == constant else if_false
            elif operation == _JUMP_GREATER:
                at += if_true if accumulator > constant else if_false
            elif operation == _JUMP_AT_LEAST:
                at += if_true if accumulator >= constant else if_false
            elif operation == _JUMP_ANY:
                at += if_true if accumulator & constant else if_false
            elif operation == _RETURN:
                return constant
            else:
                raise StepFailed("read", "a filter", f"operation {operation:#x} is not known")
        raise StepFailed("read", "a filter", "it ends without an answer")

    def refuses(self, number: int, arguments: Sequence[int], architecture: int) -> int | None:
        """The error that it answers; 0: it ends the process; None: it lets the call pass."""
        answer = self.of(number, arguments, architecture)
        action = answer & SECCOMP_RET_ACTION_FULL
        if action in (SECCOMP_RET_ALLOW, SECCOMP_RET_LOG):
            return None
        return answer & SECCOMP_RET_DATA if action == SECCOMP_RET_ERRNO else 0
