"""The files of an image as its containers see them, read by descriptors in its layers only.

Layers are put together as overlayfs does it (overlayfs.rst: whiteouts, opaque directories, with
the option userxattr), but nothing is mounted and nothing is run. A link is followed inside the
image: an absolute one begins at its root, and none leads out.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack

WHITEOUT = "user.overlay.whiteout"
OPAQUE = "user.overlay.opaque"
MOST_TURNS = 200
"""Links and `..` on one way; path_resolution(7) allows 40 links."""
MOST_NAMES = 100_000
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Tree:
    """The merged view of layers, lowest first. A context manager: it holds a descriptor of each."""

    def __init__(self, layers: tuple[str, ...]) -> None:
        self._held = ExitStack()
        self._roots: list[int] = []
        try:
            for layer in reversed(layers):
                root = os.open(layer, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                self._held.callback(os.close, root)
                self._roots.append(root)
        except BaseException:
            self._held.close()
            raise

    def __enter__(self) -> Tree:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def real(self, path: str) -> str:
        """The path with no link in it. Raises FileNotFoundError, NotADirectoryError, ELOOP."""
        return self._walk(path)[0]

    def exists(self, path: str) -> bool:
        """Whether there is something, at the end of links too."""
        try:
            self._walk(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def is_folder(self, path: str) -> bool:
        """Whether there is a folder, at the end of links too."""
        try:
            return stat.S_ISDIR(self._walk(path)[1].st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def open(self, path: str) -> int:
        """A descriptor to read a regular file, the caller's. Raises OSError."""
        with ExitStack() as folders:
            _, seen, parents, name = self._find(path, folders)
            if not stat.S_ISREG(seen.st_mode):
                raise FileNotFoundError(errno.ENOENT, "no regular file", path)
            # The highest that has the name is the one that is seen.
            for parent in parents:
                try:
                    return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
                except FileNotFoundError:
                    continue
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    def read(self, path: str, most: int) -> bytes:
        """The content of a regular file of at most `most` bytes. Raises OSError; EFBIG above."""
        with open(self.open(path), "rb") as file:
            data = file.read(most + 1)
        if len(data) > most:
            raise OSError(errno.EFBIG, f"more than {most} bytes", path)
        return data

    def names(self, path: str) -> list[str]:
        """What lies in a folder, sorted. Raises OSError."""
        with ExitStack() as held:
            _, seen, parents, name = self._find(path, held)
            if not stat.S_ISDIR(seen.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
            found: dict[str, bool] = {}
            for folder in self._roots if name == "" else _merged(parents, name, held):
                for entry in os.listdir(folder):
                    if entry not in found:
                        found[entry] = not _is_whiteout(folder, entry)
                if len(found) > MOST_NAMES:
                    raise OSError(errno.EFBIG, f"more than {MOST_NAMES} names", path)
            return sorted(entry for entry, there in found.items() if there)

    def _walk(self, path: str) -> tuple[str, os.stat_result]:
        with ExitStack() as folders:
            found, seen, _, _ = self._find(path, folders)
            return found, seen

    def _find(self, path: str, held: ExitStack) -> tuple[str, os.stat_result, list[int], str]:
        """Real path, what is there, its parents (highest first) and its name in them."""
        for _ in range(MOST_TURNS):
            parents, walked = self._roots, list[str]()
            parts = [part for part in path.split("/") if part not in ("", ".")]
            seen = os.fstat(self._roots[0])
            for index, name in enumerate(parts):
                rest = parts[index + 1 :]
                if name == "..":
                    path = "/".join(["", *walked[:-1], *rest])
                    break
                found = _look_up(parents, name)
                if found is None:
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
                seen, parent = found
                if stat.S_ISLNK(seen.st_mode):
                    target = os.readlink(name, dir_fd=parent)
                    before = [] if target.startswith("/") else walked
                    path = "/".join(["", *before, target, *rest])
                    break
                walked.append(name)
                if rest:
                    if not stat.S_ISDIR(seen.st_mode):
                        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
                    parents = _merged(parents, name, held)
            else:
                return "/" + "/".join(walked), seen, parents, walked[-1] if walked else ""
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)


def _look_up(parents: list[int], name: str) -> tuple[os.stat_result, int] | None:
    """What a name is in the highest folder that has it; None: nowhere, or deleted."""
    for parent in parents:
        try:
            seen = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            continue
        return None if _is_whiteout(parent, name, seen) else (seen, parent)
    return None


def _merged(parents: list[int], name: str, held: ExitStack) -> list[int]:
    """The folders of one name that are seen as one, highest first."""
    found: list[int] = []
    for parent in parents:
        try:
            folder = os.open(name, _FOLDER, dir_fd=parent)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                break  # a file, link or whiteout hides what lies below it
            raise
        held.callback(os.close, folder)
        found.append(folder)
        if _attribute(folder, OPAQUE) == b"y":
            break
    return found


def _is_whiteout(parent: int, name: str, seen: os.stat_result | None = None) -> bool:
    if seen is None:
        try:
            seen = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return True
    if stat.S_ISCHR(seen.st_mode):
        return seen.st_rdev == 0
    if not stat.S_ISREG(seen.st_mode) or seen.st_size:
        return False
    file = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        return _attribute(f"/proc/self/fd/{file}", WHITEOUT) is not None
    finally:
        os.close(file)


def _attribute(place: int | str, name: str) -> bytes | None:
    try:
        return os.getxattr(place, name)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return None
        raise
