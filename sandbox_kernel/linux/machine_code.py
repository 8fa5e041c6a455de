"""Programs of a page of machine code, for processes that do next to nothing for a long time.

Each costs its process a few pages, where a Python costs three MiB. They are executed from sealed
memory files. Sources: elf(5), memfd_create(2).
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from sandbox_kernel.linux import writing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NamedTuple

    class Program(NamedTuple):
        """For one kind of processor: what an assembler reads, and what it makes of that, in hex."""

        assembly: str
        code: str
else:
    from collections import namedtuple

    Program = namedtuple("Program", "assembly code")

MACHINES = {"x86_64": 62, "aarch64": 183}  # include/uapi/linux/elf-em.h
MFD_EXEC = 0x0010  # include/uapi/linux/memfd.h

_ADDRESS = 0x10000
_HEADER = struct.Struct("<4sBBBB8xHHIQQQIHHHHHH")  # Elf64_Ehdr
_SEGMENT = struct.Struct("<IIQQQQQQ")  # Elf64_Phdr
_PF_R_X = 5


def of(programs: Mapping[str, Program], machine: str) -> bytes:
    """The code for a machine. Raises OSError(ENOSYS) when there is none for it."""
    if machine not in programs:
        raise OSError(errno.ENOSYS, f"run machine code: there is no program for `{machine}`")
    return bytes.fromhex(programs[machine].code)


def executable(machine: str, code: bytes) -> bytes:
    """The file that is executed: a header, one segment, the code."""
    start = _HEADER.size + _SEGMENT.size
    header = _HEADER.pack(
        b"\x7fELF", 2, 1, 1, 0, 2, MACHINES[machine], 1, _ADDRESS + start, _HEADER.size, 0, 0,
        _HEADER.size, _SEGMENT.size, 1, 0, 0, 0,
    )  # fmt: skip
    size = start + len(code)
    segment = _SEGMENT.pack(1, _PF_R_X, 0, _ADDRESS, _ADDRESS, size, size, 0x1000)
    return header + segment + code


def sealed(name: str, image: bytes, mode: int) -> int:
    """A descriptor of a memory file with these permissions, to execute. Raises OSError."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        memory = os.memfd_create(name, flags | MFD_EXEC)
    except OSError:  # before Linux 6.3, where each memory file can be executed
        memory = os.memfd_create(name, flags)
    try:
        writing.whole(memory, image)
        seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, seals)
        # What is open for writing can't be executed (ETXTBSY).
        executable = os.open(f"/proc/self/fd/{memory}", os.O_RDONLY | os.O_CLOEXEC)
        os.fchmod(memory, mode)
    finally:
        os.close(memory)
    return executable
