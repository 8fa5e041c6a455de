"""From a tree on disk to the members of a layer: sorted, whiteouts as the specification has them.

The tree may be one that `placing` made or an overlay's writable layer: a character device 0/0
becomes a `.wh.` file, a directory with `user.overlay.opaque` gets a `.wh..wh..opq`. Runs in the
confined process. Every open is relative to a held directory and follows no link.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping

from sandbox_kernel.errors import ImageError
from sandbox_kernel.image.layers import below, names, tar, writing

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PIECE = 1 << 18
_DEEPEST = 900
_KINDS = {
    stat.S_IFREG: tar.REGULAR,
    stat.S_IFLNK: tar.SYMLINK,
    stat.S_IFDIR: tar.DIRECTORY,
    stat.S_IFIFO: tar.FIFO,
}
_SECOND = 1_000_000_000


class Gatherer:
    """Writes the members of a tree to `write`.

    `epoch`: no time is later (seconds); None: times are as they are. `prefix`: where the tree
    stands in the image, b"" for its root. `owner`: of everything, None: as on disk. `made`: names
    that the runtime put there itself: such folders are told of only for what is in them, such
    empty files not at all.
    """

    def __init__(
        self,
        write: Callable[[bytes | memoryview], None],
        *,
        epoch: int | None,
        prefix: bytes,
        owner: tuple[int, int] | None,
        made: frozenset[bytes] = frozenset(),
    ) -> None:
        self._write = write
        self._epoch = epoch
        self._owner = owner
        self._prefix = names.parts(prefix) if prefix else []
        self._made = made | {above for path in made for above in _above(path)}
        self._waiting: list[bytes] = []
        """Headers of folders that are written when something in them is."""
        self._links: dict[tuple[int, int], bytes] = {}
        self.members = 0

    def gather(self, root: int, *, with_root: bool) -> None:
        """All of the tree. Raises ImageError and OSError.

        Without `with_root` nothing is said of the root itself: a container's is not the image's.
        """
        at = b""
        found = os.fstat(root)
        for part in self._prefix[:-1]:
            at += part + b"/"
            self._emit(at, tar.DIRECTORY, found, mode=0o755, owner=(0, 0))
        if self._prefix:
            at += self._prefix[-1] + b"/"
        if with_root or self._prefix:
            # The root itself stands as `./`, so that its mode and owner are kept.
            self._emit(at or b"./", tar.DIRECTORY, found, xattrs=_xattrs(root))
        self._below(root, at, 0)
        self._write(writing.END)

    def _folder(self, folder: int, path: bytes, depth: int) -> None:
        status = os.fstat(folder)
        opaque = below.is_opaque(folder)
        waits = path.rstrip(b"/") in self._made and not opaque
        self._emit(path, tar.DIRECTORY, status, xattrs=_xattrs(folder), waits=waits)
        if opaque:
            self._emit(path + names.OPAQUE, tar.REGULAR, status, mode=0)
        self._below(folder, path, depth)
        if waits and self._waiting:
            self._waiting.pop()

    def _below(self, folder: int, path: bytes, depth: int) -> None:
        if depth > _DEEPEST:
            raise ImageError(f"`{names.display(path)}` is more than {_DEEPEST} directories deep")
        device = os.fstat(folder).st_dev
        for name in sorted(os.fsencode(name) for name in os.listdir(folder)):
            if name.startswith(names.WHITEOUT):
                raise ImageError(
                    f"`{names.display(path + name)}` can't be in a layer: names that begin with "
                    "`.wh.` mean that something is gone"
                )
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if found.st_dev != device:
                continue  # a mount's
            self._entry(folder, name, path + name, found, depth)

    def _entry(
        self, folder: int, name: bytes, path: bytes, found: os.stat_result, depth: int
    ) -> None:
        if below.is_whiteout(found):
            self._emit(path[: -len(name)] + names.WHITEOUT + name, tar.REGULAR, found, mode=0)
            return
        kind = _KINDS.get(stat.S_IFMT(found.st_mode))
        if kind is None:
            return  # a socket or a device, which mean nothing in an image
        if kind == tar.DIRECTORY:
            inner = os.open(name, _DIRECTORY, dir_fd=folder)
            try:
                self._folder(inner, path + b"/", depth + 1)
            finally:
                os.close(inner)
            return
        if found.st_nlink > 1:
            first = self._links.setdefault((found.st_dev, found.st_ino), path)
            if first is not path:
                self._emit(path, tar.LINK, found, link=first)
                return
        if kind == tar.REGULAR and not found.st_size and path in self._made:
            return
        if kind == tar.REGULAR:
            self._file(folder, name, path)
        elif kind == tar.SYMLINK:
            target = os.fsencode(os.readlink(name, dir_fd=folder))
            self._emit(path, kind, found, link=target)
        else:
            self._emit(path, kind, found)

    def _file(self, folder: int, name: bytes, path: bytes) -> None:
        file = os.open(name, _FILE, dir_fd=folder)
        try:
            found = os.fstat(file)
            size = found.st_size
            self._emit(path, tar.REGULAR, found, size=size, xattrs=_xattrs(file))
            left = size
            while left:
                data = os.read(file, min(left, _PIECE))
                if not data:
                    raise ImageError(f"`{names.display(path)}` became shorter meanwhile")
                self._write(data)
                left -= len(data)
            self._write(writing.padding(size))
        finally:
            os.close(file)

    def _emit(
        self,
        path: bytes,
        kind: bytes,
        found: os.stat_result,
        *,
        mode: int | None = None,
        size: int = 0,
        link: bytes = b"",
        owner: tuple[int, int] | None = None,
        xattrs: Mapping[bytes, bytes] | None = None,
        waits: bool = False,
    ) -> None:
        mtime = found.st_mtime_ns
        if self._epoch is not None:
            mtime = min(mtime, self._epoch * _SECOND)
        uid, gid = owner or self._owner or (found.st_uid, found.st_gid)
        header = writing.encode(
            tar.Member(
                path=path,
                kind=kind,
                mode=stat.S_IMODE(found.st_mode) if mode is None else mode,
                uid=uid,
                gid=gid,
                size=size,
                mtime=mtime,
                link=link,
                xattrs=xattrs or {},
                sparse=None,
            )
        )
        if waits:
            self._waiting.append(header)
            return
        for waiting in (*self._waiting, header):
            self.members += 1
            self._write(waiting)
        self._waiting.clear()


def _above(path: bytes) -> Iterator[bytes]:
    while path := path.rpartition(b"/")[0]:
        yield path


def _xattrs(file: int) -> dict[bytes, bytes]:
    """File capabilities, ACLs and the user's, but overlayfs's own."""
    found = {}
    for name in os.listxattr(file):
        if name.startswith("user.overlay.") or not (
            name.startswith(("user.", "system.posix_acl_")) or name == "security.capability"
        ):
            continue
        found[os.fsencode(name)] = os.getxattr(file, name)
    return found
