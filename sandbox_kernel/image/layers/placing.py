"""Putting the members of a layer on disk, by names of one part relative to held directories.

Which directory a name means is found in `folders.py`. What of owners, modes and attributes a layer
may bring is decided here.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence

from sandbox_kernel.errors import ImageError
from sandbox_kernel.image.layers import below, names, tar
from sandbox_kernel.image.layers.facts import MOST_NAMED, LayerFacts
from sandbox_kernel.image.layers.folders import (
    ACLS,
    Folder,
    Folders,
    Missing,
    path_below,
    status_of,
)

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SPECIAL = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX
_CAPABILITY = b"security.capability"


class Placer:
    """Makes the tree of one layer below `root`, a descriptor that stays the caller's.

    `parents`: descriptors of the layers below, highest first; None: they are not known. With none
    below, (), the tree is the same as with None, but it is known not to depend on any. `ids`: how
    many ids may be given; with 1 every file belongs to root.
    """

    def __init__(self, root: int, *, parents: Sequence[int] | None, ids: int) -> None:
        self._folders = Folders(root, parents)
        self._ids = ids
        self._members = self._files = self._bytes = self._whiteouts = 0
        self._dropped: list[str] = []
        self._dropped_count = 0
        self._flattened: set[int] = set()

    # -- members --------------------------------------------------------------------------------

    def put(self, member: tar.Member, data: Iterator[memoryview]) -> None:
        """Make one member. Raises ImageError, and OSError of the file system itself."""
        self._folders.next_member()
        path = member.path.rstrip(b"/") if member.kind == tar.DIRECTORY else member.path
        parent, _, name = path.rpartition(b"/")
        if name in (b"", b".", b".."):
            parts = names.parts(member.path)
            if not parts:
                self._members += 1
                self._put_root(member)
                return
            name = parts.pop()
            parent = b"/".join(parts)
        elif len(name) > names.LONGEST_NAME or len(path) > names.LONGEST_PATH or b"\0" in name:
            names.parts(member.path)
        self._members += 1
        if name.startswith(names.WHITEOUT):
            self._put_whiteout(parent, name, member)
            return
        folder = self._folders.find(parent)
        folder.changed = True
        if member.kind == tar.REGULAR:
            self._put_file(folder, name, member, data)
        else:
            _PUT[member.kind](self, folder, name, member)

    def finish(self) -> None:
        """Set the times of all directories. To be called once, also after an error."""
        self._folders.close()

    @property
    def depends(self) -> bool:
        """Whether the tree is known to need the layers below it."""
        return bool(self._folders.depends)

    def facts(self, diff_id: str, size: int) -> LayerFacts:
        """What was made."""
        return LayerFacts(
            diff_id=diff_id,
            size=size,
            members=self._members,
            files=self._files,
            bytes=self._bytes,
            whiteouts=self._whiteouts,
            opaque=self._folders.opaque,
            dropped=tuple(self._dropped),
            dropped_count=self._dropped_count,
            flattened=tuple(sorted(self._flattened)[:MOST_NAMED]),
            flattened_count=len(self._flattened),
            depends=tuple(self._folders.depends),
        )

    def _put_root(self, member: tar.Member) -> None:
        if member.kind != tar.DIRECTORY:
            raise ImageError(
                f"member `{names.display(member.path)}` would make the root no directory"
            )
        self._set(self._folders.root, member)

    def _put_directory(self, folder: Folder, name: bytes, member: tar.Member) -> None:
        try:
            os.mkdir(name, member.mode & 0o777, dir_fd=folder.fd)
        except FileExistsError:
            status = os.stat(name, dir_fd=folder.fd, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                whiteout = below.is_whiteout(status)
                self._folders.clear(folder, name)
                os.mkdir(name, member.mode & 0o777, dir_fd=folder.fd)
                if whiteout:
                    self._folders.make_opaque(self._folders.at(folder, name))
            self._set(self._folders.at(folder, name), member)
            return
        if member.xattrs:
            self._set(self._folders.at(folder, name), member)
            return
        self._finish_by_name(folder, name, member)

    def _put_file(
        self, folder: Folder, name: bytes, member: tar.Member, data: Iterator[memoryview]
    ) -> None:
        mode = member.mode
        try:
            file = os.open(name, _NEW_FILE, mode & 0o777, dir_fd=folder.fd)
        except FileExistsError:
            self._folders.clear(folder, name)
            file = os.open(name, _NEW_FILE, mode & 0o777, dir_fd=folder.fd)
        try:
            if member.sparse is None:
                for piece in data:
                    written = os.write(file, piece)
                    while written < len(piece):
                        written += os.write(file, piece[written:])
            else:
                _write_sparse(file, member, data)
            uid, gid = self._owner(member)
            if uid or gid or folder.setgid:
                os.fchown(file, uid, gid)
            if mode & _SPECIAL:
                os.fchmod(file, mode)
            if member.xattrs:
                self._set_xattrs(file, member)
            os.utime(file, ns=(member.mtime, member.mtime))
        finally:
            os.close(file)
        self._files += 1
        self._bytes += member.size

    def _put_symlink(self, folder: Folder, name: bytes, member: tar.Member) -> None:
        target = member.link
        if not target or len(target) > names.LONGEST_PATH or b"\0" in target:
            raise ImageError(f"link `{names.display(member.path)}` leads to no possible name")
        try:
            os.symlink(target, name, dir_fd=folder.fd)
        except FileExistsError:
            self._folders.clear(folder, name)
            os.symlink(target, name, dir_fd=folder.fd)
        uid, gid = self._owner(member)
        if uid or gid or folder.setgid:
            os.chown(name, uid, gid, dir_fd=folder.fd, follow_symlinks=False)
        if member.xattrs:
            self._set_xattrs(None, member)
        os.utime(name, ns=(member.mtime, member.mtime), dir_fd=folder.fd, follow_symlinks=False)

    def _put_link(self, folder: Folder, name: bytes, member: tar.Member) -> None:
        *above, target = names.parts(member.link) or [b""]
        if not target:
            raise ImageError(f"hard link `{names.display(member.path)}` to the root")
        source = self._folders.find(b"/".join(above), keep=folder)
        status = status_of(source.fd, target)
        if status is None or below.is_whiteout(status):
            if self._folders.parents is None and status is None:
                self._folders.depend(f"hard link `{names.display(member.path)}`")
                return
            status = self._copy_up(source, target, member, gone=status is not None)
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(f"hard link `{names.display(member.path)}` to a directory")
        there = status_of(folder.fd, name)
        if there is not None:
            if (there.st_dev, there.st_ino) == (status.st_dev, status.st_ino):
                return  # it is that file already
            replaced = path_below(folder, name)
            if source.path == replaced or source.path.startswith(replaced + b"/"):
                raise ImageError(
                    f"hard link `{names.display(member.path)}` to a file below what it replaces"
                )
            self._folders.clear(folder, name, keep=source)
        os.link(target, name, src_dir_fd=source.fd, dst_dir_fd=folder.fd, follow_symlinks=False)

    def _put_pipe(self, folder: Folder, name: bytes, member: tar.Member) -> None:
        self._folders.clear(folder, name)
        os.mkfifo(name, member.mode & 0o777, dir_fd=folder.fd)
        self._finish_by_name(folder, name, member)

    def _put_device(self, folder: Folder, name: bytes, member: tar.Member) -> None:
        self._drop(f"device `{names.display(member.path)}`: no device nodes of an image")
        self._folders.clear(folder, name)
        if self._folders.parents:
            self._folders.hide(folder, name)  # what it would have replaced

    def _put_whiteout(self, parent: bytes, name: bytes, member: tar.Member) -> None:
        if member.kind not in (tar.REGULAR, tar.LINK) or member.size:
            raise ImageError(f"whiteout `{names.display(member.path)}` is no empty file")
        if name.startswith(names.META) and name != names.OPAQUE:
            return
        try:
            folder = self._folders.find(parent, make_plain=name == names.OPAQUE)
        except Missing:
            return  # neither here nor below, so there is nothing to hide
        folder.changed = True
        if name == names.OPAQUE:
            self._folders.make_opaque(folder)
        else:
            hidden = names.whited_out(name, member.path)
            status = status_of(folder.fd, hidden)
            if status is None:
                self._folders.hide(folder, hidden)
                self._whiteouts += 1
            elif stat.S_ISDIR(status.st_mode):
                # It is of this layer, and hides only what the layers below have there.
                self._folders.make_opaque(self._folders.at(folder, hidden))

    # -- what a member is made of ------------------------------------------------------------------

    def _owner(self, member: tar.Member) -> tuple[int, int]:
        uid, gid = member.uid, member.gid
        if uid < self._ids and gid < self._ids:
            return uid, gid
        if self._ids == 1:
            self._flattened.update(number for number in (uid, gid) if number)
            return 0, 0
        raise ImageError(
            f"member `{names.display(member.path)}` belongs to {uid}:{gid}, but a container has "
            f"only the ids below {self._ids}"
        )

    def _set(self, folder: Folder, member: tar.Member) -> None:
        """Owner, mode, attributes and times of a directory that is held."""
        uid, gid = self._owner(member)
        os.fchown(folder.fd, uid, gid)
        os.fchmod(folder.fd, member.mode)
        folder.setgid = bool(member.mode & stat.S_ISGID)
        if member.xattrs:
            self._set_xattrs(folder.fd, member)
        folder.mtime = member.mtime
        folder.changed = True

    def _finish_by_name(self, folder: Folder, name: bytes, member: tar.Member) -> None:
        """The same of a directory or FIFO that was just made, and that nobody holds."""
        uid, gid = self._owner(member)
        if uid or gid or folder.setgid:
            os.chown(name, uid, gid, dir_fd=folder.fd, follow_symlinks=False)
        if member.mode & _SPECIAL or folder.setgid:
            os.chmod(name, member.mode, dir_fd=folder.fd)
        os.utime(name, ns=(member.mtime, member.mtime), dir_fd=folder.fd, follow_symlinks=False)

    def _set_xattrs(self, file: int | None, member: tar.Member) -> None:
        """Those that the policy takes: `user.*` but overlayfs's own, file capabilities, ACLs."""
        for key, value in member.xattrs.items():
            kept = key in ACLS or key == _CAPABILITY or key.startswith(b"user.")
            why = "not one that an image may bring"
            if kept and not key.startswith(b"user.overlay.") and file is not None:
                try:
                    os.setxattr(file, key, value)
                    continue
                except OSError as error:
                    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                        raise
                    why = os.strerror(error.errno or 0)
            self._drop(f"attribute `{names.display(key)}` of `{names.display(member.path)}`: {why}")

    def _drop(self, line: str) -> None:
        self._dropped_count += 1
        if len(self._dropped) < MOST_NAMED:
            self._dropped.append(line)

    def _copy_up(
        self, source: Folder, target: bytes, member: tar.Member, *, gone: bool
    ) -> os.stat_result:
        """A hard link to a file of the layers below: the file becomes one of this layer too."""
        where = names.display(member.path)
        found = None
        if self._folders.parents and not gone and not source.alone:
            found = below.find(self._folders.parents, [*names.link_parts(source.path), target])
        if found is None:
            raise ImageError(
                f"hard link `{where}` to `{names.display(member.link)}`, which is not there"
            )
        try:
            if not stat.S_ISREG(found.status.st_mode):
                raise ImageError(
                    f"hard link `{where}` to `{names.display(member.link)}`, which is no file"
                )
            _copy_file(found, source.fd, target)
        finally:
            os.close(found.folder)
        source.changed = True
        return os.stat(target, dir_fd=source.fd, follow_symlinks=False)


