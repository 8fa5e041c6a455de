"""Files that a cell finds in its working folder, and those of it that are brought out after it.

Both go through the container's own copying (`runtime.transfer`), so links in there, and names that
the code chose, lead nowhere: what comes out are regular files with relative paths, each of which a
pattern of the caller meets, in memory and within bounds. `save` is the only place that writes them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from sandbox_kernel import errors
from sandbox_kernel.container import copying
from sandbox_kernel.container.container import Container
from sandbox_kernel.linux import paths
from sandbox_kernel.runtime import transfer
from sandbox_kernel.runtime.patterns import Patterns

MOST_FILES = 10_000
MOST_PATTERNS = 100
LONGEST = 4096
PATH = "a path below the working folder, without `..`, such as data/table.csv"
PATTERN = "patterns below the working folder, without `..`, such as plots/*.png"
SOURCE = "bytes, or the path of a file"


class Taken(NamedTuple):
    """Files by their paths, and what was passed over: path and reason."""

    files: dict[str, bytes]
    skipped: list[tuple[str, str]]


def read_files(given: Mapping[str, object] | None) -> dict[str, bytes | str]:
    """Files to place, checked: bytes, or the absolute path of one here. Raises InvalidOption."""
    files: dict[str, bytes | str] = {}
    for path, content in (given or {}).items():
        if not _is_relative(path):
            raise errors.InvalidOption("files", path, PATH)
        if isinstance(content, bytes | bytearray | memoryview):
            files[path] = bytes(content)
        elif isinstance(content, str | os.PathLike):
            source = os.path.abspath(os.fsdecode(content))
            if not os.path.isfile(source):
                raise errors.InvalidOption("files", source, "files that are there")
            files[path] = source
        else:
            raise errors.InvalidOption("files", type(content).__name__, SOURCE)
    return files


def read_patterns(given: Iterable[str], option: str = "files_out") -> tuple[str, ...]:
    """Patterns of files to bring out, checked. Raises InvalidOption."""
    patterns = tuple(dict.fromkeys([given] if isinstance(given, str) else given))
    for pattern in patterns:
        if not _is_relative(pattern):
            raise errors.InvalidOption(option, pattern, PATTERN)
    if len(patterns) > MOST_PATTERNS:
        raise errors.InvalidOption(option, len(patterns), f"at most {MOST_PATTERNS} patterns")
    return patterns


def _is_relative(path: object) -> bool:
    if not isinstance(path, str) or "\0" in path or not 0 < len(path) <= LONGEST:
        return False
    parts = path.split("/")
    return len(parts) < transfer.DEEPEST and not any(part in ("", ".", "..") for part in parts)


def put(target: Container, files: Mapping[str, bytes | str]) -> None:
    """Place files in the container's working folder, as its user has them there.

    How much fits is the container's own limit. Raises StepFailed.
    """
    order = {
        "do": "unpack",
        "path": ".",
        "name": "",
        "most_bytes": copying.MOST_BYTES,
        "most_files": copying.MOST_FILES,
    }
    copying.send(target, order, lambda sink: transfer.pack_files(files, sink), "files", folder=None)


def take(
    source: Container, patterns: tuple[str, ...], *, most_bytes: int, most_files: int = MOST_FILES
) -> Taken:
    """The files of the container's working folder that a pattern meets.

    Raises CopyRefused, StepFailed, NoSuchContainer.
    """
    order = {
        "do": "pack-matching",
        "path": ".",
        "patterns": list(patterns),
    }
    files: dict[str, bytes] = {}
    read, write = os.pipe2(os.O_CLOEXEC)
    try:
        unpacking = transfer.Unpacking(read, most_bytes=most_bytes, most_files=most_files)
        copying.exchange(
            source, order, {1: write}, lambda: files.update(unpacking.into_memory()), folder=None
        )
    finally:
        os.close(read)
    asked = Patterns(patterns)
    for path in files:
        if not asked.meet(path.split("/")):
            raise errors.StepFailed("copy", path, "it was not asked for")
    return Taken(files, unpacking.skipped)


def save(folder: str, path: str, content: bytes) -> None:
    """Write a file that came out below a folder of the host; one that is there is replaced.

    No link below the folder is followed: one in the place of a folder is an error, one in the
    place of the file is replaced. Raises StepFailed.
    """
    assert _is_relative(path)
    above, _, name = path.rpartition("/")
    try:
        here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            parent = paths.find_or_make(here, above or ".", directory=True)
        finally:
            os.close(here)
        try:
            transfer.write_file(parent, name, content)
        finally:
            os.close(parent)
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise errors.StepFailed("write", path, why, error.errno or 0) from error
