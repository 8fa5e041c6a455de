"""What changed in a container's files as a layer: a tar as the OCI image specification has it.

Source: image-spec, layer.md.

Runs in a fork of the container's pid 1, so that owners are those of the image, files that their
owner may not read can be read, and nothing of the host is reached. First everything else that still
runs in the container is ended: no process changes a file while it is read, none outlives a step.

Equal trees give equal bytes: names are sorted, times are whole seconds and, with `epoch`, not later
than that, and nothing tells of the machine (owners have no names, device numbers no meaning).
"""

from __future__ import annotations

import os
import signal
import stat

from sandbox_kernel.errors import StepFailed
from sandbox_kernel.linux import paths, writing
from sandbox_kernel.runtime.gathering import is_kept

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

BLOCK = 512
PIECE = 1 << 18
DEEPEST = 512
WHITEOUT_PREFIX = b".wh."
OPAQUE = b".wh..wh..opq"
# overlayfs.rst, "whiteouts and opaque directories", with the option userxattr.
_OVERLAY_WHITEOUT = "user.overlay.whiteout"
_OVERLAY_OPAQUE = "user.overlay.opaque"
_FIELD_OF_KIND = {stat.S_IFREG: b"0", stat.S_IFLNK: b"2", stat.S_IFCHR: b"3", stat.S_IFBLK: b"4",
    stat.S_IFDIR: b"5", stat.S_IFIFO: b"6"}  # fmt: skip
_LARGEST_OCTAL = 0o7777777
_LARGEST_SIZE = 0o77777777777


def serve(order: Mapping[str, Any]) -> None:
    """Descriptor 0 is the writable layer, 1 takes the tar, 2 the last word: empty if all is well.

    `order`: `layered`, `made` (places that the runtime itself put there), `epoch` or None.
    """
    try:
        end_others()
        root = _open(0, "upper") if order["layered"] else _open(0, ".")
        _Layer(order["made"], order["epoch"]).write(root)
    except StepFailed as error:
        os.write(2, str(error).encode()[:4000])
    except OSError as error:
        os.write(2, f"read the changed files: {os.strerror(error.errno or 0)}".encode())


def end_others() -> None:
    """End every process of the container but its pid 1, which the signal can't reach, and us."""
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        pass  # nothing else runs


def _open(folder: int, name: str) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    return paths.open_below(folder, name, flags, paths.RESOLVE_NO_SYMLINKS | paths.RESOLVE_BENEATH)


