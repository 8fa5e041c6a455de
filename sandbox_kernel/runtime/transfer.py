"""Files as a stream between a container and the host: `pack` on one side, `unpack` on the other.

The side in the container runs in a fork of pid 1 that became what a program of the container is:
its root, identity, capabilities, filter. So whatever lies there, links, races, devices, can lead it
nowhere but where the container's own programs get; nothing of the image is loaded or executed
(CVE-2019-14271, CVE-2018-15664). The side on the host believes nothing that the stream says.

The stream: records, each 4 bytes of length (big endian) and JSON. A file's record is followed by
its data in pieces of the same form, ended by an empty one. The last record is `end` or `failed`.
Names are bytes in any encoding, as surrogates.
"""

from __future__ import annotations

import errno
import json
import os
import stat

from sandbox_kernel.errors import CopyRefused, StepFailed
from sandbox_kernel.linux import paths, writing
from sandbox_kernel.runtime import keeping
from sandbox_kernel.runtime.patterns import Patterns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any, TypeGuard

    from sandbox_kernel.runtime.patterns import States

PIECE = 1 << 18
LONGEST_RECORD = 1 << 16
DEEPEST = 250
MOST_SEEN = 1_000_000
PERMISSIONS = 0o777
FIRST_LAYER = 3
"""The number of the first descriptor of a layer, for `keep`."""


def pack(source: str, sink: int) -> None:
    """Write the file, link or folder at a path, links as links, to a stream. OSError."""
    parent = os.open(os.path.dirname(source) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _pack(parent, os.path.basename(source), "", sink, 0)
    finally:
        os.close(parent)
    write_record(sink, {"kind": "end"})


def _pack(parent: int, name: str, shown: str, sink: int, depth: int) -> None:
    """One entry and what is below it. What can't be copied is said and passed over."""
    found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    record: dict[str, Any] = {"path": shown, "mode": found.st_mode & PERMISSIONS}
    if stat.S_ISLNK(found.st_mode):
        _pack_link(parent, name, record, sink)
    elif stat.S_ISDIR(found.st_mode) and depth < DEEPEST:
        _pack_folder(parent, name, record, sink, depth)
    elif stat.S_ISREG(found.st_mode):
        _pack_file(parent, name, record, sink)
    else:
        why = "it lies too deep" if stat.S_ISDIR(found.st_mode) else "it is no file, folder or link"
        write_record(sink, {**record, "kind": "skipped", "why": why})


def _pack_link(parent: int, name: str, record: dict[str, Any], sink: int) -> None:
    try:
        target = os.readlink(name, dir_fd=parent)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        write_record(sink, {**record, "kind": "skipped", "why": "it is no link any more"})
        return
    write_record(sink, {**record, "kind": "link", "target": target})


def _pack_folder(parent: int, name: str, record: dict[str, Any], sink: int, depth: int) -> None:
    try:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        folder = os.open(name, flags, dir_fd=parent)
    except OSError as error:
        write_record(sink, {**record, "kind": "skipped", "why": os.strerror(error.errno or 0)})
        return
    try:
        write_record(sink, {**record, "kind": "folder"})
        for below in sorted(os.listdir(folder)):
            try:
                _pack(folder, below, f"{record['path']}/{below}".lstrip("/"), sink, depth + 1)
            except FileNotFoundError:
                continue  # it went away meanwhile
    finally:
        os.close(folder)


def _pack_file(parent: int, name: str, record: dict[str, Any], sink: int) -> None:
    try:
        # Should it have become a fifo meanwhile, opening it does not wait for a writer.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        file = os.open(name, flags, dir_fd=parent)
    except OSError as error:
        write_record(sink, {**record, "kind": "skipped", "why": os.strerror(error.errno or 0)})
        return
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            write_record(sink, {**record, "kind": "skipped", "why": "it is no file any more"})
            return
        write_record(sink, {**record, "kind": "file"})
        while data := os.read(file, PIECE):
            write_piece(sink, data)
        write_piece(sink, b"")
    finally:
        os.close(file)


def pack_matching(folder: str, texts: list[str], sink: int) -> None:
    """Write the files below a folder that a pattern meets to a stream; no link is followed."""
    _Matching(Patterns(texts), sink).below(folder)
    write_record(sink, {"kind": "end"})


class _Matching:
    """A walk that goes only where a pattern leads."""

    def __init__(self, patterns: Patterns, sink: int) -> None:
        self._patterns = patterns
        self._sink = sink
        self._seen = 0

    def below(self, path: str) -> None:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._walk(folder, "", self._patterns.start, 0)
        finally:
            os.close(folder)

    def _walk(self, folder: int, shown: str, states: States, depth: int) -> None:
        for name in sorted(os.listdir(folder)):
            self._seen += 1
            if self._seen > MOST_SEEN:
                raise StepFailed("look through", shown or ".", f"more than {MOST_SEEN} files")
            deeper = self._patterns.step(states, name)
            if not deeper:
                continue
            path = f"{shown}/{name}".lstrip("/")
            try:
                found = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode):
                    if depth < DEEPEST - 1:
                        self._enter(folder, name, path, deeper, depth)
                elif self._patterns.met(deeper):
                    _pack(folder, name, path, self._sink, depth)
            except FileNotFoundError:
                continue  # it went away meanwhile

    def _enter(self, folder: int, name: str, path: str, states: States, depth: int) -> None:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            below = os.open(name, flags, dir_fd=folder)
        except FileNotFoundError:
            raise
        except OSError as error:  # not for us, or no folder any more
            why = os.strerror(error.errno or 0)
            write_record(self._sink, {"kind": "skipped", "path": path, "why": why})
            return
        try:
            self._walk(below, path, states, depth + 1)
        finally:
            os.close(below)


