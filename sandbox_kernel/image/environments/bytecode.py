"""Byte code of wheels, made once and in the background, so that imports need not compile.

A fresh container could keep none. It is made by a small process of its own, with no hurry, for the
version of Python that runs us, whose compiler that is; sources are compiled (see `compiling`) and
never run. It ends with the program that started it and goes on where it was the next time. Files
say that the source need not be looked at (PEP 552, unchecked), since a tree never changes.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence

from sandbox_kernel.image.environments import places
from sandbox_kernel.image.environments.compiling import MOST_SOURCE, Compiler
from sandbox_kernel.image.environments.python import Python
from sandbox_kernel.linux import waiting

NICE = 15
_START = "from sandbox_kernel.image.environments import bytecode; bytecode.main()"
_lock = threading.Lock()
_process: subprocess.Popen[bytes] | None = None


def trees(sources: Sequence[str], python: Python) -> list[str]:
    """The trees of byte code that belong to trees of wheels, if all are there; else none.

    What is missing is begun. There is none for another Python than ours.
    """
    if python.version != sys.version_info[:2] or sys.implementation.name != "cpython":
        return []
    paths = [_path(source) for source in sources]
    missing = [
        source for source, path in zip(sources, paths, strict=True) if not places.is_there(path)
    ]
    if missing:
        _begin(missing)
        return []
    return paths


def _path(source: str) -> str:
    name = f"{os.path.basename(source)}-{sys.implementation.cache_tag}"
    return os.path.join(places.folder("bytecode"), name)


def _begin(sources: Sequence[str]) -> None:
    global _process  # noqa: PLW0603 - one for this program
    with _lock:
        if _process is not None and _process.poll() is None:
            return
        _process = subprocess.Popen(
            [sys.executable, "-I", "-c", _START],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={
                name: os.environ[name]
                for name in ("HOME", "XDG_CACHE_HOME", places.VARIABLE)
                if name in os.environ
            },
            cwd="/",
        )
        assert _process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            _process.stdin.write(json.dumps(list(sources)).encode() + b"\n")
            _process.stdin.flush()  # and it stays open: its end says that we have ended


def wait() -> None:
    """Until what was begun is over; at once when nothing was."""
    with _lock:
        if _process is not None:
            _process.wait()


def end() -> None:
    """What was begun goes on another time; at once when nothing was."""
    with _lock:
        if _process is not None:
            assert _process.stdin is not None
            _process.stdin.close()
            _process.wait()


def main() -> None:
    """The process: compiles what it is told, until that is done or nobody is there any more."""
    os.nice(NICE)
    sources = json.loads(sys.stdin.buffer.readline() or b"[]")
    held = os.open(os.path.join(places.folder("bytecode"), "lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return  # another program's is at work
    with contextlib.suppress(FileNotFoundError, _NobodyIsThere), Compiler() as compiler:
        for source in sources:
            make(source, compiler)


class _NobodyIsThere(Exception):
    """The program that started us has ended."""


def make(source: str, compiler: Compiler) -> None:
    """The byte code of one tree; what an earlier process made of it is kept."""
    path = _path(source)
    partial = f"{path}.partial"
    if os.path.isdir(path):
        return
    places.make(partial)
    for name in _python_files(source):
        if waiting.readable(0):
            raise _NobodyIsThere
        folder, _, file = name.rpartition("/")
        target = f"{partial}{folder}/__pycache__/{file[:-3]}.{sys.implementation.cache_tag}.pyc"
        if os.path.exists(target):
            continue
        with open(f"{source}{name}", "rb", opener=_open_no_link) as text:
            code = compiler.compile(text.read(MOST_SOURCE + 1), name)
        if code is not None:
            places.make(os.path.dirname(target))
            with open(f"{target}.new", "wb") as out:
                out.write(code)
            os.rename(f"{target}.new", target)
    places.settle(partial)
    places.publish(partial, path)


def _open_no_link(path: str, flags: int) -> int:
    """A link in a package could lead to a file of this machine."""
    return os.open(path, flags | os.O_NOFOLLOW)


def _python_files(source: str) -> Iterator[str]:
    """Paths of files, and not of links, as the image has them."""
    for folder, folders, names in os.walk(source):
        folders.sort()
        for name in sorted(names):
            python = name.endswith(".py") and folder.find("/site-packages") > 0
            if python and not os.path.islink(os.path.join(folder, name)):
                yield f"{folder[len(source) :]}/{name}"
