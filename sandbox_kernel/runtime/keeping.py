"""The writable files of a container as they were at several moments, kept to be put back.

Runs in the container as a fork of pid 1 that became what the container's programs are (see
`transfer`): its root, identity, limits. So it can read and change what a cell can, and nothing
else; what it keeps lies in its own memory, which counts against the container's limit. Mounts of
the caller and of the kernel are passed over.

Files of an image's layers are not copied as long as they are as the image has them: what they were
is read from the layer when it is wanted, below its folder and through no link.

What has the inode, size and times of the last moment is not read again. Times tick in steps, so a
file that was changed in the same tick as it was read would look unchanged: one that is as young as
that is read again the next time. On older kernels, writes through a shared map of a file in memory
change no time at all: with `thorough`, all files are compared.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import time

from sandbox_kernel.linux import paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

ROOTS = ("/", "/dev/shm")  # noqa: S108 - the container's own
TICK = 20_000_000  # nanoseconds: more than the longest tick of CONFIG_HZ=100
CLOCK_REALTIME_COARSE = 5  # <linux/time.h>: the clock that inodes get their times of
DEEPEST = 250
LONGEST = 1 << 16
EACCES = 13
MOST_NAMED = 20


class TooMuch(Exception):
    """The files are more than may be kept."""


class OfTheImage:
    """The content of a file as a layer of the image has it."""

    __slots__ = ("layer", "path")

    def __init__(self, layer: int, path: str) -> None:
        self.layer = layer
        self.path = path

    def pieces(self) -> tuple[tuple[int, bytes], ...]:
        """Read now. OSError."""
        file = _open_in(self.layer, self.path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            return tuple(_pieces(file))
        finally:
            os.close(file)


class Entry:
    """One name at one moment."""

    __slots__ = ("content", "found", "young")

    def __init__(self, found: os.stat_result, content: Any, *, young: bool) -> None:
        self.found = found
        self.content = content
        """Of a file: pieces (offset, bytes), or OfTheImage, or None: nobody could read it. Of a
        link: its target. Else None."""
        self.young = young

    @property
    def size(self) -> int:
        """Bytes that it keeps."""
        if isinstance(self.content, tuple):
            return sum(len(data) for _, data in self.content)
        return 0


class Keeper:
    """Moments by number; the newest is what the next one is compared with."""

    def __init__(self, roots: tuple[str, ...], layers: Sequence[int] = ()) -> None:
        self._roots = roots
        self._layers = tuple(reversed(layers))  # the highest first
        self._moments: dict[int, dict[str, Entry]] = {}
        self._last: dict[str, Entry] = {}
        self._closed: dict[int, tuple[str, ...]] = {}
        """Folders into which nobody could look then: what is below is left alone."""
        self._shut: list[str] = []

    def keep(self, number: int, most: int, *, thorough: bool) -> dict[str, Any]:
        """Keep the files as they are now under a number. Raises TooMuch, and keeps nothing then."""
        left = most - self.bytes
        now = _coarse_time()
        moment: dict[str, Entry] = {}
        for path, found in self._walk():
            old = self._last.get(path)
            if old is not None and not old.young and not thorough and _same(old.found, found):
                moment[path] = old
                continue
            content = None if self._last else self._of_the_image(path, found)
            content = content or _read(path, found, left)
            if old is not None and old.content == content:
                content = old.content  # one copy for all moments
            elif isinstance(content, tuple):
                left -= sum(len(data) for _, data in content)
            moment[path] = Entry(found, content, young=found.st_ctime_ns >= now - TICK)
        self._moments[number] = self._last = moment
        self._closed[number] = tuple(self._shut)
        return {"bytes": self.bytes, "files": len(moment)}

    def _of_the_image(self, path: str, found: os.stat_result) -> OfTheImage | None:
        """Before anything has run, what a layer has under this name is what is seen."""
        if not stat.S_ISREG(found.st_mode):
            return None
        for layer in self._layers:
            try:
                file = _open_in(layer, path, os.O_RDONLY | os.O_NONBLOCK)
            except OSError:
                continue  # another layer has it, or nobody else may read it
            kept = os.fstat(file)
            os.close(file)
            if (kept.st_size, kept.st_mtime_ns) == (found.st_size, found.st_mtime_ns):
                return OfTheImage(layer, path)
        return None

    def drop(self, number: int) -> dict[str, Any]:
        """A moment that is wanted no more."""
        self._moments.pop(number, None)
        self._closed.pop(number, None)
        return {"bytes": self.bytes}

    def restore(self, number: int) -> dict[str, Any]:
        """Make the files what they were. What can't be put back is named."""
        goal = self._moments[number]
        problems: list[str] = []
        present = dict(self._walk())
        for path in sorted(present):  # what is above comes first
            _try(problems, path, _open_folder, path, present[path])
        closed = self._closed[number]
        for path in sorted(present, reverse=True):  # what is below comes first
            kept = goal.get(path)
            if kept is None and any(path.startswith(folder + "/") for folder in closed):
                continue
            if kept is None or stat.S_IFMT(kept.found.st_mode) != stat.S_IFMT(
                present[path].st_mode
            ):
                _try(problems, path, _remove, path, present[path])
        changed = []
        inodes: dict[tuple[int, int], str] = {}
        for path in sorted(goal):
            kept = goal[path]
            if not kept.young and _is_now(path, kept.found) and not self._is_mapped(kept):
                inodes.setdefault((kept.found.st_dev, kept.found.st_ino), path)
                continue
            changed.append(path)
            _try(problems, path, _put, path, kept, inodes)
        for path in sorted(goal, reverse=True):  # folders after what is in them
            _try(problems, path, self._finish, goal, path)
        self._last = goal
        problems = problems[:MOST_NAMED]
        return {"bytes": self.bytes, "restored": len(changed), "problems": problems}

    def _is_mapped(self, kept: Entry) -> bool:
        """A file could have been written through a map, which no time tells: compare it."""
        return isinstance(kept.content, tuple)

    def _finish(self, goal: dict[str, Entry], path: str) -> None:
        """Owner and mode of a folder, the times of anything; and how to know it from now on."""
        kept = goal[path]
        found = os.stat(path, follow_symlinks=False)
        if _same(found, kept.found):
            return
        if stat.S_ISDIR(kept.found.st_mode):
            _put_owner_and_mode(path, kept.found)
        _put_times(path, kept.found)
        found = os.stat(path, follow_symlinks=False)
        if found.st_mode == kept.found.st_mode:
            goal[path] = Entry(found, kept.content, young=True)

    @property
    def bytes(self) -> int:
        """What all moments keep together, each content once."""
        seen: set[int] = set()
        total = 0
        for moment in self._moments.values():
            for entry in moment.values():
                if id(entry.content) not in seen:
                    seen.add(id(entry.content))
                    total += entry.size
        return total

    def _walk(self) -> Iterator[tuple[str, os.stat_result]]:
        mounted = _mount_points()
        self._shut = []
        for root in self._roots:
            yield from _below(root.rstrip("/"), mounted, 0, self._shut)


