"""Telling what an unpacked layer holds: one line of JSON for each name, in the confined process.

Names are text with surrogates for what is no UTF-8 (PEP 383), without a leading slash.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable

from sandbox_kernel.image.layers import below

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PIECE = 1 << 18
_DEEPEST = 900
_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFLNK: "link",
    stat.S_IFDIR: "directory",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}
WHITEOUT = "whiteout"


class Walk:
    """Tells of each name below a held directory. `contents`: with the digest of each file."""

    def __init__(self, tell: Callable[[bytes], object], *, contents: bool) -> None:
        self._tell = tell
        self._contents = contents
        self._digests: dict[tuple[int, int], str] = {}
        """Of files with several names."""

    def folder(self, folder: int, prefix: str, depth: int = 0) -> None:
        """Raises OSError. What is deeper than _DEEPEST is not told of."""
        device = os.fstat(folder).st_dev
        for name in sorted(os.listdir(folder)):
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if found.st_dev != device:
                continue  # a mount's
            self._entry(folder, name, prefix + name, found, depth)

    def _entry(self, folder: int, name: str, path: str, found: os.stat_result, depth: int) -> None:
        if below.is_whiteout(found):
            self._line([path, WHITEOUT, 0, 0, 0, 0, 0, "", "", 0])
            return
        kind = _KINDS[stat.S_IFMT(found.st_mode)]
        size, target, inode = 0, "", 0
        if kind == "link":
            target = os.readlink(name, dir_fd=folder)
        elif kind == "file":
            size = found.st_size
            inode = found.st_ino if found.st_nlink > 1 else 0
            if self._contents:
                target = self._digest(folder, name, found)
        facts = [stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, size, found.st_mtime_ns]
        if kind != "directory":
            self._line([path, kind, *facts, target, "", inode])
            return
        inner = os.open(name, _DIRECTORY, dir_fd=folder)
        try:
            opaque = "opaque" if below.is_opaque(inner) else ""
            self._line([path, kind, *facts, target, opaque, inode])
            if depth < _DEEPEST:
                self.folder(inner, path + "/", depth + 1)
        finally:
            os.close(inner)

    def _digest(self, folder: int, name: str, found: os.stat_result) -> str:
        key = found.st_dev, found.st_ino
        if found.st_nlink > 1 and key in self._digests:
            return self._digests[key]
        hashed = hashlib.sha256()
        file = os.open(name, _FILE, dir_fd=folder)
        try:
            while data := os.read(file, _PIECE):
                hashed.update(data)
        finally:
            os.close(file)
        digest = hashed.hexdigest()
        if found.st_nlink > 1:
            self._digests[key] = digest
        return digest

    def _line(self, fields: list[object]) -> None:
        self._tell(json.dumps(fields).encode() + b"\n")