def pack_files(files: Mapping[str, bytes | str], sink: int) -> None:
    """Write files to a stream, each with the folders above it: bytes, or a path of the host."""
    folders: set[str] = set()
    for path, content in files.items():
        parts = path.split("/")
        for depth in range(1, len(parts)):
            folder = "/".join(parts[:depth])
            if folder not in folders:
                folders.add(folder)
                write_record(sink, {"kind": "folder", "path": folder, "mode": 0o755})
        write_record(sink, {"kind": "file", "path": path, "mode": 0o644})
        if isinstance(content, str):
            _write_content(content, sink)
        else:
            with memoryview(content) as view:
                for at in range(0, view.nbytes, PIECE):
                    write_piece(sink, bytes(view[at : at + PIECE]))
        write_piece(sink, b"")
    write_record(sink, {"kind": "end"})


def _write_content(path: str, sink: int) -> None:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise StepFailed("read", path, "it is no file")
        while data := os.read(file, PIECE):
            write_piece(sink, data)
    finally:
        os.close(file)


class Unpacking:
    """Makes what a stream says below one folder, never outside it, never through a link."""

    def __init__(self, source: int, *, most_bytes: int, most_files: int) -> None:
        self._source = source
        self._bytes_left = self._most_bytes = most_bytes
        self._files_left = self._most_files = most_files
        self.skipped: list[tuple[str, str]] = []

    def into(self, parent: int, name: str) -> None:
        """The stream's first entry gets a name in the folder `parent`; a file there is replaced.

        Without a name, the entries are those of the folder itself.

        Raises CopyRefused with the option for more than is allowed, StepFailed for the rest.
        """
        while True:
            record = self._record()
            kind = record.get("kind")
            if kind == "end":
                return
            if kind == "failed":
                raise StepFailed("copy", str(record.get("path", "")), str(record.get("why")))
            path = checked(record.get("path"))
            self._count(path)
            if kind == "skipped":
                self.skipped.append(("/".join(path) or name, str(record.get("why"))))
                continue
            self._make(parent, [name, *path] if name else path, record)

    def passing(self) -> Iterator[tuple[dict[str, Any], Iterator[bytes]]]:
        """Each record of the stream, and of a file its pieces with the empty one that ends them.

        Raises StepFailed when the other side failed, CopyRefused for more than is allowed.
        """
        while True:
            record = self._record()
            if record.get("kind") == "end":
                return
            if record.get("kind") == "failed":
                raise StepFailed("copy", str(record.get("path", "")), str(record.get("why")))
            shown = str(record.get("path", ""))
            self._count([shown])
            if record.get("kind") == "file":
                yield record, self._whole_content(shown)
            else:
                yield record, iter(())

    def _whole_content(self, shown: str) -> Iterator[bytes]:
        yield from self._content(shown)
        yield b""

    def into_memory(self) -> dict[str, bytes]:
        """The stream's files by their paths, instead of making them. Raises as `into`."""
        files: dict[str, bytes] = {}
        while True:
            record = self._record()
            kind = record.get("kind")
            if kind == "end":
                return files
            if kind == "failed":
                raise StepFailed("copy", str(record.get("path", "")), str(record.get("why")))
            path = "/".join(checked(record.get("path")))
            self._count([path])
            if kind == "file":
                files[path] = b"".join(self._content(path))
            else:
                what = "it is a link" if kind == "link" else str(record.get("why"))
                self.skipped.append((path, what))

    def _content(self, shown: str) -> Iterator[bytes]:
        """The pieces of a file that is on its way, as far as the bound allows."""
        while data := self._piece(PIECE):
            self._bytes_left -= len(data)
            if self._bytes_left < 0:
                raise CopyRefused("--max-bytes", self._most_bytes, shown)
            yield data

    def _count(self, path: list[str]) -> None:
        self._files_left -= 1
        if self._files_left < 0:
            raise CopyRefused("--max-files", self._most_files, "/".join(path))

    def _make(self, parent: int, path: list[str], record: Mapping[str, Any]) -> None:
        folder = -1
        try:
            folder = _folder_of(parent, path)
            mode = record.get("mode", 0o600) & PERMISSIONS
            name = path[-1]
            kind = record.get("kind")
            if kind == "folder":
                _make_folder(folder, name, mode)
            elif kind == "link":
                _replace(folder, name, lambda new: os.symlink(text_of(record), new, dir_fd=folder))
            elif kind == "file":
                _replace(folder, name, lambda new: self._write_file(folder, new, mode, name))
            else:
                raise StepFailed("copy", "/".join(path), f"a record of kind `{kind}` is unknown")
        except OSError as error:
            why = os.strerror(error.errno or 0)
            raise StepFailed("write", "/".join(path), why, error.errno or 0) from error
        finally:
            if folder >= 0:
                os.close(folder)

    def _write_file(self, folder: int, name: str, mode: int, shown: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(name, flags, 0o600, dir_fd=folder)
        try:
            for data in self._content(shown):
                writing.whole(file, data)
            os.fchmod(file, mode)
        except BaseException:
            os.unlink(name, dir_fd=folder)
            raise
        finally:
            os.close(file)

    def _record(self) -> dict[str, Any]:
        try:
            record = json.loads(self._piece(LONGEST_RECORD))
        except (ValueError, RecursionError) as error:
            raise StepFailed("read", "the stream of files", str(error)) from error
        if not isinstance(record, dict) or type(record.get("mode", 0)) is not int:
            raise StepFailed("read", "the stream of files", "a record is no object, or its mode is")
        return record

    def _piece(self, most: int) -> bytes:
        length = int.from_bytes(self._exactly(4), "big")
        if length > most:
            raise StepFailed(
                "read", "the stream of files", f"a piece of {length} bytes is too long"
            )
        return self._exactly(length)

    def _exactly(self, length: int) -> bytes:
        parts = []
        while length:
            data = os.read(self._source, length)
            if not data:
                raise StepFailed("read", "the stream of files", "it ended before its end")
            parts.append(data)
            length -= len(data)
        return b"".join(parts)


def _is_text(value: object) -> TypeGuard[str]:
    """Whether a name may be so. Of surrogates only those that `os.fsdecode` makes are text."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        return False
    return True


def checked(path: object) -> list[str]:
    """The parts of a path of the stream; nothing that could lead elsewhere."""
    if not _is_text(path):
        raise StepFailed("read", "the stream of files", "a path is no text")
    parts = path.split("/") if path else []
    if len(parts) > DEEPEST or any(part in ("", ".", "..") for part in parts):
        raise StepFailed("read", "the stream of files", f"the path {path[:200]!r} is refused")
    return parts


def _folder_of(parent: int, path: list[str]) -> int:
    """The folder in which the last part of a path is to be made; no link is followed."""
    if len(path) == 1:
        return os.dup(parent)
    return paths.open_below(
        parent,
        "/".join(path[:-1]),
        os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW,
        paths.RESOLVE_NO_SYMLINKS | paths.RESOLVE_BENEATH,
    )


def _make_folder(folder: int, name: str, mode: int) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=folder)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            raise
        return
    # Its owner keeps the right to write what comes into it.
    os.chmod(name, mode | 0o700, dir_fd=folder)


def write_file(folder: int, name: str, content: bytes) -> None:
    """A file with this content in a folder; what has its name is replaced when it is whole."""

    def make(new: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(new, flags, 0o666, dir_fd=folder)
        try:
            writing.whole(file, content)
        except BaseException:
            os.unlink(new, dir_fd=folder)
            raise
        finally:
            os.close(file)

    _replace(folder, name, make)


def _replace(folder: int, name: str, make: Any) -> None:
    """Make something under another name first: what stood there goes only when it is whole."""
    new = f".{name[:200]}.{os.urandom(6).hex()}"
    make(new)
    try:
        os.rename(new, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        os.unlink(new, dir_fd=folder)
        raise


def text_of(record: Mapping[str, Any]) -> str:
    """Where a link points. Raises StepFailed."""
    target = record.get("target")
    if not target or not _is_text(target):
        raise StepFailed("read", "the stream of files", "a link points nowhere")
    return target


def write_record(sink: int, record: Mapping[str, Any]) -> None:
    """One record. OSError."""
    write_piece(sink, json.dumps(record).encode())


def write_piece(sink: int, data: bytes) -> None:
    """Bytes with their length before them. OSError."""
    writing.whole(sink, len(data).to_bytes(4, "big") + data)


def serve(order: Mapping[str, Any]) -> None:
    """Be the side in the container: descriptor 0 is the stream in, 1 the stream out.

    `order`: `do` (pack, pack-matching, unpack), `path`, with pack-matching `patterns`, and with
    unpack `name` (empty: below the path), `most_bytes` and `most_files`. Ends with a record `end`
    or `failed` on 1. Or `keep`: then see `keeping`.
    """
    path = order.get("path", "")
    try:
        if order["do"] == "pack":
            pack(path, 1)
        elif order["do"] == "pack-matching":
            pack_matching(path, order["patterns"], 1)
        elif order["do"] == "unpack":
            _unpack(order)
            write_record(1, {"kind": "end"})
        elif order["do"] == "keep":
            keeping.serve(0, range(FIRST_LAYER, FIRST_LAYER + order["layers"]))
    except StepFailed as error:
        write_record(1, {"kind": "failed", "path": error.subject, "why": error.why})
    except CopyRefused as error:
        write_record(1, {"kind": "failed", "path": path, "why": str(error)})
    except OSError as error:
        write_record(1, {"kind": "failed", "path": path, "why": os.strerror(error.errno or 0)})


def _unpack(order: Mapping[str, Any]) -> None:
    name = order["name"]
    if name:
        parent, name = place(order["path"], name)
    else:
        parent = os.open(order["path"], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        most_bytes, most_files = order["most_bytes"], order["most_files"]
        Unpacking(0, most_bytes=most_bytes, most_files=most_files).into(parent, name)
    finally:
        os.close(parent)


def place(path: str, name: str) -> tuple[int, str]:
    """Where a copy goes, as cp(1) has it: into a folder that is there, else under that name.

    Returns the folder, open, and the name in it. OSError when there is no such folder.
    """
    if os.path.isdir(path):
        folder, chosen = path, name
    else:
        folder, chosen = os.path.dirname(path) or ".", os.path.basename(path)
    if chosen in ("", ".", ".."):
        raise StepFailed("copy to", path, "there is no such folder, and no name to give the copy")
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), chosen
