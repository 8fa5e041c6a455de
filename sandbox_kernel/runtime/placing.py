"""Files of COPY, ADD and WORKDIR put into the root of a container, in a fork of its pid 1.

What a name leads to is looked up in the container's root after the change of roots, by openat2(2)
with RESOLVE_NO_MAGICLINKS and RESOLVE_NO_XDEV: a link of the image can lead anywhere in the image,
and neither to the host nor into /proc, /sys, /dev or a mount (CVE-2026-55686).

The stream is that of `transfer`, with records of `gathering`. Before the records of a source stands
one of kind `source`: `name`, `folder`, and `into`, a path below the destination.
"""

from __future__ import annotations

import os
import posixpath
import stat

from sandbox_kernel.containerfile import modes
from sandbox_kernel.errors import StepFailed
from sandbox_kernel.linux import paths, writing
from sandbox_kernel.runtime import accounts, gathering, transfer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

RESOLVE = paths.RESOLVE_IN_ROOT | paths.RESOLVE_NO_MAGICLINKS | paths.RESOLVE_NO_XDEV
ENOENT, ENOTDIR, EINVAL = 2, 20, 22


class Placing(transfer.Unpacking):
    """Puts the sources of one stream where they belong.

    `order`: `destination` (absolute; ends with `/` when it has to be a folder), `owner`
    (`user[:group]` of the image, or None: as the records say, else root), `mode` (a number, clauses
    of `modes`, or None), and
    `most_bytes`, `most_files`.
    """

    def __init__(self, source: int, order: Mapping[str, Any]) -> None:
        super().__init__(source, most_bytes=order["most_bytes"], most_files=order["most_files"])
        self._root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._destination: str = order["destination"]
        self._chmod: int | list[modes.Clause] | None = order["mode"]
        self._owner: tuple[int, int] | None = None
        if order["owner"] is not None:
            self._owner = accounts.owner(order["owner"])
        # A folder in memory that the build itself mounted may be filled, nothing else.
        self._resolve = RESOLVE & ~paths.RESOLVE_NO_XDEV if order.get("mounted") else RESOLVE
        self._base = ""
        self._name = ""
        self._folders: list[tuple[str, Mapping[str, Any]]] = []

    def work(self) -> None:
        """The whole stream. Raises StepFailed, CopyRefused, OSError."""
        while True:
            record = self._record()
            kind = record.get("kind")
            if kind == "end":
                break
            if kind == "failed":
                raise StepFailed("copy", str(record.get("path", "")), str(record.get("why")))
            if kind == "source":
                self._begin(record)
                continue
            path = transfer.checked(record.get("path"))
            self._count(path or [self._name])
            where = posixpath.join(self._base, self._name, *path)
            try:
                self._put(where, record, top=not path)
            except OSError as error:
                why = os.strerror(error.errno or 0)
                raise StepFailed("write", where, why, error.errno or 0) from error
        # What was put into a folder changed its time.
        for where, record in reversed(self._folders):
            folder = self._open(where)
            try:
                self._set_time(folder, record)
            finally:
                os.close(folder)

    def _begin(self, record: Mapping[str, Any]) -> None:
        """A new source: where its records go."""
        destination = self._destination
        into = "/".join(transfer.checked(record.get("into", "")))
        if into:
            destination = posixpath.join(destination, into) + "/"
        if record["folder"]:
            self._base, self._name = destination.rstrip("/") or "/", ""
        elif destination.endswith("/") or self._is_folder(destination):
            name = transfer.checked(record["name"])
            self._base, self._name = destination.rstrip("/") or "/", name[-1]
        else:
            self._base, self._name = posixpath.split(destination)
        os.close(self.make_folder(self._base))

    def _open(self, path: str) -> int:
        return paths.open_below(self._root, path, os.O_RDONLY | os.O_DIRECTORY, self._resolve)

    def _is_folder(self, path: str) -> bool:
        try:
            os.close(self._open(path))
        except OSError as error:
            if error.errno in (ENOENT, ENOTDIR):
                return False
            raise StepFailed("copy to", path, os.strerror(error.errno or 0)) from error
        return True

    def make_folder(self, path: str, mode: int = 0o755) -> int:
        """A folder and those above it that are missing, open. Raises StepFailed."""
        here, at = self._open("/"), ""
        try:
            for name in (part for part in path.split("/") if part):
                at = f"{at}/{name}"
                try:
                    below = self._open(at)
                except FileNotFoundError:
                    os.mkdir(name, 0o700, dir_fd=here)
                    below = self._open(at)
                    _give(below, self._owner or (0, 0))
                    os.fchmod(below, mode)
                os.close(here)
                here = below
        except OSError as error:
            os.close(here)
            raise StepFailed(
                "make folder", at, os.strerror(error.errno or 0), error.errno or 0
            ) from error
        return here

    def _put(self, where: str, record: Mapping[str, Any], *, top: bool) -> None:
        kind = record["kind"]
        if kind == "folder":
            self._put_folder(where, record, top=top)
            return
        folder = self._open(posixpath.dirname(where) or "/")
        name = posixpath.basename(where)
        try:
            if kind == "file":
                _clear(folder, name)
                self._put_file(folder, name, record)
            elif kind == "hard":
                self._link(folder, name, record)
            elif kind == "link":
                _clear(folder, name)
                os.symlink(transfer.text_of(record), name, dir_fd=folder)
                _give(name, self._ids(record), folder)
                times = self._times(record)
                os.utime(name, ns=times, dir_fd=folder, follow_symlinks=False)
            else:
                raise StepFailed("copy", where, f"a record of kind `{kind}` is unknown")
        finally:
            os.close(folder)

    def _link(self, folder: int, name: str, record: Mapping[str, Any]) -> None:
        """A further name of a file that the stream made before."""
        path = transfer.checked(record.get("target"))
        above = self._open(posixpath.join(self._base, self._name, *path[:-1]))
        try:
            if _is_same((above, path[-1]), (folder, name)):
                return  # a link among the folders led both names to one place
            _clear(folder, name)
            os.link(path[-1], name, src_dir_fd=above, dst_dir_fd=folder, follow_symlinks=False)
        finally:
            os.close(above)

    def _put_folder(self, where: str, record: Mapping[str, Any], *, top: bool) -> None:
        """Of a source that is a folder only what is in it counts: the destination stays its own."""
        if top:
            return
        folder = self._open(where) if self._is_folder(where) else self.make_folder(where)
        try:
            _give(folder, self._ids(record))
            os.fchmod(folder, self._mode(record))
            _set_attributes(folder, record)
        finally:
            os.close(folder)
        self._folders.append((where, record))

    def _put_file(self, folder: int, name: str, record: Mapping[str, Any]) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(name, flags, 0o600, dir_fd=folder)
        try:
            for data in self._content(name):
                writing.whole(file, data)
            _give(file, self._ids(record))
            os.fchmod(file, self._mode(record))
            _set_attributes(file, record)
            self._set_time(file, record)
        finally:
            os.close(file)

    def _ids(self, record: Mapping[str, Any]) -> tuple[int, int]:
        return self._owner or (int(record.get("uid", 0)), int(record.get("gid", 0)))

    def _mode(self, record: Mapping[str, Any]) -> int:
        if isinstance(self._chmod, int):
            return self._chmod
        mode = int(record.get("mode", 0o644)) & modes.LARGEST
        folder = record["kind"] == "folder"
        return mode if self._chmod is None else modes.apply(mode, self._chmod, folder=folder)

    @staticmethod
    def _times(record: Mapping[str, Any]) -> tuple[int, int]:
        time = int(record.get("mtime", 0))
        return time, time

    def _set_time(self, file: int, record: Mapping[str, Any]) -> None:
        os.utime(file, ns=self._times(record))