class _Layer:
    def __init__(self, made: list[str], epoch: int | None) -> None:
        self._made = frozenset(made)
        self._parents = frozenset(
            "/".join(path.split("/")[:depth])
            for path in made
            for depth in range(2, path.count("/") + 1)
        )
        self._epoch = epoch
        self._links: dict[tuple[int, int], bytes] = {}
        self._waiting: list[bytes] = []
        """Headers of folders that the runtime made, for when something of the image is in them."""
        self._wrote = False

    def write(self, root: int) -> None:
        self._folder(root, b"", 0)
        if self._wrote:  # no entries, no layer: not even the end of a tar
            writing.whole(1, bytes(2 * BLOCK))

    def _folder(self, folder: int, prefix: bytes, depth: int) -> None:
        if depth > DEEPEST:
            raise StepFailed("read", os.fsdecode(prefix), f"more than {DEEPEST} folders deep")
        device = os.fstat(folder).st_dev
        for name in sorted(os.fsencode(name) for name in os.listdir(folder)):
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            path = prefix + name
            if found.st_dev != device:
                continue  # a mount's
            if name.startswith(WHITEOUT_PREFIX):
                raise StepFailed("keep", os.fsdecode(path), "names of layers can't begin `.wh.`")
            if stat.S_ISDIR(found.st_mode):
                self._enter(folder, name, path, depth)
            elif self._is_whiteout(folder, name, found):
                self._header(prefix + WHITEOUT_PREFIX + name, b"0", found, size=0, mode=0)
            elif not self._is_stub(path, found):
                self._entry(folder, name, path, found)

    def _enter(self, folder: int, name: bytes, path: bytes, depth: int) -> None:
        inner = _open(folder, os.fsdecode(name))
        try:
            found = os.fstat(inner)
            shown = "/" + os.fsdecode(path)
            attributes = _attributes(inner)
            header = self._made_header(path + b"/", b"5", found, attributes=attributes)
            opaque = _OVERLAY_OPAQUE in os.listxattr(inner)
            if not opaque and (shown in self._made or shown in self._parents):
                self._waiting.append(header)
                self._folder(inner, path + b"/", depth + 1)
                self._waiting.pop()
                return
            self._emit(header)
            if opaque:
                self._header(path + b"/" + OPAQUE, b"0", found, size=0, mode=0)
            self._folder(inner, path + b"/", depth + 1)
        finally:
            os.close(inner)

    def _is_stub(self, path: bytes, found: os.stat_result) -> bool:
        """An empty file over which the runtime mounted one."""
        return not found.st_size and "/" + os.fsdecode(path) in self._made

    @staticmethod
    def _is_whiteout(folder: int, name: bytes, found: os.stat_result) -> bool:
        if stat.S_ISCHR(found.st_mode):
            return found.st_rdev == 0
        if not stat.S_ISREG(found.st_mode) or found.st_size:
            return False
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        file = os.open(name, flags, dir_fd=folder)
        try:
            return _OVERLAY_WHITEOUT in os.listxattr(file)
        finally:
            os.close(file)

    def _entry(self, folder: int, name: bytes, path: bytes, found: os.stat_result) -> None:
        kind = stat.S_IFMT(found.st_mode)
        field = _FIELD_OF_KIND.get(kind)
        if field is None:
            return  # a socket, which nobody listens to any more
        key = (found.st_dev, found.st_ino)
        if found.st_nlink > 1 and kind != stat.S_IFDIR:
            if key in self._links:
                self._header(path, b"1", found, size=0, target=self._links[key])
                return
            self._links[key] = path
        if kind == stat.S_IFLNK:
            target = os.readlink(name, dir_fd=folder)
            self._header(path, field, found, size=0, target=os.fsencode(target))
        elif kind == stat.S_IFREG:
            self._file(folder, name, path)
        else:
            self._header(path, field, found, size=0)

    def _file(self, folder: int, name: bytes, path: bytes) -> None:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        file = os.open(name, flags, dir_fd=folder)
        try:
            found = os.fstat(file)
            self._header(path, b"0", found, size=found.st_size, attributes=_attributes(file))
            left = found.st_size
            while left:
                data = os.read(file, min(left, PIECE))
                if not data:
                    raise StepFailed("read", os.fsdecode(path), "it became shorter meanwhile")
                writing.whole(1, data)
                left -= len(data)
            writing.whole(1, bytes(-found.st_size % BLOCK))
        finally:
            os.close(file)

    def _header(self, path: bytes, kind: bytes, found: os.stat_result, **more: Any) -> None:
        self._emit(self._made_header(path, kind, found, **more))

    def _emit(self, header: bytes) -> None:
        for waiting in self._waiting:
            if waiting:
                writing.whole(1, waiting)
        # What was written keeps its place: the folder still waits for its own end.
        self._waiting[:] = [b""] * len(self._waiting)
        writing.whole(1, header)
        self._wrote = True

    def _made_header(
        self,
        path: bytes,
        kind: bytes,
        found: os.stat_result,
        *,
        size: int = 0,
        mode: int | None = None,
        target: bytes = b"",
        attributes: dict[str, bytes] | None = None,
    ) -> bytes:
        seconds = max(0, found.st_mtime_ns // 1_000_000_000)
        if self._epoch is not None:
            seconds = min(seconds, self._epoch)
        records = {}
        if len(path) > 100:
            records[b"path"] = path
        if len(target) > 100:
            records[b"linkpath"] = target
        if size > _LARGEST_SIZE:
            records[b"size"] = b"%d" % size
        for name, value in ((b"uid", found.st_uid), (b"gid", found.st_gid)):
            if value > _LARGEST_OCTAL:
                records[name] = b"%d" % value
        for attribute, data in (attributes or {}).items():
            records[b"SCHILY.xattr." + attribute.encode()] = data
        fields = (
            stat.S_IMODE(found.st_mode) if mode is None else mode,
            min(found.st_uid, _LARGEST_OCTAL),
            min(found.st_gid, _LARGEST_OCTAL),
            min(size, _LARGEST_SIZE),
            seconds,
        )
        extended = b""
        if records:
            body = b"".join(_record(name, records[name]) for name in sorted(records))
            block = _block(b"pax", b"x", (0o644, 0, 0, len(body), 0), b"")
            extended = block + body + bytes(-len(body) % BLOCK)
        device = (0, 0)
        if kind in (b"3", b"4"):
            device = (os.major(found.st_rdev), os.minor(found.st_rdev))
        return extended + _block(path[:100], kind, fields, target[:100], device)


def _attributes(file: int) -> dict[str, bytes]:
    """What of the extended attributes belongs to the image: file capabilities, and the user's."""
    return {name: os.getxattr(file, name) for name in sorted(os.listxattr(file)) if is_kept(name)}


def _record(name: bytes, value: bytes) -> bytes:
    """One record of an extended header, pax(1): its own length comes first, and counts itself."""
    rest = len(name) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, name, value)


def _block(
    path: bytes,
    kind: bytes,
    numbers: tuple[int, int, int, int, int],
    target: bytes,
    device: tuple[int, int] = (0, 0),
) -> bytes:
    """A ustar header, pax(1), with the checksum in its place."""
    mode, uid, gid, size, time = numbers
    header = b"".join(
        (
            path.ljust(100, b"\0"),
            b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (mode, uid, gid, size, time),
            b" " * 8,
            kind,
            target.ljust(100, b"\0"),
            b"ustar\x0000",
            bytes(64),
            b"%07o\0%07o\0" % device,
            bytes(155 + 12),
        )
    )
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]
