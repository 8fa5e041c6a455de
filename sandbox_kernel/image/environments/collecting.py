"""Removes trees of environments that nothing has used for a while, and that no container stands on.

A tree is used when it is a part of an image that is resolved; its folder's time says when that was.
A container holds a shared lock on each of its trees (`Image.leases`); who gets the exclusive one
may remove the tree. What goes can be made again from a lock.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator

from sandbox_kernel.image.environments import places

KEPT_SECONDS = 30 * 24 * 3600.0
LEAST_SECONDS = 600.0
"""What was resolved just now may be on its way to a container."""
KINDS = ("wheels", "conda", "groups", "skeletons", "bytecode")

NOTES = ("channels", "built")
"""Folders of files: what channels had, and on what `build:` built."""


def prune(*, older_than: float = KEPT_SECONDS) -> int:
    """Remove what was not used for so many seconds; the bytes that are free again.

    Files that other trees or uv's cache have too free nothing. Raises HostLacks.
    """
    before = time.time() - max(older_than, LEAST_SECONDS)
    freed = 0
    with places.making() as partial:
        for kind in KINDS:
            for tree in _old(places.folder(kind), before):
                held = os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    going = os.path.join(partial, os.path.basename(tree))
                    os.rename(tree, going)  # from here on nobody finds it
                    freed += _size(going)
                    shutil.rmtree(going)
                except BlockingIOError:
                    continue  # a container stands on it
                finally:
                    os.close(held)
    return freed + sum(_drop_files(places.folder(name), before) for name in NOTES)


def _drop_files(folder: str, before: float) -> int:
    """Remove what was known; who reads one of the files has it to the end."""
    freed = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            seen = entry.stat(follow_symlinks=False)
            if entry.is_file(follow_symlinks=False) and _is_old(entry.path, seen, before):
                os.unlink(entry.path)
                freed += seen.st_blocks * 512
    return freed


def _old(folder: str, before: float) -> Iterator[str]:
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if os.path.isdir(path) and _is_old(path, os.stat(path), before):
            yield path


def _is_old(path: str, seen: os.stat_result, before: float) -> bool:
    """Whether nothing used it since then. A time to come is that of a wrong clock: from now on it
    counts as used now, or it would be kept until that time."""
    if seen.st_mtime > time.time():
        os.utime(path)
    return seen.st_mtime < before


def _size(folder: str) -> int:
    """Bytes on the disk of files that have no other name."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            seen = os.lstat(os.path.join(place, name))
            total += seen.st_blocks * 512 if seen.st_nlink == 1 else 0
    return total