def _give(place: int | str, ids: tuple[int, int], folder: int | None = None) -> None:
    """Give something to its owner. Raises StepFailed for an id that the container does not have."""
    try:
        os.chown(place, *ids, dir_fd=folder, follow_symlinks=isinstance(place, int))
    except OSError as error:
        if error.errno != EINVAL:
            raise
        raise StepFailed(
            "give to",
            f"{ids[0]}:{ids[1]}",
            "this user may not map such an id: as root give him "
            "ranges: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 NAME",
            EINVAL,
        ) from None


def _set_attributes(file: int, record: Mapping[str, Any]) -> None:
    """After its owner and content: a change of either takes the capabilities of a file away."""
    for attribute, value in record.get("attributes", {}).items():
        if not gathering.is_kept(attribute):
            continue
        try:
            os.setxattr(file, attribute, bytes.fromhex(value))
        except OSError as error:
            # Before Linux 6.6 files in memory have none of the user's; docker goes on without, too.
            if error.errno != gathering.EOPNOTSUPP:
                raise


def _is_same(one: tuple[int, str], other: tuple[int, str]) -> bool:
    """Whether two names, each in its folder, are of one file."""
    try:
        found = [os.stat(name, dir_fd=at, follow_symlinks=False) for at, name in (one, other)]
    except FileNotFoundError:
        return False
    return os.path.samestat(*found)


def _clear(folder: int, name: str) -> None:
    """Take away what has the name of a file that comes; a folder is never replaced by a file."""
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(found.st_mode):
        raise StepFailed("write", name, "there is a folder of that name: give another destination")
    os.unlink(name, dir_fd=folder)


def make_working_directory(order: Mapping[str, Any]) -> None:
    """WORKDIR: a folder that is made if it is missing, of the given user. Raises StepFailed."""
    placing = Placing(0, {**order, "mode": None, "most_bytes": 0, "most_files": 0})
    os.close(placing.make_folder(order["destination"]))