def _below(
    folder: str, mounted: set[str], depth: int, shut: list[str]
) -> Iterator[tuple[str, os.stat_result]]:
    try:
        names = sorted(os.listdir(folder or "/"))
    except FileNotFoundError:
        return
    except OSError:
        shut.append(folder)
        return
    for name in names:
        path = f"{folder}/{name}"
        if path in mounted:
            continue
        try:
            found = os.stat(path, follow_symlinks=False)
        except OSError:
            continue  # it went away meanwhile
        if not stat.S_ISDIR(found.st_mode) or depth >= DEEPEST:
            yield path, found
            continue
        # A folder of ours that its owner may not enter is opened for the look into it.
        wanted = found.st_mode | 0o700
        opened = found.st_mode != wanted and found.st_uid == os.geteuid()
        if opened:
            os.chmod(path, stat.S_IMODE(wanted))
        try:
            yield from _below(path, mounted, depth + 1, shut)
        finally:
            if opened:
                os.chmod(path, stat.S_IMODE(found.st_mode))
                found = os.stat(path, follow_symlinks=False)
        yield path, found


def _mount_points() -> set[str]:
    """proc(5), mountinfo: the fifth field, with octal escapes."""
    points = set()
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            point = line.split(" ")[4]
            for code, char in (("040", " "), ("011", "\t"), ("012", "\n"), ("134", "\\")):
                point = point.replace("\\" + code, char)
            points.add(point)
    return points


