"""Putting the members of a layer on disk: by names of one part relative to held directories.

Every directory on the way of a name is opened without following a link. A link on the way is
resolved here, below the layer's root, so that it leads nowhere else. What the tree looks like is
what overlayfs wants (`userxattr`): a whiteout is a character device 0/0, a directory that hides
what is below it has `user.overlay.opaque`.

The times of a directory are set when its descriptor is given up, after the last change in it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Sequence

from sandbox_kernel.errors import ImageError
from sandbox_kernel.image.layers import below, names, removing, tar
from sandbox_kernel.image.layers.facts import MOST_NAMED, LayerFacts

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_HELD = 256
_MOST_LINKS = 40  # MAXSYMLINKS of include/linux/namei.h
_SPECIAL = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX
_ACLS = frozenset((b"system.posix_acl_access", b"system.posix_acl_default"))
_CAPABILITY = b"security.capability"


class _Folder:
    """A directory of the layer that is held open. `path` is its name without any link.

    `alone`: it, or one above it, hides what the layers below have there.
    """

    __slots__ = ("alone", "changed", "fd", "mtime", "path", "setgid")

    def __init__(self, fd: int, path: bytes, *, alone: bool = False) -> None:
        status = os.fstat(fd)
        self.fd = fd
        self.path = path
        self.alone = alone
        self.mtime = status.st_mtime_ns
        self.setgid = bool(status.st_mode & stat.S_ISGID)
        self.changed = False

    def close(self) -> None:
        if self.changed:
            os.utime(self.fd, ns=(self.mtime, self.mtime))
        os.close(self.fd)


class _Missing(Exception):
    """A directory that is neither in the layer nor below it."""


class Placer:
    """Makes the tree of one layer below `root`, a descriptor that stays the caller's.

    `parents`: descriptors of the layers below, highest first; None: they are not known. With none
    below, (), the tree is the same as with None, but it is known not to depend on any. `ids`: how
    many ids may be given; with 1 every file belongs to root.
    """

    def __init__(self, root: int, *, parents: Sequence[int] | None, ids: int) -> None:
        self._root = _Folder(os.dup(root), b"")
        self._parents = parents
        self._ids = ids
        self._held: dict[bytes, _Folder] = {}
        """By the name without links."""
        self._known: dict[bytes, _Folder] = {}
        """By the name as members write it."""
        self._members = self._files = self._bytes = self._whiteouts = self._opaque = 0
        self._dropped: list[str] = []
        self._dropped_count = 0
        self._flattened: set[int] = set()
        self._depends: list[str] = []
        self._hide_root = False
        self._aliased = False
        """Whether a name led through a link of the layers below, which a member may yet replace."""
        for acl in _ACLS:
            # A default ACL of the store's folder must not change the modes of what is made.
            with contextlib.suppress(OSError):
                os.removexattr(self._root.fd, os.fsdecode(acl))
        if parents:
            _copy_facts(parents[0], self._root)
        else:
            _make_plain(self._root)

    # -- members --------------------------------------------------------------------------------

    def put(self, member: tar.Member, data: Iterator[memoryview]) -> None:
        """Make one member. Raises ImageError, and OSError of the file system itself."""
        if len(self._held) > _MOST_HELD:
            self._give_up()
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
        if self._aliased:
            self._known.clear()
        if name.startswith(names.WHITEOUT):
            self._put_whiteout(parent, name, member)
            return
        folder = self._folder(parent)
        folder.changed = True
        if member.kind == tar.REGULAR:
            self._put_file(folder, name, member, data)
        elif member.kind == tar.DIRECTORY:
            self._put_directory(folder, name, member)
        elif member.kind == tar.SYMLINK:
            self._put_symlink(folder, name, member)
        elif member.kind == tar.LINK:
            self._put_link(folder, name, member)
        elif member.kind == tar.FIFO:
            self._clear(folder, name)
            os.mkfifo(name, member.mode & 0o777, dir_fd=folder.fd)
            self._finish_by_name(folder, name, member)
        else:
            self._drop(f"device `{names.display(member.path)}`: no device nodes of an image")
            self._clear(folder, name)
            if self._parents:
                self._hide(folder, name)  # what it would have replaced

    def finish(self) -> None:
        """Give up every directory; the root last. To be called once, also after an error."""
        try:
            if self._hide_root:
                self._hide_entries_of_root()
            self._give_up()
        finally:
            self._root.close()

    @property
    def depends(self) -> bool:
        """Whether the tree is known to need the layers below it."""
        return bool(self._depends)

    def facts(self, diff_id: str, size: int) -> LayerFacts:
        """What was made."""
        return LayerFacts(
            diff_id=diff_id,
            size=size,
            members=self._members,
            files=self._files,
            bytes=self._bytes,
            whiteouts=self._whiteouts,
            opaque=self._opaque,
            dropped=tuple(self._dropped),
            dropped_count=self._dropped_count,
            flattened=tuple(sorted(self._flattened)[:MOST_NAMED]),
            flattened_count=len(self._flattened),
            depends=tuple(self._depends),
        )

    def _put_root(self, member: tar.Member) -> None:
        if member.kind != tar.DIRECTORY:
            raise ImageError(
                f"member `{names.display(member.path)}` would make the root no directory"
            )
        self._set(self._root, member)

    def _put_directory(self, folder: _Folder, name: bytes, member: tar.Member) -> None:
        try:
            os.mkdir(name, member.mode & 0o777, dir_fd=folder.fd)
        except FileExistsError:
            status = os.stat(name, dir_fd=folder.fd, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                whiteout = below.is_whiteout(status)
                self._clear(folder, name)
                os.mkdir(name, member.mode & 0o777, dir_fd=folder.fd)
                if whiteout:
                    self._make_opaque(self._at(folder, name))
            self._set(self._at(folder, name), member)
            return
        if member.xattrs:
            self._set(self._at(folder, name), member)
            return
        self._finish_by_name(folder, name, member)

    def _put_file(
        self, folder: _Folder, name: bytes, member: tar.Member, data: Iterator[memoryview]
    ) -> None:
        mode = member.mode
        try:
            file = os.open(name, _NEW_FILE, mode & 0o777, dir_fd=folder.fd)
        except FileExistsError:
            self._clear(folder, name)
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

    def _put_symlink(self, folder: _Folder, name: bytes, member: tar.Member) -> None:
        target = member.link
        if not target or len(target) > names.LONGEST_PATH or b"\0" in target:
            raise ImageError(f"link `{names.display(member.path)}` leads to no possible name")
        try:
            os.symlink(target, name, dir_fd=folder.fd)
        except FileExistsError:
            self._clear(folder, name)
            os.symlink(target, name, dir_fd=folder.fd)
        uid, gid = self._owner(member)
        if uid or gid or folder.setgid:
            os.chown(name, uid, gid, dir_fd=folder.fd, follow_symlinks=False)
        if member.xattrs:
            self._set_xattrs(None, member)
        os.utime(name, ns=(member.mtime, member.mtime), dir_fd=folder.fd, follow_symlinks=False)

    def _put_link(self, folder: _Folder, name: bytes, member: tar.Member) -> None:
        *above, target = names.parts(member.link) or [b""]
        if not target:
            raise ImageError(f"hard link `{names.display(member.path)}` to the root")
        source = self._folder(b"/".join(above), keep=folder)
        status = _status(source.fd, target)
        if status is None or below.is_whiteout(status):
            if self._parents is None and status is None:
                self._depend(f"hard link `{names.display(member.path)}`")
                return
            status = self._copy_up(source, target, member, gone=status is not None)
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(f"hard link `{names.display(member.path)}` to a directory")
        there = _status(folder.fd, name)
        if there is not None:
            if (there.st_dev, there.st_ino) == (status.st_dev, status.st_ino):
                return  # it is that file already
            replaced = _below(folder, name)
            if source.path == replaced or source.path.startswith(replaced + b"/"):
                raise ImageError(
                    f"hard link `{names.display(member.path)}` to a file below what it replaces"
                )
            self._clear(folder, name, keep=source)
        os.link(target, name, src_dir_fd=source.fd, dst_dir_fd=folder.fd, follow_symlinks=False)

    def _put_whiteout(self, parent: bytes, name: bytes, member: tar.Member) -> None:
        if member.kind not in (tar.REGULAR, tar.LINK) or member.size:
            raise ImageError(f"whiteout `{names.display(member.path)}` is no empty file")
        if name.startswith(names.META) and name != names.OPAQUE:
            return
        try:
            folder = self._folder(parent, make_plain=name == names.OPAQUE)
        except _Missing:
            return  # neither here nor below, so there is nothing to hide
        folder.changed = True
        if name == names.OPAQUE:
            if folder is self._root:
                self._hide_root = True
            self._make_opaque(folder)
        else:
            hidden = names.whited_out(name, member.path)
            status = _status(folder.fd, hidden)
            if status is None:
                self._hide(folder, hidden)
                self._whiteouts += 1
            elif stat.S_ISDIR(status.st_mode):
                # It is of this layer, and hides only what the layers below have there.
                self._make_opaque(self._at(folder, hidden))

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

    def _set(self, folder: _Folder, member: tar.Member) -> None:
        """Owner, mode, attributes and times of a directory that is held."""
        uid, gid = self._owner(member)
        os.fchown(folder.fd, uid, gid)
        os.fchmod(folder.fd, member.mode)
        folder.setgid = bool(member.mode & stat.S_ISGID)
        if member.xattrs:
            self._set_xattrs(folder.fd, member)
        folder.mtime = member.mtime
        folder.changed = True

    def _finish_by_name(self, folder: _Folder, name: bytes, member: tar.Member) -> None:
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
            kept = key in _ACLS or key == _CAPABILITY or key.startswith(b"user.")
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

    def _depend(self, line: str) -> None:
        if len(self._depends) < MOST_NAMED:
            self._depends.append(line)

    # -- hiding what is below ----------------------------------------------------------------------

    def _hide(self, folder: _Folder, name: bytes) -> None:
        """A whiteout, but where it is known that the layers below have nothing.

        The lowest layer has them too, since it may stand above others in another image.
        """
        self._clear(folder, name)
        if folder.alone:
            return
        if self._parents:
            found = below.find(self._parents, [*names.link_parts(folder.path), name])
            if found is None:
                return
            os.close(found.folder)
        os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=folder.fd)

    def _make_opaque(self, folder: _Folder) -> None:
        self._opaque += 1
        if folder is self._root:
            return
        os.setxattr(folder.fd, below.OPAQUE, b"y")
        folder.changed = True
        self._give_up(folder)  # what is below it is alone too, when it is opened again
        folder.alone = True

    def _hide_entries_of_root(self) -> None:
        """Overlayfs takes no root to be opaque: each name of the layers below is hidden."""
        if self._parents is None:
            self._depend("an opaque root")
            return
        for name in below.entries(self._parents):
            status = _status(self._root.fd, name)
            if status is None:
                os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=self._root.fd)
            elif stat.S_ISDIR(status.st_mode):
                os.setxattr(self._at(self._root, name).fd, below.OPAQUE, b"y")

    # -- directories -------------------------------------------------------------------------------

    def _folder(
        self, path: bytes, *, keep: _Folder | None = None, make_plain: bool = True
    ) -> _Folder:
        """The directory of a member's name; made, as it is in the layers below, if missing.

        Without `make_plain` one that the layers below don't have either raises _Missing.
        """
        known = self._known.get(path)
        if known is None:
            known = self._walk(path, keep, make_plain)
            self._known[path] = known
        return known

    def _walk(self, whole: bytes, keep: _Folder | None, make_plain: bool) -> _Folder:
        parts = names.parts(whole) if whole else []
        pending = parts[::-1]
        folder = self._root
        links = 0
        while pending:
            part = pending.pop()
            if part == b"..":  # of a link
                pending.extend(reversed(names.link_parts(folder.path)[:-1]))
                folder = self._root
                continue
            step = self._step(folder, part, whole, make_plain)
            if isinstance(step, _Folder):
                folder = step
                if len(self._held) > 2 * _MOST_HELD:
                    self._give_up(folder, keep)
                continue
            links += 1
            if links > _MOST_LINKS:
                raise ImageError(f"member `{names.display(whole)}`: too many links on its way")
            pending.extend(reversed(names.link_parts(step)))
            if step.startswith(b"/"):
                folder = self._root
        return folder

    def _step(
        self, folder: _Folder, part: bytes, whole: bytes, make_plain: bool
    ) -> _Folder | bytes:
        """The directory of this name, or where the link of this name leads."""
        path = _below(folder, part)
        held = self._held.get(path)
        if held is not None:
            return held
        try:
            fd = os.open(part, _DIRECTORY, dir_fd=folder.fd)
        except FileNotFoundError:
            return self._make(folder, part, whole, make_plain)
        except OSError as error:
            # ENOTDIR is also said of a link, with O_DIRECTORY and O_NOFOLLOW together.
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            status = os.stat(part, dir_fd=folder.fd, follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                return os.readlink(part, dir_fd=folder.fd)
            if not below.is_whiteout(status):
                raise _no_directory(whole, path) from None
            if not make_plain:
                raise _Missing from None
            folder.changed = True
            os.unlink(part, dir_fd=folder.fd)
            made = self._make_new(folder, part)
            self._make_opaque(made)
            return made
        return self._hold(folder, fd, path)

    def _make(
        self, folder: _Folder, part: bytes, whole: bytes, make_plain: bool
    ) -> _Folder | bytes:
        """A directory that no member made: as below if it is there, else plain."""
        path = _below(folder, part)
        found = None
        if self._parents is None:
            self._depend(f"directory `{names.display(path)}`")
        elif not folder.alone:
            found = below.find(self._parents, names.link_parts(path))
        if found is None:
            if not make_plain and self._parents is not None:
                raise _Missing
            return self._make_new(folder, part)
        try:
            if stat.S_ISLNK(found.status.st_mode):
                self._aliased = True
                return os.readlink(part, dir_fd=found.folder)
            if not stat.S_ISDIR(found.status.st_mode):
                raise _no_directory(whole, path)
            made = self._make_new(folder, part)
            lower = os.open(part, _DIRECTORY, dir_fd=found.folder)
            try:
                _copy_facts(lower, made)
            finally:
                os.close(lower)
            return made
        finally:
            os.close(found.folder)

    def _make_new(self, folder: _Folder, part: bytes) -> _Folder:
        folder.changed = True
        os.mkdir(part, 0o755, dir_fd=folder.fd)
        made = self._at(folder, part)
        _make_plain(made)
        return made

    def _at(self, folder: _Folder, name: bytes) -> _Folder:
        """A directory that is there, held."""
        path = _below(folder, name)
        held = self._held.get(path)
        if held is not None:
            return held
        return self._hold(folder, os.open(name, _DIRECTORY, dir_fd=folder.fd), path)

    def _hold(self, above: _Folder, fd: int, path: bytes) -> _Folder:
        alone = above.alone or (self._opaque > 0 and below.is_opaque(fd))
        folder = _Folder(fd, path, alone=alone)
        self._held[path] = folder
        return folder

    def _give_up(self, *kept: _Folder | None) -> None:
        """Close what is held; the deepest first, so that no time is set too early."""
        self._known.clear()
        held, self._held = self._held, {}
        for folder in held.values():
            if folder in kept:
                self._held[folder.path] = folder
            else:
                folder.close()

    # -- what is in the way ------------------------------------------------------------------------

    def _clear(self, folder: _Folder, name: bytes, *, keep: _Folder | None = None) -> None:
        """Take away what has this name in the layer."""
        status = _status(folder.fd, name)
        if status is None:
            return
        folder.changed = True
        if not stat.S_ISDIR(status.st_mode):
            if stat.S_ISLNK(status.st_mode):
                self._known.clear()  # names that led through it lead elsewhere now
            os.unlink(name, dir_fd=folder.fd)
            return
        self._give_up(folder, keep)
        removing.remove(folder.fd, name)

    def _copy_up(
        self, source: _Folder, target: bytes, member: tar.Member, *, gone: bool
    ) -> os.stat_result:
        """A hard link to a file of the layers below: the file becomes one of this layer too."""
        where = names.display(member.path)
        found = None
        if self._parents and not gone and not source.alone:
            found = below.find(self._parents, [*names.link_parts(source.path), target])
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


def _no_directory(whole: bytes, path: bytes) -> ImageError:
    return ImageError(
        f"member below `{names.display(whole)}`: `{names.display(path)}` is no directory"
    )


def _below(folder: _Folder, name: bytes) -> bytes:
    return folder.path + b"/" + name if folder.path else name


def _make_plain(folder: _Folder) -> None:
    """What no member says anything about belongs to root and is as old as can be."""
    os.fchown(folder.fd, 0, 0)
    os.fchmod(folder.fd, 0o755)
    folder.setgid = False
    folder.mtime = 0
    folder.changed = True


def _copy_facts(lower: int, folder: _Folder) -> None:
    """A directory is as it is in the layers below."""
    status = os.fstat(lower)
    os.fchown(folder.fd, status.st_uid, status.st_gid)
    os.fchmod(folder.fd, stat.S_IMODE(status.st_mode))
    for key in os.listxattr(lower):
        if not key.startswith("user.overlay."):
            os.setxattr(folder.fd, key, os.getxattr(lower, key))
    folder.setgid = bool(status.st_mode & stat.S_ISGID)
    folder.mtime = status.st_mtime_ns
    folder.changed = True


def _status(folder: int, name: bytes) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


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
