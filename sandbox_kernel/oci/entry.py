"""The quick way into the command line: its modules out of one file, and no tidying at the end.

Python looks for a module in several folders, opens its byte code, and reads that, thirty times for
a `run`. Here all are in one file, in the order in which Python was done with them, in the folder of
Python's own byte code; and it is believed as that is: who may write there may change the program
anyway. It is used while each of the sources is what it was. Else they are imported as ever, and the
file is made anew when the command is over.
"""

from __future__ import annotations

import gc
import marshal
import os
import stat
import sys
from _frozen_importlib_external import MAGIC_NUMBER, PathFinder, SourceFileLoader
from _imp import source_hash

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import CodeType, ModuleType
    from typing import NoReturn

    Stamp = tuple[int, int, int, int]
    # Of each module its name, its source below `_ROOT`, what that was, is it a package, its code.
    Stored = list[tuple[str, str, Stamp, bool, CodeType]]

_HERE = os.path.dirname(os.path.abspath(__file__))
_ROOT = os.path.dirname(os.path.dirname(_HERE))
PATH = f"{_HERE}/__pycache__/entry.{sys.implementation.cache_tag}.modules"
_ABOVE = __name__.partition(".")[0]
_KEY = 0x6F6369  # of the hash, which finds damage and not malice


def command(argv: Sequence[str] | None = None) -> NoReturn:
    """`main.main`, and the end of this process, which has nothing else to do."""
    gc.disable()
    noted = None if _take(PATH) else _Noting()
    if noted is not None:
        sys.meta_path.insert(0, noted)
    # All that `run` needs, with a filter of system calls.
    from sandbox_kernel.linux import seccomp_cache  # noqa: F401
    from sandbox_kernel.oci import creating, foreground, main, verbs  # noqa: F401

    if noted is not None:
        sys.meta_path.remove(noted)
    status = main.main(argv)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        status = status or 1  # nobody reads what we have to say
    if noted is not None and not sys.dont_write_bytecode:
        _keep(PATH, noted.loaders)
    os._exit(status)  # what Python would tear down ends with the process


def _take(path: str) -> bool:
    """Whether all modules were there, and are as their sources are now."""
    stored = _read(path)
    if not stored or any(_stamp(f"{_ROOT}/{below}") != stamp for _, below, stamp, _, _ in stored):
        return False
    for name, below, _, package, _ in stored:
        module = type(sys)(name)
        module.__file__ = f"{_ROOT}/{below}"
        if package:
            module.__path__ = [os.path.dirname(module.__file__)]
        sys.modules[name] = module
        above, _, last = name.rpartition(".")
        setattr(sys.modules[above], last, module)
    for name, _, _, _, code in stored:
        exec(code, sys.modules[name].__dict__)  # noqa: S102 - this is what an import is
    return True


def _read(path: str) -> Stored:
    """What is in the file; nothing if it is not to be believed.

    So is one of somebody else, one that others may write, of another Python, and a damaged one.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        seen = os.fstat(file)
        if not stat.S_ISREG(seen.st_mode) or seen.st_mode & 0o022:
            return []
        if seen.st_uid not in (0, os.geteuid()):
            return []
        head = os.read(file, len(_head(b"")))
        body = os.read(file, seen.st_size)
    finally:
        os.close(file)
    if head != _head(body):
        return []
    stored: Stored = marshal.loads(body)  # noqa: S302 - see above
    return stored


def _stamp(source: str) -> Stamp | None:
    """What changes whenever a file is written or another one is put in its place."""
    try:
        seen = os.stat(source)
    except OSError:
        return None
    return seen.st_mtime_ns, seen.st_ctime_ns, seen.st_size, seen.st_ino


def _head(body: bytes) -> bytes:
    return MAGIC_NUMBER + source_hash(_KEY, body)


class _Noting:
    """A finder (PEP 451) of what Python finds of this package, which notes when it is done."""

    def __init__(self) -> None:
        self.loaders: list[SourceFileLoader] = []

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Where a module comes from."""
        if not name.startswith(f"{_ABOVE}."):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader, self.loaders)
        return spec


class _Loader(SourceFileLoader):
    def __init__(self, found: SourceFileLoader, done: list[SourceFileLoader]) -> None:
        super().__init__(found.name, found.path)
        self._done = done

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        self._done.append(self)


def _compiled(text: bytes, source: str) -> CodeType:
    """Its code, without what nobody reads there: documentation, and what was asked of the compiler.

    That is a sixth of it, and `__future__` a module more to import.
    """
    import __future__

    import ast

    tree = ast.parse(text, source)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            node.body[0] = ast.copy_location(ast.Pass(), node.body[0])
    tree.body = [
        node
        for node in tree.body
        if not (isinstance(node, ast.ImportFrom) and node.module == "__future__")
    ]
    flags = __future__.annotations.compiler_flag  # as each of our modules has it
    code: CodeType = compile(tree, source, "exec", flags, dont_inherit=True)
    return code


def _keep(path: str, loaders: Sequence[SourceFileLoader]) -> None:
    """Make the file. Who may not write there goes on without."""
    stored: Stored = []
    for loader in loaders:
        source = str(loader.path)
        stamp = _stamp(source)  # before its code is read, which may be newer
        if stamp is None or not source.startswith(f"{_ROOT}/"):
            return
        code = _compiled(loader.get_data(source), source)
        below = source.removeprefix(f"{_ROOT}/")  # which a copy of all has there too
        stored.append((loader.name, below, stamp, loader.is_package(loader.name), code))
    body = marshal.dumps(stored)
    temporary = f"{path}.{os.getpid()}"  # so that it is whole or not there
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with open(os.open(temporary, flags, 0o644), "wb") as file:
            file.write(_head(body) + body)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except OSError:  # not ours, read-only, full: the command itself went well
        try:
            os.unlink(temporary)
        except OSError:
            pass  # it was not made
