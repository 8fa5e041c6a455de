"""The quick way into the command line: its modules out of one file, and no tidying at the end.

Python looks for a module in several folders, opens its byte code, and reads that: for each of
thirty. The store has all that the command needed before in one file, in the folder of Python's own
byte code, and is believed as that is: who may write there may change the program anyway. A module
is taken from it only while its source is what it was; any other is imported as ever, and stored
when the command is over.
"""

from __future__ import annotations

import gc
import marshal
import os
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import MAGIC_NUMBER, SourceFileLoader
from _imp import source_hash

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader
    from types import CodeType, ModuleType
    from typing import NoReturn

    Stamp = tuple[int, int, int, int]
    # Of each module by its name: whether it is a package, what its source was, its byte code.
    Stored = dict[str, tuple[bool, Stamp, bytes]]
else:
    Loader = object  # no other method of it is called, and it is slow to import

FOLDER = os.path.dirname(os.path.abspath(__file__))
PACKAGE = __name__.partition(".")[0]
PATH = f"{FOLDER}/__pycache__/entry.{sys.implementation.cache_tag}.stored"
_KEY = 0x6F6369  # of the hash, which finds damage and not malice


def command(argv: Sequence[str] | None = None) -> NoReturn:
    """`main.main`, and the end of this process, which has nothing else to do."""
    gc.disable()
    store = Store(PATH)
    sys.meta_path.insert(0, store)
    from sandbox_kernel.oci.main import main

    status = main(argv)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        status = status or 1  # nobody reads what we have to say
    store.keep()
    os._exit(status)  # what Python would tear down ends with the process


class Store(Loader):
    """A finder and loader of modules (PEP 451) that has them in one file."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._stored = _read(path)
        self._missed: list[str] = []

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Where a module comes from; None: not from here, or no more, as its source changed."""
        if not name.startswith(f"{PACKAGE}."):
            return None
        if found := self._stored.get(name):
            package, stamp, _ = found
            source = _source(name, package=package)
            if _stamp(source) == stamp:
                spec = ModuleSpec(name, self, origin=source, is_package=package)
                spec.has_location = True
                if package:
                    spec.submodule_search_locations = [os.path.dirname(source)]
                return spec
        self._missed.append(name)
        return None

    def create_module(self, spec: ModuleSpec) -> None:
        """Python makes it."""

    def exec_module(self, module: ModuleType) -> None:
        """Run its byte code."""
        code: CodeType = marshal.loads(self._stored[module.__name__][2])  # noqa: S302 - see above
        exec(code, module.__dict__)  # noqa: S102 - this is what an import is

    def keep(self) -> None:
        """Store what had to be imported in another way. Who may not write here goes on without."""
        fresh = {name: found for name in self._missed if (found := _found(name))}
        if (
            fresh
            and not sys.dont_write_bytecode
            and os.access(os.path.dirname(self._path), os.W_OK)
        ):
            _write(self._path, {**self._stored, **fresh})


def _source(name: str, *, package: bool) -> str:
    below = name.partition(".")[2].replace(".", "/")
    return f"{os.path.dirname(FOLDER)}/{below}{'/__init__' if package else ''}.py"


def _stamp(source: str) -> Stamp | None:
    """What changes whenever a file is written or another one is put in its place."""
    try:
        seen = os.stat(source)
    except OSError:
        return None
    return seen.st_mtime_ns, seen.st_ctime_ns, seen.st_size, seen.st_ino


def _found(name: str) -> tuple[bool, Stamp, bytes] | None:
    """A module that was imported, as it is stored."""
    spec = getattr(sys.modules.get(name), "__spec__", None)
    if spec is None or not isinstance(spec.loader, SourceFileLoader):
        return None
    package = spec.submodule_search_locations is not None
    stamp = _stamp(_source(name, package=package))  # before its code is read, which may be newer
    code = spec.loader.get_code(name)
    return None if stamp is None or code is None else (package, stamp, marshal.dumps(code))


def _read(path: str) -> Stored:
    """What is stored; nothing of a file that is damaged, of another Python, or of somebody else."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return {}
    try:
        seen = os.fstat(file)
        if seen.st_uid not in (0, os.geteuid()) or seen.st_mode & 0o022:
            return {}
        data = os.read(file, seen.st_size)
    finally:
        os.close(file)
    head, body = data[: len(_head(b""))], data[len(_head(b"")) :]
    if head != _head(body):
        return {}
    stored: Stored = marshal.loads(body)  # noqa: S302 - see above
    return stored


def _head(body: bytes) -> bytes:
    return MAGIC_NUMBER + source_hash(_KEY, body)


def _write(path: str, stored: Stored) -> None:
    """Under another name first, so that it is whole or not there."""
    body = marshal.dumps(stored)
    temporary = f"{path}.{os.getpid()}"
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with open(os.open(temporary, flags, 0o644), "wb") as file:
            file.write(_head(body) + body)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except OSError:  # no space, a read-only file system: the command itself went well
        try:
            os.unlink(temporary)
        except OSError:
            pass  # it was not made