def _coarse_time() -> int:
    return time.clock_gettime_ns(CLOCK_REALTIME_COARSE)


def _same(one: os.stat_result, other: os.stat_result) -> bool:
    return (
        one.st_ino == other.st_ino
        and one.st_ctime_ns == other.st_ctime_ns
        and one.st_mtime_ns == other.st_mtime_ns
        and one.st_size == other.st_size
        and one.st_mode == other.st_mode
        and one.st_nlink == other.st_nlink
    )


def _is_now(path: str, kept: os.stat_result) -> bool:
    try:
        return _same(os.stat(path, follow_symlinks=False), kept)
    except OSError:
        return False


def _read(path: str, found: os.stat_result, most: int) -> Any:
    """What is in a file or link; None for what can't be read or has no content."""
    try:
        if stat.S_ISLNK(found.st_mode):
            return os.readlink(path)
        if not stat.S_ISREG(found.st_mode):
            return None
        file = _open_own(path, found)
    except OSError:
        return None
    try:
        if found.st_blocks * 512 > most:
            raise TooMuch(path)
        return tuple(_pieces(file))
    finally:
        os.close(file)


def _open_own(path: str, found: os.stat_result) -> int:
    """A file for reading, also one of ours that its owner may not read. OSError."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    if found.st_mode & 0o400 or found.st_uid != os.geteuid():
        return os.open(path, flags)
    os.chmod(path, stat.S_IMODE(found.st_mode) | 0o400, follow_symlinks=True)
    try:
        return os.open(path, flags)
    finally:
        os.chmod(path, stat.S_IMODE(found.st_mode))


def _open_in(layer: int, path: str, flags: int) -> int:
    beneath = paths.RESOLVE_NO_SYMLINKS | paths.RESOLVE_BENEATH
    return paths.open_below(layer, path.lstrip("/"), flags | os.O_NOFOLLOW, beneath)


def _pieces(file: int) -> Iterator[tuple[int, bytes]]:
    """Data without the holes between it."""
    end = os.fstat(file).st_size
    at = 0
    while at < end:
        try:
            start = os.lseek(file, at, os.SEEK_DATA)
        except OSError:
            return  # nothing but a hole until the end
        stop = os.lseek(file, start, os.SEEK_HOLE)
        yield start, _exactly(file, start, stop - start)
        at = stop


def _exactly(file: int, start: int, length: int) -> bytes:
    parts = []
    while length > 0:
        data = os.pread(file, length, start)
        if not data:
            break
        parts.append(data)
        start += len(data)
        length -= len(data)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _try(problems: list[str], path: str, action: Any, *arguments: Any) -> None:
    try:
        action(*arguments)
    except OSError as error:
        problems.append(f"{_readable(path)}: {os.strerror(error.errno or 0)}")


def _readable(path: str) -> str:
    """Names are bytes in any encoding; JSON is not."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")[:4096]


def _open_folder(path: str, found: os.stat_result) -> None:
    """A folder of ours that its owner may not change is opened until all is put back."""
    wanted = found.st_mode | 0o700
    if stat.S_ISDIR(found.st_mode) and wanted != found.st_mode and found.st_uid == os.geteuid():
        os.chmod(path, stat.S_IMODE(wanted))


def _remove(path: str, found: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode):
        os.rmdir(path)
    else:
        os.unlink(path)


