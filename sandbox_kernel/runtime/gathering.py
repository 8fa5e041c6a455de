"""Files that COPY names, found below a root by descriptors and given on one after another.

The root is a build's context on the host, or the root of a container of another stage. No link
leads out of it: a source that is a link is resolved within the root (RESOLVE_IN_ROOT), and below a
source links are copied as links (CVE-2024-1753). Each folder is opened relative to the one before
it, so a link that is put into its place meanwhile is not followed.
"""

from __future__ import annotations

import os
import stat

from sandbox_kernel.containerfile.glob import Glob
from sandbox_kernel.errors import StepFailed
from sandbox_kernel.linux import paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, NoReturn

    from sandbox_kernel.containerfile.ignore import Ignored, State

EOPNOTSUPP = 95
DEEPEST = 250
MOST_FILES = 2_000_000
WITHIN = paths.RESOLVE_IN_ROOT | paths.RESOLVE_NO_MAGICLINKS


class Pattern:
    """Where a pattern was written, for its errors: whoever knows the line says it."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def fail(self, why: str) -> NoReturn:
        """Raises StepFailed."""
        raise StepFailed("read", self.text, why)


class Found:
    """One thing to copy. `path`: below the source, as its names; `shown`: below the root."""

    __slots__ = ("descriptor", "kind", "path", "shown", "stat", "target")

    def __init__(
        self, path: str, shown: str, found: os.stat_result, descriptor: int, target: str
    ) -> None:
        mode = found.st_mode
        self.kind = "folder" if stat.S_ISDIR(mode) else "link" if stat.S_ISLNK(mode) else "file"
        """Or `hard`: a further name of a file that was given before."""
        self.path = path
        self.shown = shown
        self.stat = found
        self.descriptor = descriptor
        """Of a file or folder, for reading, closed by who opened it; else -1."""
        self.target = target
        """Of a link; of a further name, the `path` of the first one."""


class Gathering:
    """Goes through what some patterns name below a root, in the order of names."""

    def __init__(
        self,
        root: int,
        give: Callable[[Found], None],
        *,
        ignored: Ignored | None = None,
        excluded: Ignored | None = None,
        one_mount: bool = False,
    ) -> None:
        self._root = root
        self._give = give
        self._ignored = ignored
        self._excluded = excluded
        self._resolve = WITHIN | (paths.RESOLVE_NO_XDEV if one_mount else 0)
        self._count = 0
        self._names: dict[tuple[int, int], str] = {}
        """Of the present source, the first name of each file that has several."""

    def sources(self, pattern: Glob) -> list[str]:
        """The paths below the root that a pattern meets, without what is ignored."""
        if pattern.is_plain:
            name = pattern.pattern.strip("/")
            return [] if self._is_ignored(name) else [name]
        found: list[str] = []
        self._search("", pattern, pattern.start, None, found, 0)
        return found

    def is_folder(self, path: str) -> bool:
        """Whether a source is a folder, its links followed within the root. Raises StepFailed."""
        place = self._open(path, os.O_PATH)
        try:
            return stat.S_ISDIR(os.fstat(place).st_mode)
        finally:
            os.close(place)

    def give(self, path: str) -> None:
        """One source: a file, or a folder with all that is below it. Raises StepFailed.

        Names of one file stay so within a source, as docker and buildah have it. Only what is given
        counts: where the first name is left out, the second one is the file.
        """
        self._names.clear()
        place = self._open(path, os.O_PATH)
        try:
            found = os.fstat(place)
        finally:
            os.close(place)
        if stat.S_ISDIR(found.st_mode):
            folder = self._open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                self._give(Found("", path, found, folder, ""))
                self._below(folder, "", path, self._state_of(path), None, 0)
            finally:
                os.close(folder)
            return
        name = path.rpartition("/")[2]
        if self._excluded and self._excluded.is_left_out(name)[0]:
            return
        if not stat.S_ISREG(found.st_mode):
            raise StepFailed("copy", path, "it is no file, folder or link")
        file = self._open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            self._give(Found("", path, os.fstat(file), file, ""))
        finally:
            os.close(file)

    def _open(self, path: str, flags: int) -> int:
        try:
            return paths.open_below(self._root, path or ".", flags, self._resolve)
        except OSError as error:
            why = os.strerror(error.errno or 0)
            raise StepFailed("copy", path or "/", why, error.errno or 0) from error

    def _is_ignored(self, path: str) -> bool:
        """Whether a path is left out, by itself or with a folder above it."""
        if not self._ignored or not path:
            return False
        left_out, above = False, None
        names = path.split("/")
        for depth in range(1, len(names) + 1):
            left_out, above = self._ignored.is_left_out("/".join(names[:depth]), above)
        # A folder that is left out may hold what is kept: then it is looked into.
        return left_out and not self._ignored.may_keep_below()

    def _state_of(self, path: str) -> State | None:
        if not self._ignored or not path:
            return None
        above = None
        names = path.split("/")
        for depth in range(1, len(names) + 1):
            _, above = self._ignored.is_left_out("/".join(names[:depth]), above)
        return above

    def _entries(
        self, folder: int, shown: str, above: State | None
    ) -> Iterator[tuple[str, str, os.stat_result, bool, State | None]]:
        """Name, path, kind, whether it is left out, and its state, of what is in a folder."""
        for name in sorted(os.listdir(folder), key=os.fsencode):
            self._count += 1
            path = f"{shown}/{name}" if shown else name
            if self._count > MOST_FILES:
                raise StepFailed("copy", path, f"there are more than {MOST_FILES} files")
            left_out, state = False, None
            if self._ignored:
                left_out, state = self._ignored.is_left_out(path, above)
                if left_out and not self._ignored.may_keep_below():
                    continue
            try:
                found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                continue  # it went away meanwhile
            yield name, path, found, left_out, state

    def _search(
        self,
        shown: str,
        pattern: Glob,
        states: frozenset[int],
        above: State | None,
        into: list[str],
        depth: int,
    ) -> None:
        folder = self._open(shown, os.O_RDONLY | os.O_DIRECTORY)
        try:
            entries = list(self._entries(folder, shown, above))
        finally:
            os.close(folder)
        for name, path, found, left_out, state in entries:
            deeper = pattern.step(states, name)
            if not deeper:
                continue
            if pattern.is_met(deeper) and (not left_out or stat.S_ISDIR(found.st_mode)):
                into.append(path)
            elif stat.S_ISDIR(found.st_mode) and depth < DEEPEST:
                self._search(path, pattern, deeper, state, into, depth + 1)

    def _below(
        self,
        folder: int,
        relative: str,
        shown: str,
        above: State | None,
        excluded: State | None,
        depth: int,
    ) -> None:
        if depth > DEEPEST:
            raise StepFailed("copy", shown, f"it lies more than {DEEPEST} folders deep")
        for name, path, found, left_out, state in self._entries(folder, shown, above):
            below = f"{relative}/{name}" if relative else name
            without: State | None = None
            if self._excluded:
                out, without = self._excluded.is_left_out(below, excluded)
                if out and not self._excluded.may_keep_below():
                    continue
                left_out = left_out or out  # noqa: PLW2901 - either leaves it out
            if stat.S_ISDIR(found.st_mode):
                self._enter(folder, name, (below, path), left_out, (state, without), depth)
            elif left_out:
                continue
            elif stat.S_ISLNK(found.st_mode):
                self._give(Found(below, path, found, -1, _target(folder, name, path)))
            elif stat.S_ISREG(found.st_mode):
                self._file(folder, name, below, path)
            elif not stat.S_ISSOCK(found.st_mode):  # nobody listens to a socket in an image
                raise StepFailed("copy", path, "it is no file, folder or link")

    def _enter(
        self,
        folder: int,
        name: str,
        names: tuple[str, str],
        left_out: bool,
        states: tuple[State | None, State | None],
        depth: int,
    ) -> None:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            inner = os.open(name, flags, dir_fd=folder)
        except OSError as error:
            why = os.strerror(error.errno or 0)
            raise StepFailed("copy", names[1], why, error.errno or 0) from error
        try:
            if not left_out:
                self._give(Found(*names, os.fstat(inner), inner, ""))
            self._below(inner, *names, *states, depth + 1)
        finally:
            os.close(inner)

    def _file(self, folder: int, name: str, below: str, path: str) -> None:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            file = os.open(name, flags, dir_fd=folder)
        except OSError as error:
            why = os.strerror(error.errno or 0)
            raise StepFailed("copy", path, why, error.errno or 0) from error
        try:
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode):
                raise StepFailed("copy", path, "it is no file any more: it was changed meanwhile")
            self._give(self._named(Found(below, path, found, file, "")))
        finally:
            os.close(file)

    def _named(self, file: Found) -> Found:
        if file.stat.st_nlink > 1:
            first = self._names.setdefault((file.stat.st_dev, file.stat.st_ino), file.path)
            if first != file.path:
                file.kind, file.target = "hard", first
        return file


def matching(
    gatherer: Gathering, pattern: str, *, parents: bool
) -> Iterator[tuple[str, bool, str]]:
    """Each source that a pattern of COPY names: path, whether it is a folder, where it goes.

    With `parents` it keeps the folders above it, or those after `/./`. Raises StepFailed when there
    is none, or it is no pattern, or has `..`.
    """
    if ".." in pattern.split("/"):
        raise StepFailed("copy", pattern, "a source has no `..`: it lies in the context or stage")
    before, pivot, _ = pattern.partition("/./")
    clean = _clean(pattern)
    found = gatherer.sources(Glob(clean, Pattern(pattern)))
    if not found:
        raise StepFailed("copy", pattern, "nothing there has this name, or it is ignored")
    base = _clean(before) if pivot else ""
    for path in found:
        folder = gatherer.is_folder(path)
        into = ""
        if parents:
            into = path[len(base) :].strip("/")
            into = into if folder else into.rpartition("/")[0]
        yield path, folder, into


def _target(folder: int, name: str, path: str) -> str:
    try:
        return os.readlink(name, dir_fd=folder)
    except OSError as error:  # EINVAL: it is no link any more
        why = "it is no link any more: it was changed meanwhile"
        raise StepFailed("copy", path, why, error.errno or 0) from error


def _clean(path: str) -> str:
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def open_within(root: int, path: str) -> int:
    """A regular file below a root, for reading. Raises StepFailed."""
    try:
        file = paths.open_below(root, path, os.O_RDONLY | os.O_NONBLOCK, WITHIN)
    except OSError as error:
        raise StepFailed("read", path, os.strerror(error.errno or 0), error.errno or 0) from error
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise StepFailed("read", path, "it is no file")
    return file


def record(found: Found, *, own: bool) -> dict[str, Any]:
    """What `placing` needs to know of it. `own`: with its owner."""
    made: dict[str, Any] = {
        "kind": found.kind,
        "path": found.path,
        "mode": stat.S_IMODE(found.stat.st_mode),
        "mtime": found.stat.st_mtime_ns,
    }
    if found.kind in ("link", "hard"):
        made["target"] = found.target
    if own:
        made["uid"], made["gid"] = found.stat.st_uid, found.stat.st_gid
    if kept := attributes(found):
        made["attributes"] = kept
    return made


def is_kept(attribute: str) -> bool:
    """Whether an extended attribute belongs to the image: file capabilities, and the user's own."""
    own = attribute.startswith("user.") and not attribute.startswith("user.overlay.")
    return own or attribute == "security.capability"


def attributes(found: Found) -> dict[str, str]:
    """The extended attributes of a file or folder that are kept, in hexadecimal."""
    if found.kind not in ("file", "folder"):
        return {}
    try:
        names: Sequence[str] = os.listxattr(found.descriptor)
    except OSError as error:
        if error.errno != EOPNOTSUPP:
            raise
        return {}  # its file system has none, as many of FUSE
    return {
        name: os.getxattr(found.descriptor, name).hex() for name in sorted(names) if is_kept(name)
    }
