"""The directories of a layer that is unpacked: found by names, held open, made where missing.

Every directory on the way of a name is opened without following a link. A link on the way is
resolved here, below the layer's root, so that it leads nowhere else. What hides things is made as
overlayfs wants it (`userxattr`): a whiteout is a character device 0/0, a directory that hides what
is below it has `user.overlay.opaque`.

The times of a directory are set when its descriptor is given up, after the last change in it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Sequence

from sandbox_kernel.errors import ImageError
from sandbox_kernel.image.layers import below, names, removing
from sandbox_kernel.image.layers.facts import MOST_NAMED

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_HELD = 256
_MOST_LINKS = 40  # MAXSYMLINKS of include/linux/namei.h
_MOST_STEPS = 8192
ACLS = frozenset((b"system.posix_acl_access", b"system.posix_acl_default"))


class Folder:
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
        """Set its times, then let go of it."""
        if self.changed:
            os.utime(self.fd, ns=(self.mtime, self.mtime))
        os.close(self.fd)


class Missing(Exception):
    """A directory that is neither in the layer nor below it."""


class Folders:
    """The directories below `root`, a descriptor that stays the caller's.

    `parents`: descriptors of the layers below, highest first; None: they are not known.
    """

    def __init__(self, root: int, parents: Sequence[int] | None) -> None:
        self.root = Folder(os.dup(root), b"")
        self.parents = parents
        self.opaque = 0
        self.depends: list[str] = []
        """What can only be right when the layers below are known."""
        self._held: dict[bytes, Folder] = {}
        """By the name without links."""
        self._known: dict[bytes, Folder] = {}
        """By the name as members write it."""
        self._hide_root = False
        self._aliased = False
        """Whether a name led through a link of the layers below, which a member may yet replace."""
        for acl in ACLS:
            # A default ACL of the store's folder must not change the modes of what is made.
            with contextlib.suppress(OSError):
                os.removexattr(self.root.fd, os.fsdecode(acl))
        if parents:
            _copy_facts(parents[0], self.root)
        else:
            _make_plain(self.root)

    def next_member(self) -> None:
        """What was found for the last one may be closed, or mean something else now."""
        if len(self._held) > _MOST_HELD:
            self._give_up()
        if self._aliased:
            self._known.clear()

    def close(self) -> None:
        """Give up every directory, the root last. To be called once, also after an error."""
        try:
            if self._hide_root:
                self._hide_entries_of_root()
            self._give_up()
        finally:
            self.root.close()

    def depend(self, line: str) -> None:
        """Note what can only be right when the layers below are known."""
        if len(self.depends) < MOST_NAMED:
            self.depends.append(line)

    # -- hiding what is below ----------------------------------------------------------------------

    def hide(self, folder: Folder, name: bytes) -> None:
        """A whiteout, but where it is known that the layers below have nothing.

        The lowest layer has them too, since it may stand above others in another image.
        """
        self.clear(folder, name)
        if folder.alone:
            return
        if self.parents:
            found = below.find(self.parents, [*names.link_parts(folder.path), name])
            if found is None:
                return
            os.close(found.folder)
        os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=folder.fd)

    def make_opaque(self, folder: Folder) -> None:
        """Hide what the layers below have in it."""
        self.opaque += 1
        if folder is self.root:
            self._hide_root = True
            return
        os.setxattr(folder.fd, below.OPAQUE, b"y")
        folder.changed = True
        self._give_up(folder)  # what is below it is alone too, when it is opened again
        folder.alone = True

    def _hide_entries_of_root(self) -> None:
        """Overlayfs takes no root to be opaque: each name of the layers below is hidden."""
        if self.parents is None:
            self.depend("an opaque root")
            return
        for name in below.entries(self.parents):
            status = status_of(self.root.fd, name)
            if status is None:
                os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=self.root.fd)
            elif stat.S_ISDIR(status.st_mode):
                os.setxattr(self.at(self.root, name).fd, below.OPAQUE, b"y")

    # -- directories -------------------------------------------------------------------------------

    def find(self, path: bytes, *, keep: Folder | None = None, make_plain: bool = True) -> Folder:
        """The directory of a member's name; made, as it is in the layers below, if missing.

        Without `make_plain` one that the layers below don't have either raises Missing.
        """
        known = self._known.get(path)
        if known is None:
            known = self._walk(path, keep, make_plain)
            self._known[path] = known
        return known

    def _walk(self, whole: bytes, keep: Folder | None, make_plain: bool) -> Folder:
        parts = names.parts(whole) if whole else []
        pending = parts[::-1]
        folder = self.root
        links = steps = 0
        while pending:
            steps += 1
            if steps > _MOST_STEPS:
                raise ImageError(f"member `{names.display(whole)}`: its way is too long")
            part = pending.pop()
            if part == b"..":  # of a link
                pending.extend(reversed(names.link_parts(folder.path)[:-1]))
                folder = self.root
                continue
            step = self._step(folder, part, whole, make_plain)
            if isinstance(step, Folder):
                folder = step
                if len(self._held) > 2 * _MOST_HELD:
                    self._give_up(folder, keep)
                continue
            links += 1
            if links > _MOST_LINKS:
                raise ImageError(f"member `{names.display(whole)}`: too many links on its way")
            pending.extend(reversed(names.link_parts(step)))
            if step.startswith(b"/"):
                folder = self.root
        return folder

    def _step(self, folder: Folder, part: bytes, whole: bytes, make_plain: bool) -> Folder | bytes:
        """The directory of this name, or where the link of this name leads."""
        path = path_below(folder, part)
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
                raise Missing from None
            folder.changed = True
            os.unlink(part, dir_fd=folder.fd)
            made = self._make_new(folder, part)
            self.make_opaque(made)
            return made
        return self._hold(folder, fd, path)

    def _make(self, folder: Folder, part: bytes, whole: bytes, make_plain: bool) -> Folder | bytes:
        """A directory that no member made: as below if it is there, else plain."""
        path = path_below(folder, part)
        found = None
        if self.parents is None:
            self.depend(f"directory `{names.display(path)}`")
        elif not folder.alone:
            found = below.find(self.parents, names.link_parts(path))
        if found is None:
            if not make_plain and self.parents is not None:
                raise Missing
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

    def _make_new(self, folder: Folder, part: bytes) -> Folder:
        folder.changed = True
        os.mkdir(part, 0o755, dir_fd=folder.fd)
        made = self.at(folder, part)
        _make_plain(made)
        return made

    def at(self, folder: Folder, name: bytes) -> Folder:
        """A directory that is there, held."""
        path = path_below(folder, name)
        held = self._held.get(path)
        if held is not None:
            return held
        return self._hold(folder, os.open(name, _DIRECTORY, dir_fd=folder.fd), path)

    def _hold(self, above: Folder, fd: int, path: bytes) -> Folder:
        alone = above.alone or (self.opaque > 0 and below.is_opaque(fd))
        folder = Folder(fd, path, alone=alone)
        self._held[path] = folder
        return folder

    def _give_up(self, *kept: Folder | None) -> None:
        """Close what is held; the deepest first, so that no time is set too early."""
        self._known.clear()
        held, self._held = self._held, {}
        for folder in held.values():
            if folder in kept:
                self._held[folder.path] = folder
            else:
                folder.close()

    def clear(self, folder: Folder, name: bytes, *, keep: Folder | None = None) -> None:
        """Take away what has this name in the layer."""
        status = status_of(folder.fd, name)
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


def _no_directory(whole: bytes, path: bytes) -> ImageError:
    return ImageError(
        f"member below `{names.display(whole)}`: `{names.display(path)}` is no directory"
    )


def path_below(folder: Folder, name: bytes) -> bytes:
    """The name of something in a directory, from the root."""
    return folder.path + b"/" + name if folder.path else name


def _make_plain(folder: Folder) -> None:
    """What no member says anything about belongs to root and is as old as can be."""
    os.fchown(folder.fd, 0, 0)
    os.fchmod(folder.fd, 0o755)
    folder.setgid = False
    folder.mtime = 0
    folder.changed = True


def _copy_facts(lower: int, folder: Folder) -> None:
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


def status_of(folder: int, name: bytes) -> os.stat_result | None:
    """Of a name, not followed; None when there is none such."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
