"""What an image shows below a layer: looking a path up in the layers below it, as overlayfs does.

Layers are descriptors of unpacked layers, the highest first. No link is followed: whoever asks gets
the link. Source: overlayfs.rst, "Upper and Lower", "whiteouts and opaque directories".
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

OPAQUE = "user.overlay.opaque"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Found(NamedTuple):
    """The topmost thing of a name. `folder` (the caller's to close) holds it as `name`."""

    folder: int
    name: bytes
    status: os.stat_result


def is_whiteout(status: os.stat_result) -> bool:
    """A character device 0/0 stands for a name that is not there."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def find(layers: Sequence[int], parts: Sequence[bytes]) -> Found | None:
    """What is at a path, None if nothing. A link or file on the way is the end of it: None."""
    *above, name = parts
    folders = [os.dup(layer) for layer in layers]
    try:
        for part in above:
            folders = _down(folders, part)
        for index, folder in enumerate(folders):
            try:
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if is_whiteout(status):
                return None
            return Found(folders.pop(index), name, status)
        return None
    finally:
        for folder in folders:
            os.close(folder)


def entries(layers: Sequence[int]) -> set[bytes]:
    """The names in the merged root of the layers."""
    shown: set[bytes] = set()
    hidden: set[bytes] = set()
    for layer in layers:
        here = {os.fsencode(name) for name in os.listdir(layer)} - hidden - shown
        for name in here:
            gone = is_whiteout(os.stat(name, dir_fd=layer, follow_symlinks=False))
            (hidden if gone else shown).add(name)
    return shown


def _down(folders: list[int], part: bytes) -> list[int]:
    """The folders of one name that are merged. Closes what it was given."""
    found: list[int] = []
    try:
        for folder in folders:
            try:
                below = os.open(part, _DIRECTORY, dir_fd=folder)
            except FileNotFoundError:
                continue
            except OSError:
                break  # a file, link or whiteout: what lies deeper is hidden
            found.append(below)
            if is_opaque(below):
                break
    finally:
        for folder in folders:
            os.close(folder)
    return found


def is_opaque(folder: int) -> bool:
    """Whether a directory hides what the layers below have in it."""
    try:
        return os.getxattr(folder, OPAQUE) == b"y"
    except OSError:
        return False
