"""The program that a stub becomes when its relay is there: machine code in place of a Python.

A kernel has one such process for as long as it lives (see `kernel.stub`). It passes the numbers of
SIGINT and SIGTERM on over a socket, a byte each, and ends as the other side says: `e` and a byte,
the status; with 1 when that ends without a word. Both signals are blocked when it starts: what has
come by then is passed on first.

Sources: signalfd(2), ppoll(2), recv(2), send(2); numbers of the calls as in `libc`.
"""

from __future__ import annotations

import os

from sandbox_kernel.linux import machine_code
from sandbox_kernel.linux.machine_code import Program

# A test assembles the text and compares. `channel` stands at the end, and is put in.
MACHINES = {
    "x86_64": Program(
        """
        .globl _start
        _start:
            mov $157, %eax              # prctl(PR_SET_NAME, name)
            mov $15, %edi
            lea name(%rip), %rsi
            syscall
            mov $289, %eax              # signalfd4(-1, signals, 8, SFD_CLOEXEC)
            mov $-1, %edi
            lea signals(%rip), %rsi
            mov $8, %edx
            mov $0x80000, %r10d
            syscall
            test %rax, %rax
            js lost
            mov %eax, %r12d
            mov channel(%rip), %r13d
            sub $256, %rsp
            mov %r13d, (%rsp)           # struct pollfd: the channel, POLLIN
            movl $1, 4(%rsp)
            mov %r12d, 8(%rsp)          # and the signals
            movl $1, 12(%rsp)
        wait:
            mov $271, %eax              # ppoll(both, 2, 0, 0, 8)
            mov %rsp, %rdi
            mov $2, %esi
            xor %edx, %edx
            xor %r10d, %r10d
            mov $8, %r8d
            syscall
            test %rax, %rax
            jle wait
            cmpw $0, 14(%rsp)
            je answer
            xor %eax, %eax              # read(signals, struct signalfd_siginfo, 128)
            mov %r12d, %edi
            lea 16(%rsp), %rsi
            mov $128, %edx
            syscall
            test %rax, %rax
            jle answer
            mov $44, %eax               # sendto(channel, its number, 1, MSG_DONTWAIT|MSG_NOSIGNAL)
            mov %r13d, %edi
            lea 16(%rsp), %rsi
            mov $1, %edx
            mov $0x4040, %r10d
            xor %r8d, %r8d
            xor %r9d, %r9d
            syscall
        answer:
            cmpw $0, 6(%rsp)
            je wait
            mov $45, %eax               # recvfrom(channel, two bytes, MSG_WAITALL)
            mov %r13d, %edi
            lea 16(%rsp), %rsi
            mov $2, %edx
            mov $0x100, %r10d
            xor %r8d, %r8d
            xor %r9d, %r9d
            syscall
            cmp $2, %rax
            jne lost
            cmpb $101, 16(%rsp)         # `e`
            jne lost
            movzbl 17(%rsp), %edi       # and the status
            jmp end
        lost:
            mov $1, %edi
        end:
            mov $231, %eax              # exit_group(status)
            syscall
        name: .asciz "sandbox-stub"
            .balign 8
        signals: .quad 0x4002           # SIGINT and SIGTERM
        channel: .quad 3
        """,
        "b89d000000bf0f000000488d35f80000000f05b821010000bfffffffff488d35f4000000ba0800000041ba"
        "000008000f054885c00f88c30000004189c4448b2ddc0000004881ec0001000044892c24c7442404010000"
        "004489642408c744240c01000000b80f0100004889e7be0200000031d24531d241b8080000000f054885c0"
        "7ee166837c240e00743631c04489e7488d742410ba800000000f054885c07e20b82c0000004489ef488d74"
        "2410ba0100000041ba404000004531c04531c90f0566837c240600749bb82d0000004489ef488d742410ba"
        "0200000041ba000100004531c04531c90f054883f802750e807c24106575070fb67c2411eb05bf01000000"
        "b8e70000000f0573616e64626f782d7374756200669002400000000000000300000000000000",
    ),
    "aarch64": Program(
        """
        .globl _start
        _start:
            mov x8, #167                // prctl(PR_SET_NAME, name)
            mov x0, #15
            adr x1, name
            svc #0
            mov x8, #74                 // signalfd4(-1, signals, 8, SFD_CLOEXEC)
            mov x0, #-1
            adr x1, signals
            mov x2, #8
            mov x3, #0x80000
            svc #0
            cmp x0, #0
            b.lt lost
            mov x19, x0
            adr x1, channel
            ldr w20, [x1]
            sub sp, sp, #256
            mov w2, #1
            str w20, [sp]               // struct pollfd: the channel, POLLIN
            str w2, [sp, #4]
            str w19, [sp, #8]           // and the signals
            str w2, [sp, #12]
        wait:
            mov x8, #73                 // ppoll(both, 2, 0, 0, 8)
            mov x0, sp
            mov x1, #2
            mov x2, #0
            mov x3, #0
            mov x4, #8
            svc #0
            cmp x0, #0
            b.le wait
            ldrh w2, [sp, #14]
            cbz w2, answer
            mov x8, #63                 // read(signals, struct signalfd_siginfo, 128)
            mov x0, x19
            add x1, sp, #16
            mov x2, #128
            svc #0
            cmp x0, #0
            b.le answer
            mov x8, #206                // sendto(channel, its number, 1, MSG_DONTWAIT|MSG_NOSIGNAL)
            mov x0, x20
            add x1, sp, #16
            mov x2, #1
            mov x3, #0x4040
            mov x4, #0
            mov x5, #0
            svc #0
        answer:
            ldrh w2, [sp, #6]
            cbz w2, wait
            mov x8, #207                // recvfrom(channel, two bytes, MSG_WAITALL)
            mov x0, x20
            add x1, sp, #16
            mov x2, #2
            mov x3, #0x100
            mov x4, #0
            mov x5, #0
            svc #0
            cmp x0, #2
            b.ne lost
            ldrb w1, [sp, #16]
            cmp w1, #101                // `e`
            b.ne lost
            ldrb w0, [sp, #17]          // and the status
            b end
        lost:
            mov x0, #1
        end:
            mov x8, #94                 // exit_group(status)
            svc #0
        name: .asciz "sandbox-stub"
            .balign 8
        signals: .quad 0x4002           // SIGINT and SIGTERM
        channel: .quad 3
        """,
        "e81480d2e00180d221080010010000d4480980d20000809241080010020180d20301a0d2010000d41f0000"
        "f1ab060054f30300aaa1070010340040b9ff0304d122008052f40300b9e20700b9f30b00b9e20f00b92809"
        "80d2e0030091410080d2020080d2030080d2040180d2010000d41f0000f10dffff54e21f407902020034e8"
        "0780d2e00313aae1430091021080d2010000d41f0000f12d010054c81980d2e00314aae1430091220080d2"
        "030888d2040080d2050080d2010000d4e20f4079a2fcff34e81980d2e00314aae1430091420080d2032080"
        "d2040080d2050080d2010000d41f0800f1c1000054e14340393f94017161000054e0474039020000142000"
        "80d2c80b80d2010000d473616e64626f782d73747562000000001f2003d502400000000000000300000000"
        "000000",
    ),
}


def image(machine: str, channel: int) -> bytes:
    """The file that is executed; the socket has this number.

    Raises OSError(ENOSYS) on a machine for which there is none.
    """
    code = machine_code.of(MACHINES, machine)
    return machine_code.executable(machine, code[:-8] + channel.to_bytes(8, "little"))


def new_program(channel: int) -> int:
    """A descriptor of the sealed memory file. Raises OSError."""
    return machine_code.sealed("sandbox-stub", image(os.uname().machine, channel), 0o555)