_PUT: dict[bytes, Callable[[Placer, Folder, bytes, tar.Member], None]] = {
    tar.DIRECTORY: Placer._put_directory,
    tar.SYMLINK: Placer._put_symlink,
    tar.LINK: Placer._put_link,
    tar.FIFO: Placer._put_pipe,
    tar.CHARACTER: Placer._put_device,
    tar.BLOCK_DEVICE: Placer._put_device,
}


def _write_sparse(file: int, member: tar.Member, data: Iterator[memoryview]) -> None:
    """The pieces at their places; what lies between stays a hole."""
    os.ftruncate(file, member.size)
    piece = memoryview(b"")
    for offset, length in member.sparse or ():
        at, left = offset, length
        while left:
            if not piece:
                piece = next(data)
            written = os.pwrite(file, piece[:left], at)
            piece = piece[written:]
            at += written
            left -= written


def _copy_file(found: below.Found, folder: int, name: bytes) -> None:
    source = os.open(
        found.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=found.folder
    )
    try:
        file = os.open(name, _NEW_FILE, 0o600, dir_fd=folder)
        try:
            while os.copy_file_range(source, file, 1 << 30):
                pass
            status = found.status
            os.fchown(file, status.st_uid, status.st_gid)
            os.fchmod(file, stat.S_IMODE(status.st_mode))
            for key in os.listxattr(source):
                os.setxattr(file, key, os.getxattr(source, key))
            os.utime(file, ns=(status.st_mtime_ns, status.st_mtime_ns))
        finally:
            os.close(file)
    finally:
        os.close(source)
