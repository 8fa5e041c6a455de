"""Removing a tree that nobody vouches for: no link is followed, no other file system entered."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DEEPEST = 200
"""Directories that are held at once; what lies deeper is moved up to the top first."""


def remove(folder: int, name: bytes | str) -> None:
    """Remove the directory `name` in a held one, and all in it, however deep.

    What can't be removed stays with the folders above it, and the rest goes. Raises OSError: that
    of the first thing that stays; EXDEV, at once, where something is mounted in it.
    """
    stuck: list[OSError] = []
    top = os.open(name, _DIRECTORY, dir_fd=folder)
    try:
        device = os.fstat(top).st_dev
        if device != os.fstat(folder).st_dev:
            raise _mounted(name)
        while _empty(top, device, stuck):
            pass  # what was moved up may not have been seen
    finally:
        os.close(top)
    if stuck:
        raise stuck[0]
    os.rmdir(name, dir_fd=folder)


def _empty(top: int, device: int, stuck: list[OSError]) -> bool:
    """One walk over the tree, depth first. Returns whether there is less of it than before."""
    fewer = False
    stuck.clear()  # each walk meets what stays
    held: list[tuple[int, Iterator[os.DirEntry[str]], str]] = []
    here = top
    entries: Iterator[os.DirEntry[str]] = os.scandir(top)
    try:
        while True:
            entry = next(entries, None)
            if entry is None:
                if not held:
                    return fewer
                os.close(here)
                here, entries, name = held.pop()
                fewer |= _done(stuck, os.rmdir, name, dir_fd=here)
                continue
            if not entry.is_dir(follow_symlinks=False):
                fewer |= _done(stuck, os.unlink, entry.name, dir_fd=here)
            elif len(held) >= _DEEPEST:
                away = f".{os.urandom(8).hex()}"
                fewer |= _done(stuck, os.rename, entry.name, away, src_dir_fd=here, dst_dir_fd=top)
            else:
                below = os.open(entry.name, _DIRECTORY, dir_fd=here)
                held.append((here, entries, entry.name))
                here, entries = below, os.scandir(below)
                if os.fstat(below).st_dev != device:
                    raise _mounted(entry.name)
    finally:
        for folder in {here, *(folder for folder, _, _ in held)} - {top}:
            os.close(folder)


def _done(stuck: list[OSError], remove: Callable[..., None], *names: str, **folders: int) -> bool:
    """Whether it went; else it is one more of those that stay."""
    try:
        remove(*names, **folders)
    except OSError as error:
        # Not empty: something in it stays, or was not listed while it changed.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            stuck.append(error)
        return False
    return True


def _mounted(name: bytes | str) -> OSError:
    return OSError(errno.EXDEV, "something is mounted there", os.fsdecode(name))
