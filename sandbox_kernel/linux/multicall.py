"""A list of system calls that the kernel is given one after another, with no Python in between.

To lay out a container takes two hundred system calls, most of them of a microsecond or two, and
Python takes longer to ask for one than the kernel to do it. Here they are written down once
(`Calls`), with what each takes of the results of others and how to go on when it fails, and done as
often as wanted. A page of machine code does them (the idea is that of Xen's multicalls); on a
machine for which there is none Python does, one by one.

    calls = Calls()
    root = calls.given()
    with calls.step("make", "/run"):
        calls.call("mkdirat", root, b"run", 0o755, passing=(errno.EEXIST,))
    calls.run({root: descriptor})

A call that fails ends the list, with an error that names its step, unless its errno is one that it
passes: then `instead` says where to go on. Sources: syscall(2), and the calling conventions there.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import struct

from sandbox_kernel.errors import StepFailed
from sandbox_kernel.linux import libc as c
from sandbox_kernel.linux import machine_code
from sandbox_kernel.linux.machine_code import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import NamedTuple, NoReturn, TypedDict

    File = tuple["Buffer", "Cell"]
    """What was read of one, and how much."""

    class Ways(TypedDict, total=False):
        """How the list goes on after a call, and where the result goes: see `Calls.call`."""

        passing: tuple[int, ...]
        instead: Label | None
        then: Label | None
        into: Cell | None
        why: str | None

    class _Call(NamedTuple):
        number: int
        arguments: tuple[int | bytes | Cell | Buffer | None, ...]
        result: Cell
        passing: tuple[int, ...]
        instead: Label | None
        then: Label | None
        step: tuple[str, str]
        why: str | None
        written: int | None
else:
    from collections import namedtuple

    _Call = namedtuple("_Call", "number arguments result passing instead then step why written")

# Words of a record: the number of the call, six arguments, which of these are addresses of cells
# (bits), the address of the cell of the result, two results that are passed (minus an errno; 0:
# none), how far it is to the next record when one of these was the result, and when the call
# succeeded, and the result once more. A number below 0 is the end.
WORDS = 14
SIZE = 8 * WORDS
END = -1
_RECORD = struct.Struct("=14q")
_WORD = struct.Struct("=q")
MOST_ARGUMENTS, MOST_PASSED = 6, 2

# A test assembles the text and compares. 4095 is the highest errno (include/linux/err.h).
MACHINES = {
    "x86_64": Program(
        """
        .globl run
        run:                            # rdi: the first record; returns 0, or the one that failed
            push %rbx
            push %r12
            mov %rdi, %rbx
        next:
            mov (%rbx), %rax
            test %rax, %rax
            js end
            mov 56(%rbx), %r12
            mov 8(%rbx), %rdi
            mov 16(%rbx), %rsi
            mov 24(%rbx), %rdx
            mov 32(%rbx), %r10
            mov 40(%rbx), %r8
            mov 48(%rbx), %r9
            test $1, %r12b
            jz 1f
            mov (%rdi), %rdi
        1:  test $2, %r12b
            jz 1f
            mov (%rsi), %rsi
        1:  test $4, %r12b
            jz 1f
            mov (%rdx), %rdx
        1:  test $8, %r12b
            jz 1f
            mov (%r10), %r10
        1:  test $16, %r12b
            jz 1f
            mov (%r8), %r8
        1:  test $32, %r12b
            jz 1f
            mov (%r9), %r9
        1:  syscall
            mov %rax, 104(%rbx)
            mov 64(%rbx), %rcx
            mov %rax, (%rcx)
            cmp $-4095, %rax
            jae failed
            add 96(%rbx), %rbx
            jmp next
        failed:
            cmp 72(%rbx), %rax
            je passed
            cmp 80(%rbx), %rax
            je passed
            mov %rbx, %rax
            jmp out
        passed:
            add 88(%rbx), %rbx
            jmp next
        end:
            xor %eax, %eax
        out:
            pop %r12
            pop %rbx
            ret
        """,
        "5341544889fb488b034885c00f88870000004c8b6338488b7b08488b7310488b53184c8b53204c8b4328"
        "4c8b4b3041f6c4017403488b3f41f6c4027403488b3641f6c4047403488b1241f6c40874034d8b1241f6"
        "c41074034d8b0041f6c42074034d8b090f0548894368488b4b40488901483d01f0ffff730648035b60eb"
        "87483b4348740b483b435074054889d8eb0b48035b58e96dffffff31c0415c5bc3",
    ),
    "aarch64": Program(
        """
        .globl run
        run:                            // x0: the first record; returns 0, or the one that failed
            mov x9, x0
        next:
            ldr x8, [x9]
            tbnz x8, #63, end
            ldp x0, x1, [x9, #8]
            ldp x2, x3, [x9, #24]
            ldp x4, x5, [x9, #40]
            ldr x10, [x9, #56]
            tbz x10, #0, 1f
            ldr x0, [x0]
        1:  tbz x10, #1, 1f
            ldr x1, [x1]
        1:  tbz x10, #2, 1f
            ldr x2, [x2]
        1:  tbz x10, #3, 1f
            ldr x3, [x3]
        1:  tbz x10, #4, 1f
            ldr x4, [x4]
        1:  tbz x10, #5, 1f
            ldr x5, [x5]
        1:  svc #0
            str x0, [x9, #104]
            ldr x10, [x9, #64]
            str x0, [x10]
            cmn x0, #4095
            b.hs failed
            ldr x10, [x9, #96]
            add x9, x9, x10
            b next
        failed:
            ldp x10, x11, [x9, #72]
            cmp x0, x10
            b.eq passed
            cmp x0, x11
            b.eq passed
            mov x0, x9
            ret
        passed:
            ldr x10, [x9, #88]
            add x9, x9, x10
            b next
        end:
            mov x0, #0
            ret
        """,
        "e90300aa280140f98804f8b7208540a9228d41a9249542a92a1d40f94a000036000040f94a0008362100"
        "40f94a001036420040f94a001836630040f94a002036840040f94a002836a50040f9010000d4203500f9"
        "2a2140f9400100f91ffc3fb1820000542a3140f929010a8be6ffff172aad44a91f000aeba00000541f00"
        "0beb60000054e00309aac0035fd62a2d40f929010a8bdcffff17000080d2c0035fd6",
    ),
}


class Cell:
    """A number that is known when the calls are done: given to them, or the result of one."""

    __slots__ = ("offset",)

    def __init__(self, offset: int) -> None:
        self.offset = offset


class Buffer:
    """Memory that a call writes to; of `size` bytes, which begin as `content` each time."""

    __slots__ = ("content", "place", "size")

    def __init__(self, size: int, content: bytes) -> None:
        self.size = size
        self.content = content
        self.place = 0


class Label:
    """A place among the calls, see `Calls.here`."""

    __slots__ = ("index",)

    def __init__(self) -> None:
        self.index: int | None = None


class Calls:
    """System calls to do one after another, as often as wanted.

    No two threads may do the same ones at once: the results are kept in them.
    """

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._cells = 0
        self._buffers: list[Buffer] = []
        self._step = ("do", "system calls")
        self._memory: bytearray | None = None
        self._fresh = b""
        self._address = self._start = 0
        self._writing: list[tuple[int, int]] = []
        """Which calls have to write how many bytes."""
        self._steps: list[tuple[tuple[str, str], str | None]] = []
        """Of each call its step, and what an error says of it."""

    # --- writing them down

    def given(self) -> Cell:
        """A number that `run` is given."""
        self._cells += 1
        return Cell(_WORD.size * (self._cells - 1))

    def buffer(self, size: int, content: bytes = b"") -> Buffer:
        """Room for what a call answers; `data` has it afterwards."""
        made = Buffer(size, content)
        self._buffers.append(made)
        return made

    def step(self, verb: str, subject: str) -> _Step:
        """What the calls written down in this block do, for an error: ("mount", "/proc")."""
        return _Step(self, (verb, subject))

    def call(
        self,
        name: str | int,
        *arguments: int | bytes | Cell | Buffer | None,
        passing: tuple[int, ...] = (),
        instead: Label | None = None,
        then: Label | None = None,
        into: Cell | None = None,
        why: str | None = None,
        written: int | None = None,
    ) -> Cell:
        """Add one; the answer is the cell of its result, `into` if that is given.

        Bytes are passed by address, with a 0 behind them. `passing` are at most two errnos with
        which the list goes on, at `instead` or at the next call. After success it goes on at `then`
        or at the next call. `why` is what an error says in place of the errno's meaning, and
        `written` a result that has to come: fewer bytes are an error, no space left.
        Raises OSError(ENOSYS) when this machine's number of the call is not known.
        """
        assert self._memory is None  # they are added before the first `run`
        number = c.number(name) if isinstance(name, str) else name
        result = into or self.given()
        self._calls.append(
            _Call(number, arguments, result, passing, instead, then, self._step, why, written)
        )
        return result

    def label(self) -> Label:
        """A place to go on at; `here` says where it is."""
        return Label()

    def close(self, descriptor: Cell | int) -> None:
        """Add the closing of a descriptor."""
        self.call("close", descriptor)

    def file(
        self, place: Cell | int, name: str, room: int, *, may_be_missing: bool = False
    ) -> File:
        """Add the reading of a file of the kernel below a folder; `said` has it afterwards."""
        text, size, end = self.buffer(room), self.given(), self.label()
        file = self.call(
            "openat", place, name.encode(), os.O_RDONLY | os.O_CLOEXEC,
            passing=(errno.ENOENT,) if may_be_missing else (), instead=end,
        )  # fmt: skip
        self.call("read", file, text, room, into=size)
        self.close(file)
        self.here(end)
        return text, size

    def here(self, label: Label) -> None:
        """The place of a label is before the next call that is added."""
        label.index = len(self._calls)

    # --- doing them

    def run(self, given: Mapping[Cell, int] | None = None) -> None:
        """Do them, with these numbers in cells.

        Raises StepFailed; what a list that failed has opened itself is closed again.
        """
        if self._memory is None:
            self._write_down()
        memory = self._memory
        assert memory is not None
        memory[:] = self._fresh
        for cell, value in (given or {}).items():
            _WORD.pack_into(memory, self._start + cell.offset, value)
        stopped = _runner()(self._address)
        if stopped:
            self._fail((stopped - self._address) // SIZE, given or {})
        for index, written in self._writing:
            if self._record(SIZE * index)[-1] < written:
                step, _ = self._steps[index]
                raise StepFailed(*step, os.strerror(errno.ENOSPC), errno.ENOSPC)

    def result(self, cell: Cell) -> int:
        """What is in a cell after the last `run`."""
        assert self._memory is not None
        value: int = _WORD.unpack_from(self._memory, self._start + cell.offset)[0]
        return value

    def said(self, file: File) -> bytes:
        """What was in a file at the last `run`, as far as there was room; nothing if it was not
        there."""
        text, size = file
        return self.data(text, self.result(size))

    def data(self, buffer: Buffer, size: int) -> bytes:
        """So much of what is in a buffer after the last `run`."""
        assert self._memory is not None
        return bytes(self._memory[buffer.place : buffer.place + size])

    def _write_down(self) -> None:
        """The records, the cells and the bytes, in memory that stays where it is."""
        self._start = SIZE * (len(self._calls) + 1)
        texts = self._start + _WORD.size * self._cells
        places: dict[bytes, int] = {}
        size = texts
        for call in self._calls:
            for argument in call.arguments:
                if isinstance(argument, bytes) and argument not in places:
                    places[argument] = size
                    size += -(-(len(argument) + 1) // _WORD.size) * _WORD.size
        for buffer in self._buffers:
            buffer.place = size
            size += -(-buffer.size // _WORD.size) * _WORD.size
        memory = bytearray(size)
        address = c.addressof(c.c_ubyte.from_buffer(memory))
        for text, place in places.items():
            memory[place : place + len(text)] = text
        for buffer in self._buffers:
            memory[buffer.place : buffer.place + len(buffer.content)] = buffer.content
        for index, call in enumerate(self._calls):
            words, indirect = [], 0
            for position, argument in enumerate(call.arguments):
                if isinstance(argument, Cell):
                    indirect |= 1 << position
                    words.append(address + self._start + argument.offset)
                elif isinstance(argument, bytes):
                    words.append(address + places[argument])
                elif isinstance(argument, Buffer):
                    words.append(address + argument.place)
                else:
                    words.append(argument or 0)
            words += [0] * (MOST_ARGUMENTS - len(words))
            passing = [-number for number in call.passing]
            passing += [0] * (MOST_PASSED - len(passing))
            _RECORD.pack_into(
                memory, SIZE * index, call.number, *words, indirect,
                address + self._start + call.result.offset, *passing,
                SIZE * (self._next(call.instead, index) - index),
                SIZE * (self._next(call.then, index) - index), 0,
            )  # fmt: skip
        _WORD.pack_into(memory, SIZE * len(self._calls), END)
        self._writing = [(i, call.written) for i, call in enumerate(self._calls) if call.written]
        self._steps = [(call.step, call.why) for call in self._calls]
        self._calls, self._buffers = [], []  # what is needed of them is in the memory
        self._memory, self._fresh, self._address = memory, bytes(memory), address

    def _next(self, label: Label | None, index: int) -> int:
        if label is None:
            return index + 1
        if label.index is None:
            raise ValueError("a label that is nowhere")
        return label.index

    def _fail(self, failed: int, given: Mapping[Cell, int]) -> NoReturn:
        """Go the same way again, to see what is open, and close it."""
        values = {self._address + self._start + cell.offset: given[cell] for cell in given}
        opened: set[int] = set()
        place = 0
        while place != SIZE * failed:
            number, *words, result = self._record(place)
            descriptor, command = words[0], words[1]
            indirect, cell = words[MOST_ARGUMENTS : MOST_ARGUMENTS + 2]
            instead, then = words[-2:]
            values[cell] = result
            if result < 0:
                place += instead
                continue
            copies = number == c.number("fcntl") and command == fcntl.F_DUPFD_CLOEXEC
            if number in _opening() or copies:
                opened.add(result)
            elif number == c.number("close"):
                opened.discard(values[descriptor] if indirect & 1 else descriptor)
            place += then
        for descriptor in opened:
            os.close(descriptor)
        errno_of_it = -self._record(place)[-1]
        (step, why) = self._steps[failed]
        raise StepFailed(*step, why or os.strerror(errno_of_it), errno_of_it)

    def _record(self, place: int) -> tuple[int, ...]:
        assert self._memory is not None
        return _RECORD.unpack_from(self._memory, place)


class _Step:
    """The block of `Calls.step`."""

    __slots__ = ("_before", "_calls", "_step")

    def __init__(self, calls: Calls, step: tuple[str, str]) -> None:
        self._calls = calls
        self._step = step

    def __enter__(self) -> None:
        self._before = self._calls._step
        self._calls._step = self._step

    def __exit__(self, *_: object) -> None:
        self._calls._step = self._before


@functools.cache
def _opening() -> frozenset[int]:
    """The calls whose result is a new descriptor."""
    older = (c.number(name) for name in ("openat", "socket"))
    return frozenset((*older, c.OPEN_TREE, c.FSOPEN, c.FSPICK, c.FSMOUNT, c.OPENAT2))


@functools.cache
def _runner() -> Callable[[int], int]:
    """The function that does the records at an address: 0, or the address of the one that failed.

    Its page can be executed and not written to: what it is made of is sealed.
    """
    if c.MACHINE not in MACHINES:
        return one_by_one
    code = machine_code.of(MACHINES, c.MACHINE)
    file = machine_code.sealed("multicall", code, 0o500)
    try:
        return c.function_at(c.executable_memory(file, len(code)))
    finally:
        os.close(file)


def one_by_one(address: int) -> int:
    """What the machine code does, by calls of the C library: for machines that have none."""
    while True:
        number, *words = _RECORD.unpack(c.read_memory(address, SIZE))
        if number < 0:
            return 0
        arguments = words[:MOST_ARGUMENTS]
        indirect, cell, first, second, instead, then, _ = words[MOST_ARGUMENTS:]
        for position in range(MOST_ARGUMENTS):
            if indirect >> position & 1:
                (arguments[position],) = _WORD.unpack(c.read_memory(arguments[position], 8))
        try:
            result = c.syscall(number, *arguments)
        except OSError as error:
            result = -(error.errno or errno.EINVAL)
        c.write_memory(address + _RECORD.size - _WORD.size, _WORD.pack(result))
        c.write_memory(cell, _WORD.pack(result))
        if result >= 0:
            address += then
        elif result in (first, second):
            address += instead
        else:
            return address
