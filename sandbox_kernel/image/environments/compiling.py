"""Compiles source of packages in a process that can do nothing else: not open, start or reach.

The source is a stranger's, and a compiler is a large program. So it runs in a child with two pipes
and a filter that leaves it reading, writing and memory. What comes back is byte code, which is
written down and never loaded here. A child that ends over a file, or takes too long, is replaced.
"""

from __future__ import annotations

import errno
import importlib.util
import marshal
import os
import resource
import signal
import struct
import sys
import warnings
from typing import NoReturn

from sandbox_kernel.linux import seccomp, seccomp_cache, seccomp_install, waiting, writing

MOST_SOURCE = 4 << 20
MOST_CODE = 64 << 20
MOST_MEMORY = 2 << 30
SECONDS = 60.0
"""For one file; the largest of the usual packages takes less than one."""
UNCHECKED = 0b01
CALLS = (
    "read write mmap munmap mremap mprotect brk madvise futex getrandom clock_gettime "
    "rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack restart_syscall exit exit_group"
)
_SIZES = struct.Struct("<QQ")


class Compiler:
    """One child at a time; a context manager. For processes with one thread."""

    def __init__(self) -> None:
        profile: seccomp.Profile = {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": errno.EPERM,
            "syscalls": [{"names": CALLS.split(), "action": "SCMP_ACT_ALLOW"}],
        }
        self._filter = seccomp_cache.program(profile)
        self._pid = -1

    def __enter__(self) -> Compiler:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def compile(self, text: bytes, name: str) -> bytes | None:
        """A `.pyc` of the source; None where it is no Python of this version, or can't be had."""
        if len(text) > MOST_SOURCE:
            return None
        if self._pid < 0:
            self._start()
        try:
            encoded = name.encode()
            writing.whole(self._to, _SIZES.pack(len(encoded), len(text)) + encoded + text)
            (size, _) = _SIZES.unpack(_read(self._from, _SIZES.size, SECONDS))
            if size > MOST_CODE:
                raise EOFError
            return _read(self._from, size, SECONDS) or None
        except (EOFError, BrokenPipeError):
            self._end()
            return None

    def _start(self) -> None:
        theirs, self._to = os.pipe2(os.O_CLOEXEC)
        self._from, answers = os.pipe2(os.O_CLOEXEC)
        self._pid = os.fork()
        if self._pid == 0:
            _be_child(theirs, answers, self._filter)
        os.close(theirs)
        os.close(answers)

    def _end(self) -> None:
        if self._pid < 0:
            return
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._to)
        os.close(self._from)
        self._pid = -1


def _be_child(source: int, answers: int, program: bytes) -> NoReturn:
    """Whatever happens, the child never goes on as its parent."""
    status = 1
    try:
        os.dup2(source, 0)
        os.dup2(answers, 1)
        os.closerange(2, 1 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        warnings.simplefilter("ignore")
        sys.setrecursionlimit(2000)
        seccomp_install.install(program)
        while True:
            name_size, size = _SIZES.unpack(_read(0, _SIZES.size))
            name = _read(0, name_size).decode()
            code = _compiled(_read(0, size), name)
            writing.whole(1, _SIZES.pack(len(code), 0) + code)
    except EOFError:
        status = 0
    finally:
        os._exit(status)


def _compiled(text: bytes, name: str) -> bytes:
    """PEP 552: the source need not be looked at again. Empty where it does not compile."""
    try:
        code = compile(text, name, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        return b""
    magic, flags = importlib.util.MAGIC_NUMBER, UNCHECKED.to_bytes(4, "little")
    return b"".join((magic, flags, importlib.util.source_hash(text), marshal.dumps(code)))


def _read(descriptor: int, size: int, seconds: float | None = None) -> bytes:
    """So many bytes. Raises EOFError at the end, and when they take too long."""
    found = bytearray()
    while len(found) < size:
        if seconds is not None and not waiting.readable(descriptor, seconds):
            raise EOFError
        data = os.read(descriptor, min(size - len(found), 1 << 20))
        if not data:
            raise EOFError
        found += data
    return bytes(found)
