"""An interpreter of classic BPF as seccomp uses it, to ask a program about any call."""

from __future__ import annotations

import struct

AUDIT_ARCH_X86_64 = 0xC000003E
AUDIT_ARCH_I386 = 0x40000003
AUDIT_ARCH_AARCH64 = 0xC00000B7

ALLOW = 0x7FFF0000
KILL_PROCESS = 0x80000000
ERRNO = 0x00050000


def answer(program: bytes, number: int, *arguments: int, architecture: int) -> int:
    """What the program returns for one call.

    struct seccomp_data { int nr; __u32 arch; __u64 instruction_pointer; __u64 args[6]; }
    """
    padded = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack("=IIQ6Q", number & 0xFFFFFFFF, architecture, 0, *padded)
    code = list(struct.iter_unpack("=HBBI", program))
    accumulator, counter = 0, 0
    while True:
        operation, if_true, if_false, constant = code[counter]
        counter += 1
        match operation:
            case 0x20:  # LD | W | ABS
                (accumulator,) = struct.unpack_from("=I", data, constant)
            case 0x54:  # ALU | AND | K
                accumulator &= constant
            case 0x05:  # JMP | JA
                counter += constant
            case 0x15:  # JMP | JEQ | K
                counter += if_true if accumulator == constant else if_false
            case 0x25:  # JMP | JGT | K
                counter += if_true if accumulator > constant else if_false
            case 0x35:  # JMP | JGE | K
                counter += if_true if accumulator >= constant else if_false
            case 0x06:  # RET | K
                return constant
            case _:
                raise AssertionError(f"operation {operation:#x} is not known here")
