"""Removing a tree that nobody vouches for: no link is followed, no other file system entered."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DEEPEST = 200
"""Directories that are held at once; what lies deeper is moved up to the top first."""


def remove(folder: int, name: bytes | str) -> None:
    """Remove the directory `name` in a held one, and all in it, however deep.

    Raises OSError: EXDEV where something is mounted in it.
    """
    top = os.open(name, _DIRECTORY, dir_fd=folder)
    try:
        device = os.fstat(top).st_dev
        if device != os.fstat(folder).st_dev:
            raise _mounted(name)
        while _empty(top, device):
            pass  # what was moved up may not have been seen
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=folder)


def _empty(top: int, device: int) -> bool:
    """One walk over the tree, depth first. Returns whether there was anything."""
    found = False
    held: list[tuple[int, Iterator[os.DirEntry[str]], str]] = []
    here = top
    entries: Iterator[os.DirEntry[str]] = os.scandir(top)
    try:
        while True:
            entry = next(entries, None)
            if entry is None:
                if not held:
                    return found
                os.close(here)
                here, entries, name = held.pop()
                _remove_emptied(here, name)
                continue
            found = True
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.name, dir_fd=here)
            elif len(held) >= _DEEPEST:
                away = f".{os.urandom(8).hex()}"
                os.rename(entry.name, away, src_dir_fd=here, dst_dir_fd=top)
            else:
                below = os.open(entry.name, _DIRECTORY, dir_fd=here)
                held.append((here, entries, entry.name))
                here, entries = below, os.scandir(below)
                if os.fstat(below).st_dev != device:
                    raise _mounted(entry.name)
    finally:
        for folder in {here, *(folder for folder, _, _ in held)} - {top}:
            os.close(folder)


def _remove_emptied(folder: int, name: str) -> None:
    try:
        os.rmdir(name, dir_fd=folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise  # else: some was not listed while it changed; the next walk finds it


def _mounted(name: bytes | str) -> OSError:
    return OSError(errno.EXDEV, "something is mounted there", os.fsdecode(name))
