"""What the header of an ELF file says: machine, word size, and the loader it asks for.

A strict parser of bytes that an image brought; nothing is run. Source: elf(5); the System V ABI,
chapter 4. Only 64 bit, little endian files are read: other machines have no wheels to choose from.
"""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

MAGIC = b"\x7fELF"
ELFCLASS64 = 2
ELFDATA2LSB = 1
ET_EXEC, ET_DYN = 2, 3
PT_INTERP = 3
MACHINES = {62: "x86_64", 183: "aarch64"}
"""EM_X86_64 and EM_AARCH64, by the names that uname(2) and wheels have."""
MOST_HEADERS = 128
LONGEST_INTERPRETER = 256
FARTHEST = 1 << 62

# typedef struct {
#     unsigned char e_ident[16]; uint16_t e_type, e_machine; uint32_t e_version;
#     uint64_t e_entry, e_phoff, e_shoff; uint32_t e_flags;
#     uint16_t e_ehsize, e_phentsize, e_phnum, e_shentsize, e_shnum, e_shstrndx;
# } Elf64_Ehdr;
_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
# typedef struct {
#     uint32_t p_type, p_flags; uint64_t p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align;
# } Elf64_Phdr;
_PHDR = struct.Struct("<IIQQQQQQ")


class Program(NamedTuple):
    """A program of an image: `interpreter` is the loader, None when it is linked statically."""

    machine: str
    interpreter: str | None


def read(descriptor: int) -> Program:
    """The program that a file is. Raises ValueError that says what it is instead."""
    header = os.pread(descriptor, _EHDR.size, 0)
    if not header.startswith(MAGIC):
        raise ValueError("it is a script and no program" if header[:2] == b"#!" else "it is no ELF")
    if len(header) < _EHDR.size or header[4] != ELFCLASS64 or header[5] != ELFDATA2LSB:
        raise ValueError("it is not for a 64 bit, little endian machine")
    _, kind, machine, _, _, at, _, _, _, entry_size, count, *_ = _EHDR.unpack(header)
    if kind not in (ET_EXEC, ET_DYN):
        raise ValueError("it is an ELF file that is no program")
    if machine not in MACHINES:
        raise ValueError(f"its machine (ELF number {machine}) is not x86_64 or aarch64")
    if entry_size != _PHDR.size or count > MOST_HEADERS:
        raise ValueError("its program headers are not as they must be")
    table = _read_at(descriptor, entry_size * count, at)
    if len(table) != entry_size * count:
        raise ValueError("it is cut off in its program headers")
    for header_kind, _, offset, _, _, size, _, _ in _PHDR.iter_unpack(table):
        if header_kind == PT_INTERP:
            if size > LONGEST_INTERPRETER:
                raise ValueError("the name of its loader is too long")
            path = _interpreter(_read_at(descriptor, size, offset), size)
            return Program(MACHINES[machine], path)
    return Program(MACHINES[machine], None)


def _read_at(descriptor: int, size: int, at: int) -> bytes:
    """What lies there; nothing behind the end, also where no file can reach (pread(2): EINVAL)."""
    return os.pread(descriptor, size, at) if at < FARTHEST else b""


def _interpreter(text: bytes, size: int) -> str:
    path = text.rstrip(b"\0")
    if len(text) != size or not path.startswith(b"/") or b"\0" in path or not path.isascii():
        raise ValueError("the name of its loader is not as it must be")
    return path.decode()
