"""Text that knows where it stands: every piece of a Containerfile has its line and column."""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple, NoReturn

from sandbox_kernel.errors import ContainerfileError


class Place(NamedTuple):
    """Where something stands in a file; both numbers from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"

    def fail(self, why: str) -> NoReturn:
        """Raises ContainerfileError for this place."""
        raise self.error(why)

    def error(self, why: str) -> ContainerfileError:
        """What `fail` raises."""
        return ContainerfileError(self.file, self.line, self.column, why)


class Source:
    """One instruction put together of its lines, which may have been continued."""

    __slots__ = ("columns", "file", "lines", "offsets", "text")

    def __init__(self, file: str, parts: list[tuple[str, int, int]]) -> None:
        """`parts`: text, line and column of each piece that was put together."""
        self.file = file
        self.text = "".join(text for text, _, _ in parts)
        self.lines = [line for _, line, _ in parts]
        self.columns = [column for _, _, column in parts]
        self.offsets: list[int] = []
        at = 0
        for text, _, _ in parts:
            self.offsets.append(at)
            at += len(text)

    def place(self, offset: int) -> Place:
        """The line and column of one character."""
        index = max(0, bisect_right(self.offsets, offset) - 1)
        return Place(
            self.file, self.lines[index], self.columns[index] + offset - self.offsets[index]
        )


class Piece(NamedTuple):
    """A part of an instruction."""

    text: str
    source: Source
    offset: int

    @property
    def place(self) -> Place:
        """Where it begins."""
        return self.source.place(self.offset)

    def at(self, index: int) -> Place:
        """The place of one of its characters."""
        return self.source.place(self.offset + index)

    def cut(self, start: int, end: int | None = None) -> Piece:
        """A part of it."""
        return Piece(self.text[start:end], self.source, self.offset + start)

    def strip(self) -> Piece:
        """Without blanks around it."""
        start = len(self.text) - len(self.text.lstrip())
        return Piece(self.text.strip(), self.source, self.offset + start)

    def fail(self, why: str) -> NoReturn:
        """Raises ContainerfileError for where it begins."""
        self.place.fail(why)
