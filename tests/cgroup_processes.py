"""Processes that do one thing to a control group when told to; for the tests of the drivers.

Run by hand it shows nothing: the tests start `/usr/bin/python3 cgroup_processes.py WHAT`, put the
process into a group, and write one line to its input.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandbox_kernel.runtime.cgroups.contract import Group

MIB = 1 << 20
SYSTEM_PYTHON = "/usr/bin/python3"
PTRACE_DETACH = 17
PTRACE_SEIZE = 0x4206
PTRACE_O_TRACEEXIT = 1 << 6
"""linux/ptrace.h"""


@contextmanager
def process(what: str, *, start: bool = True) -> Iterator[subprocess.Popen[str]]:
    """A process that waits for `go` before it does `what`, and is ended with the block."""
    child = subprocess.Popen(
        [SYSTEM_PYTHON, "-I", __file__, what],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        yield child
    finally:
        child.kill()
        child.communicate()


def join(group: Group, pid: int) -> None:
    """Move a process of one thread into a group; what it does itself by writing 0."""
    for entrance in group.entrances():
        os.write(entrance, str(pid).encode())
        os.close(entrance)


def go(child: subprocess.Popen[str]) -> None:
    """Let a process that is in its group now do what it was started for."""
    assert child.stdin is not None
    child.stdin.write("go\n")
    child.stdin.flush()


def answer(child: subprocess.Popen[str]) -> str:
    """The next line that the process says; empty when it ended."""
    assert child.stdout is not None
    return child.stdout.readline().strip()


def hold_before_its_end(pid: int) -> None:
    """Be its debugger, so that it stops on its way out until it is let go (ptrace(2))."""
    _ptrace(PTRACE_SEIZE, pid, PTRACE_O_TRACEEXIT)


def let_go(pid: int) -> None:
    """The end of a process that stands before it."""
    os.waitpid(pid, 0)
    _ptrace(PTRACE_DETACH, pid, 0)


def _ptrace(request: int, pid: int, data: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.ptrace(ctypes.c_long(request), pid, None, ctypes.c_void_p(data)):
        raise OSError(ctypes.get_errno(), "ptrace")


def eat_memory() -> None:
    """Touch memory for ever."""
    eaten = []
    while True:
        eaten.append(bytearray(b"x" * MIB))


def hold_memory() -> None:
    """Touch 32 MiB, say so, keep it."""
    held = bytearray(b"x") * (32 * MIB)
    print("held", flush=True)
    sys.stdin.read()
    del held


def fork_children() -> None:
    """Fork until it is refused; say how many there are."""
    children = 0
    while True:
        try:
            if os.fork() == 0:
                time.sleep(600)
        except OSError:
            break
        children += 1
    print(children, flush=True)
    time.sleep(600)


def fork_bomb() -> None:
    """Fork for ever, from every child, each in a session of its own."""
    print("bombing", flush=True)
    while True:
        try:
            if os.fork() == 0:
                os.setsid()
        except OSError:
            continue


def spin() -> None:
    """Use the CPU for one second of wall time."""
    _work(time.monotonic, 1)


def compute() -> None:
    """Use the CPU for 0.6 seconds, however long that takes."""
    _work(time.process_time, 0.6)


def _work(clock: Callable[[], float], seconds: float) -> None:
    end = clock() + seconds
    while clock() < end:
        pass
    print("spun", flush=True)
    sys.stdin.read()


def rest() -> None:
    """Do nothing until the input closes."""
    sys.stdin.read()


if __name__ == "__main__":
    print("ready", flush=True)
    sys.stdin.readline()
    globals()[sys.argv[1]]()
