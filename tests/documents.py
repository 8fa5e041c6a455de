"""What the pages for people show: their blocks of code, their commands, their links."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[1]
FOR_USERS = (
    "README.md",
    "README.zh-CN.md",
    "docs/getting-started.md",
    "docs/python.md",
    "docs/values.md",
)


class Block(NamedTuple):
    """A fenced block: where it begins, what language, what text."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def tracked(pattern: str) -> list[Path]:
    """Files that git knows and that are there."""
    listing = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--", pattern],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
    ).stdout
    names = [name for name in listing.decode().split("\0") if name]
    return [REPOSITORY / name for name in names if (REPOSITORY / name).exists()]


def name_of(page: Path) -> str:
    """The page as a reader names it."""
    return str(page.relative_to(REPOSITORY))


def blocks(*pages: str) -> list[Block]:
    """Every fenced block of these pages."""
    found = []
    for page in pages:
        text = (REPOSITORY / page).read_text()
        for match in re.finditer(r"^```(\w*)\n(.*?)^```", text, flags=re.M | re.S):
            line = text.count("\n", 0, match.start()) + 1
            found.append(Block(page, line, match[1], match[2]))
    return found


def spans(page: str) -> Iterator[str]:
    """Every piece of `code` in the running text and the tables of a page."""
    text = re.sub(r"^```.*?^```", "", (REPOSITORY / page).read_text(), flags=re.M | re.S)
    yield from re.findall(r"`([^`\n]+)`", text)


def words(line: str) -> list[str]:
    """A command line as a shell splits it, without its comment."""
    return shlex.split(line, comments=True)


def commands(page: str) -> Iterator[list[str]]:
    """The words of every `sandbox-kernel ...` that a page shows, without the first."""
    lines = [line for block in blocks(page) for line in block.text.splitlines()]
    for line in [*lines, *spans(page)]:
        if line.startswith("sandbox-kernel "):
            yield words(line)[1:]


def magics(page: str) -> Iterator[str]:
    """Every line of a magic of ours that a page shows."""
    lines = [line for block in blocks(page) for line in block.text.splitlines()]
    for line in [*lines, *spans(page)]:
        if re.match(r"%%container\b|%container\b|%sandbox\b", line):
            yield line


def links(page: Path) -> list[str]:
    """Where the links of a page lead."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text))