def _put(path: str, kept: Entry, inodes: dict[tuple[int, int], str]) -> None:
    """Make one name what it was: kind, content, link, mode, owner."""
    mode = kept.found.st_mode
    place = (kept.found.st_dev, kept.found.st_ino)
    if stat.S_ISLNK(mode):
        _put_link(path, str(kept.content))
        return
    if stat.S_ISDIR(mode):
        if not os.path.lexists(path):
            os.mkdir(path, 0o700)
        return  # the rest when all that is below is put back
    if stat.S_ISREG(mode):
        if kept.found.st_nlink > 1 and place in inodes:
            if not _is_same_file(path, inodes[place]):
                if os.path.lexists(path):
                    os.unlink(path)
                os.link(inodes[place], path)
            return
        inodes[place] = path
        if kept.content is None:
            if not os.path.lexists(path):
                raise PermissionError(EACCES, "it could not be read when it was kept")
            return
        _put_content(path, kept)
    elif stat.S_ISFIFO(mode) and not os.path.lexists(path):
        os.mkfifo(path, 0o600)
    _put_owner_and_mode(path, kept.found)


def _put_link(path: str, target: str) -> None:
    if os.path.lexists(path):
        if os.readlink(path) == target:
            return
        os.unlink(path)
    os.symlink(target, path)


def _is_same_file(path: str, other: str) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.lstat(other))
    except OSError:
        return False


def _put_content(path: str, kept: Entry) -> None:
    """In the same file where it is still there: who has it open or mapped sees it put back, too."""
    content = kept.content
    pieces = content.pieces() if isinstance(content, OfTheImage) else content or ()
    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_CREAT
    before = os.lstat(path).st_mode if os.path.lexists(path) else None
    if before is not None and before & 0o600 != 0o600:
        os.chmod(path, before & 0o7777 | 0o600)
    file = os.open(path, os.O_RDWR | flags, 0o600)
    try:
        size = kept.found.st_size
        if os.fstat(file).st_size == size and tuple(_pieces(file)) == pieces:
            return
        os.ftruncate(file, 0)
        for start, data in pieces:
            view = memoryview(data)
            while view:
                done = os.pwrite(file, view, start)
                start += done  # noqa: PLW2901
                view = view[done:]
        os.ftruncate(file, size)
    finally:
        os.close(file)


def _put_owner_and_mode(path: str, found: os.stat_result) -> None:
    now = os.lstat(path)
    if (now.st_uid, now.st_gid) != (found.st_uid, found.st_gid):
        os.chown(path, found.st_uid, found.st_gid, follow_symlinks=False)
    if os.lstat(path).st_mode != found.st_mode:
        os.chmod(path, found.st_mode & 0o7777)


def _put_times(path: str, found: os.stat_result) -> None:
    if os.lstat(path).st_mtime_ns != found.st_mtime_ns:
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns), follow_symlinks=False)


def serve(descriptor: int, layers: Sequence[int]) -> None:
    """Answer requests (`do`: keep, restore, drop) on a socket until its other end is closed.

    `layers`: descriptors of the image's layers, the lowest first.
    """
    channel = socket.socket(fileno=descriptor)
    mounted = _mount_points()
    keeper = Keeper(tuple(root for root in ROOTS if root == "/" or root in mounted), layers)
    while data := channel.recv(LONGEST):
        channel.send(json.dumps(_answer(keeper, json.loads(data))).encode())


def _answer(keeper: Keeper, asked: Mapping[str, Any]) -> dict[str, Any]:
    number = asked["number"]
    try:
        if asked["do"] == "keep":
            return keeper.keep(number, asked["most"], thorough=asked["thorough"])
        if asked["do"] == "restore":
            return keeper.restore(number)
        return keeper.drop(number)
    except TooMuch as error:
        return {"bytes": keeper.bytes, "too_much": _readable(str(error))}
    except (OSError, MemoryError, KeyError) as error:
        return {"failed": _readable(repr(error))}
