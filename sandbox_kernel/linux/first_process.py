"""The program of pid 1, which only holds its namespaces: machine code in place of a Python.

It mounts proc on its working directory, which only a process of the new pid namespace can do, says
over descriptor 4 what the kernel answered, and waits until the other end of descriptor 3 is closed:
then it ends, and with it the container. It ignores SIGCHLD, so that the kernel reaps what the
container leaves to it. It is executed from a sealed memory file. A container held so costs a few
pages; a fork of Python costs two thousand page faults.

Sources: elf(5), prctl(2), sigaction(2), mount(2); numbers of the calls as in `libc`.
"""

from __future__ import annotations

import functools
import os

from sandbox_kernel.linux import machine_code
from sandbox_kernel.linux.machine_code import Program

LIFE, RESULT = 3, 4
"""What it reads from as long as it lives; where it writes the result of mount(2): eight bytes, 0 or
minus an errno."""
MOUNT_OPTIONS = frozenset(("nosuid", "nodev", "noexec"))
"""How it mounts proc: MS_NOSUID | MS_NODEV | MS_NOEXEC, 14."""

# A test assembles the text and compares.
MACHINES = {
    "x86_64": Program(
        """
        .globl _start
        _start:
            mov $157, %eax              # prctl(PR_SET_NAME, name)
            mov $15, %edi
            lea name(%rip), %rsi
            syscall
            mov $13, %eax               # rt_sigaction(SIGCHLD, SIG_IGN)
            mov $17, %edi
            lea ignore(%rip), %rsi
            xor %edx, %edx
            mov $8, %r10d
            syscall
            mov $165, %eax              # mount("proc", ".", "proc", 14, 0)
            lea proc(%rip), %rdi
            lea here(%rip), %rsi
            mov %rdi, %rdx
            mov $14, %r10d
            xor %r8d, %r8d
            syscall
            push %rax
            mov $80, %eax               # chdir("/"), which pivot_root(2) moves along
            lea root(%rip), %rdi
            syscall
            mov $1, %eax                # write(4, the result, 8)
            mov $4, %edi
            mov %rsp, %rsi
            mov $8, %edx
            syscall
            mov $3, %eax                # close(4)
            mov $4, %edi
            syscall
        wait:
            xor %eax, %eax              # read(3, somewhere, 1): until nobody holds the other end
            mov $3, %edi
            mov %rsp, %rsi
            mov $1, %edx
            syscall
            test %rax, %rax
            jg wait
            mov $231, %eax              # exit_group(0)
            xor %edi, %edi
            syscall
        ignore: .quad 1, 0, 0, 0
        name: .asciz "sandbox-init"
        proc: .asciz "proc"
        here: .asciz "."
        root: .asciz "/"
        """,
        "b89d000000bf0f000000488d35ac0000000f05b80d000000bf11000000488d357900000031d241ba080000"
        "000f05b8a5000000488d3d90000000488d358e0000004889fa41ba0e0000004531c00f0550b85000000048"
        "8d3d750000000f05b801000000bf040000004889e6ba080000000f05b803000000bf040000000f0531c0bf"
        "030000004889e6ba010000000f054885c07feab8e700000031ff0f05010000000000000000000000000000"
        "000000000000000000000000000000000073616e64626f782d696e69740070726f63002e002f00",
    ),
    "aarch64": Program(
        """
        .globl _start
        _start:
            mov x8, #167                // prctl(PR_SET_NAME, name)
            mov x0, #15
            adr x1, name
            svc #0
            mov x8, #134                // rt_sigaction(SIGCHLD, SIG_IGN)
            mov x0, #17
            adr x1, ignore
            mov x2, #0
            mov x3, #8
            svc #0
            mov x8, #40                 // mount("proc", ".", "proc", 14, 0)
            adr x0, proc
            adr x1, here
            mov x2, x0
            mov x3, #14
            mov x4, #0
            svc #0
            str x0, [sp, #-16]!
            mov x8, #49                 // chdir("/"), which pivot_root(2) moves along
            adr x0, root
            svc #0
            mov x8, #64                 // write(4, the result, 8)
            mov x0, #4
            mov x1, sp
            mov x2, #8
            svc #0
            mov x8, #57                 // close(4)
            mov x0, #4
            svc #0
        wait:
            mov x8, #63                 // read(3, somewhere, 1): until nobody holds the other end
            mov x0, #3
            mov x1, sp
            mov x2, #1
            svc #0
            cmp x0, #0
            b.gt wait
            mov x8, #94                 // exit_group(0)
            mov x0, #0
            svc #0
        ignore: .quad 1, 0, 0, 0
        name: .asciz "sandbox-init"
        proc: .asciz "proc"
        here: .asciz "."
        root: .asciz "/"
        """,
        "e81480d2e00180d2a1050010010000d4c81080d2200280d221040010020080d2030180d2010000d4080580"
        "d2e0040030e1040050e20300aac30180d2040080d2010000d4e00f1ff8280680d220040010010000d40808"
        "80d2800080d2e1030091020180d2010000d4280780d2800080d2010000d4e80780d2600080d2e103009122"
        "0080d2010000d41f0000f14cffff54c80b80d2000080d2010000d401000000000000000000000000000000"
        "0000000000000000000000000000000073616e64626f782d696e69740070726f63002e002f00",
    ),
}

_LIFE = {"x86_64": ("bf03000000", "bf%02x000000"), "aarch64": ("600080d2", "%02x0080d2")}
"""The instruction that says which descriptor is read: `mov $3, %edi` and `mov x0, #3`."""


def image(machine: str, life: int = LIFE) -> bytes:
    """The file that is executed.

    `life` is the descriptor that it reads from, where it can't be the usual one: 0 or 3.

    Raises OSError(ENOSYS) on a machine for which there is none.
    """
    code = machine_code.of(MACHINES, machine)
    if life != LIFE:
        before, after = _LIFE[machine]
        code = code.replace(bytes.fromhex(before), bytes.fromhex(after % life))
    return machine_code.executable(machine, code)


@functools.cache
def program() -> int:
    """The descriptor of one such file, for all containers that the caller makes."""
    return new_program()


def new_program() -> int:
    """A descriptor of the sealed memory file, which is read-only and nobody's to read.

    It can be executed and not read, so a process of it is not dumpable: /proc/1 is closed to all
    but who holds CAP_SYS_PTRACE in the user namespace that the file was made in.
    Raises OSError.
    """
    return machine_code.sealed("sandbox-init", image(os.uname().machine), 0o111)
