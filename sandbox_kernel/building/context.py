"""The context of a build: a folder of the host, of which a build sees what is not ignored.

It is looked at twice: to know what is in it (`fingerprint`), and to copy. What was changed between
the two is found by its digest, so that the cache never says something else than the layer holds.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

from sandbox_kernel.containerfile import ignore
from sandbox_kernel.containerfile.glob import Glob
from sandbox_kernel.containerfile.ignore import Ignored
from sandbox_kernel.containerfile.source import Place
from sandbox_kernel.errors import ImageError, StepFailed
from sandbox_kernel.runtime import gathering, transfer
from sandbox_kernel.runtime.gathering import Found, Gathering

IGNORE_FILES = (".containerignore", ".dockerignore")
PIECE = 1 << 20


class Context:
    """An open context; `close` when the build is over."""

    def __init__(self, path: str, file: str | None) -> None:
        """Raises ImageError when the folder can't be opened, ContainerfileError for its rules."""
        try:
            self._root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise ImageError(
                f"open the context `{path}`: {error.strerror}: name a folder"
            ) from error
        self.path = os.path.realpath(path)
        try:
            self._ignored = _rules(self._root, file)
        except BaseException:
            os.close(self._root)
            raise

    def close(self) -> None:
        os.close(self._root)

    def fingerprint(
        self, patterns: Sequence[str], excluded: Ignored | None, *, parents: bool
    ) -> list[Any]:
        """Everything of the sources that counts for a layer: names, kinds, modes, content."""
        seen: list[Any] = []

        def note(found: Found) -> None:
            mode = found.stat.st_mode
            content = found.target
            if found.kind == "file":
                content = _digest(found.descriptor)
            seen.append([found.path, mode, content, *_more(found)])

        for pattern in patterns:
            gatherer = self._gathering(note, excluded)
            for path, folder, into in gathering.matching(gatherer, pattern, parents=parents):
                seen.append([path.rpartition("/")[2], folder, into])
                gatherer.give(path)
        return seen

    def write(
        self,
        patterns: Sequence[str],
        excluded: Ignored | None,
        sink: int,
        *,
        parents: bool,
        expected: Sequence[Any],
    ) -> None:
        """Write the sources as records. Raises StepFailed for what is not as it was looked at."""
        told = iter(expected)

        def give(found: Found) -> None:
            record = gathering.record(found, own=False)
            transfer.write_record(sink, record)
            content = found.target
            if found.kind == "file":
                content = _copy(found.descriptor, sink)
            seen = [found.path, found.stat.st_mode, content, *_more(found)]
            _compare(told, seen, found.shown)

        for pattern in patterns:
            gatherer = self._gathering(give, excluded)
            for path, folder, into in gathering.matching(gatherer, pattern, parents=parents):
                name = path.rpartition("/")[2]
                _compare(told, [name, folder, into], path)
                source = {"kind": "source", "name": name, "folder": folder, "into": into}
                transfer.write_record(sink, source)
                gatherer.give(path)

    def open_files(self, pattern: str, excluded: Ignored | None) -> Iterator[tuple[str, int]]:
        """Path and descriptor of each source that is one file; the descriptor is the caller's.

        Raises StepFailed. What else is wrong with a pattern is said where it is copied.
        """
        if ".." in pattern.split("/"):
            return
        gatherer = self._gathering(lambda _: None, None)
        for path in gatherer.sources(Glob(pattern, Place("ADD", 1, 1))):
            name = path.rpartition("/")[2]
            if excluded and excluded.is_left_out(name)[0]:
                continue
            if not gatherer.is_folder(path):
                yield path, gathering.open_within(self._root, path)

    def _gathering(self, give: Any, excluded: Ignored | None) -> Gathering:
        return Gathering(self._root, give, ignored=self._ignored, excluded=excluded)


def _more(found: Found) -> list[Any]:
    """What few files have: other names that came before this one, and extended attributes."""
    if found.kind == "hard":
        return ["hard"]
    kept = gathering.attributes(found)
    return [kept] if kept else []


def _compare(told: Iterator[Any], seen: list[Any], shown: str) -> None:
    if next(told, None) != seen:
        raise StepFailed("copy", shown, "it was changed while the build looked at it: build again")


def _digest(file: int) -> str:
    hashed = hashlib.sha256()
    while data := os.read(file, PIECE):
        hashed.update(data)
    return hashed.hexdigest()


def _copy(file: int, sink: int) -> str:
    hashed = hashlib.sha256()
    while data := os.read(file, transfer.PIECE):
        hashed.update(data)
        transfer.write_piece(sink, data)
    transfer.write_piece(sink, b"")
    return hashed.hexdigest()


def _rules(root: int, file: str | None) -> Ignored:
    """The ignore file beside the Containerfile, else that of the context."""
    if file is not None:
        try:
            with open(f"{file}.dockerignore", "rb") as own:
                return _read(own.read(ignore.MOST_BYTES + 1), f"{file}.dockerignore")
        except FileNotFoundError:
            pass
    for name in IGNORE_FILES:
        try:
            descriptor = gathering.open_within(root, name)
        except StepFailed:
            continue
        with open(descriptor, "rb") as found:
            return _read(found.read(ignore.MOST_BYTES + 1), name)
    return Ignored()


def _read(data: bytes, name: str) -> Ignored:
    return ignore.read(data.decode("utf-8", "surrogateescape"), name)
