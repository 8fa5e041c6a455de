"""Printing: tables for people, JSON for programs, colour and progress only on a terminal."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table; on a terminal it is as wide as the terminal, else columns are padded with blanks."""
    listed = [tuple(clean(cell) for cell in row) for row in rows]
    if sys.stdout.isatty():
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        view = Table(*headings, box=box.SIMPLE_HEAD, pad_edge=False)
        for row in listed:
            view.add_row(*(Text(cell) for cell in row))
        Console().print(view)
        return
    print(text_table(headings, listed), end="")


def text_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The lines of a table whose columns are padded with blanks."""
    listed = [tuple(clean(cell) for cell in row) for row in rows]
    widths = [
        max(_width(row[number]) for row in (tuple(headings), *listed))
        for number in range(len(headings))
    ]
    lines = []
    for row in (tuple(heading.upper() for heading in headings), *listed):
        cells = (
            cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)
        )
        lines.append("  ".join(cells).rstrip() + "\n")
    return "".join(lines)


def _width(cell: str) -> int:
    """Columns of a terminal: a Chinese character takes two."""
    if cell.isascii():
        return len(cell)
    return sum(2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in cell)


def data(value: Any) -> None:
    """JSON, indented for the reader of a terminal, one line for a program."""
    indent = 2 if sys.stdout.isatty() else None
    print(json.dumps(value, indent=indent, default=plain, ensure_ascii=False))


def plain(value: object) -> object:
    """What JSON has no form for: records as objects, paths and the like as text."""
    # Of dataclasses, of msgspec's structures, of our own records.
    for record in ("__dataclass_fields__", "__struct_fields__", "_fields"):
        if hasattr(value, record):
            return {name: getattr(value, name) for name in getattr(value, record)}
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return str(value)


def line(value: Any) -> None:
    """One JSON value on one line, at once: a stream of them is read as it comes."""
    print(json.dumps(value, default=plain, ensure_ascii=False), flush=True)


@contextmanager
def progress(text: str) -> Iterator[None]:
    """A spinner with a text on stderr while the block runs; nothing where nobody looks."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield


def clean(cell: str) -> str:
    """What comes from a container must not move the cursor or forge a line."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in cell)


def shown_age(seconds: float) -> str:
    """90 -> `1 min`; the largest unit of which there is one."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(0, int(seconds))} s"


def short(text: str, most: int = 48) -> str:
    """A text that fits a column."""
    return text if len(text) <= most else text[: most - 1] + "…"
