"""From the text of a Containerfile to its instructions' whole lines: directives, continuation,
comments, here-documents. What an instruction means is in `parse`.

Source: Dockerfile reference, "Parser directives", "Escape", "Here-Documents".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from sandbox_kernel.containerfile.source import Piece, Place, Source
from sandbox_kernel.containerfile.words import split_words

MOST_BYTES = 4 << 20
MOST_INSTRUCTIONS = 10_000
MOST_HERE_DOCUMENTS = 64
_DIRECTIVE = re.compile(r"#[ \t]*([A-Za-z][A-Za-z0-9]*)[ \t]*=[ \t]*(\S(?:.*\S)?)[ \t]*$")
_DIRECTIVES = ("syntax", "escape", "check")
_MARK = re.compile(r"([0-9]*)<<(-?)([^<>\s]+)$")
_WITH_HERE_DOCUMENTS = ("ADD", "COPY", "RUN")
_FRONT_ENDS = re.compile(r"(docker\.io/)?docker/dockerfile(-upstream)?(:[\w.-]+)?(@\S+)?$")


class HereDocument(NamedTuple):
    """A block of text that belongs to an instruction. `expand`: its mark was not quoted."""

    name: str
    content: str
    expand: bool
    strip_tabs: bool
    place: Place
    mark: str
    """As it stands in the instruction."""


class Line(NamedTuple):
    """One instruction: its first word, the rest, and the blocks of text after it."""

    name: Piece
    rest: Piece
    documents: tuple[HereDocument, ...]
    original: str


class Directives(NamedTuple):
    """What the first comment lines say."""

    escape: str = "\\"
    syntax: str | None = None


def read_lines(text: str, file: str) -> tuple[Directives, list[Line]]:
    """The whole instructions. Raises ContainerfileError; time is linear in the text."""
    if len(text) > MOST_BYTES:
        Place(file, 1, 1).fail(f"it is larger than {MOST_BYTES >> 20} MiB: make it smaller")
    raw = text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}").split("\n")
    raw = [line.removesuffix("\r") for line in raw]
    if "\0" in text:
        number = next(number for number, line in enumerate(raw, 1) if "\0" in line)
        Place(file, number, raw[number - 1].index("\0") + 1).fail(
            "it holds a NUL character: write it as text"
        )
    directives, first = _directives(raw, file)
    found = list(_lines(raw, first, file, directives.escape))
    return directives, found


def _directives(raw: list[str], file: str) -> tuple[Directives, int]:
    found: dict[str, str] = {}
    index = 0
    for index, line in enumerate(raw):
        match = _DIRECTIVE.match(line.strip())
        if match is None or match[1].lower() not in _DIRECTIVES:
            break
        name, value = match[1].lower(), match[2]
        place = Place(file, index + 1, line.index("#") + 1)
        if name in found:
            place.fail(f"the directive `{name}` stands here twice: keep one")
        if name == "escape" and value not in ("\\", "`"):
            place.fail(f"`escape` is `{value}`: it can be \\ or `")
        if name == "syntax" and not _FRONT_ENDS.match(value):
            # No program is fetched to read the file: what it would read can't be guessed.
            place.fail(
                f"`syntax` names the foreign front end `{value}`, and none is ever fetched: "
                "write the file in Dockerfile syntax and remove the line"
            )
        found[name] = value
    return Directives(found.get("escape", "\\"), found.get("syntax")), index


def _lines(raw: list[str], index: int, file: str, escape: str) -> Iterator[Line]:
    mark = re.escape(escape)
    continued = re.compile(rf"(?:^|(?<!{mark})){mark}[ \t]*$")
    count = 0
    while index < len(raw):
        line = raw[index]
        if not line.strip() or line.lstrip().startswith("#"):
            index += 1
            continue
        count += 1
        begin = index
        indent = len(line) - len(line.lstrip())
        parts: list[tuple[str, int, int]] = []
        start = indent
        while True:
            end = continued.search(line)
            parts.append((line[start : end.start() if end else None], index + 1, start + 1))
            index += 1
            if end is None:
                break
            while index < len(raw) and (
                not raw[index].strip() or raw[index].lstrip().startswith("#")
            ):
                index += 1
            if index >= len(raw):
                break
            line, start = raw[index], 0
        if count > MOST_INSTRUCTIONS:
            Place(file, begin + 1, 1).fail(f"it has more than {MOST_INSTRUCTIONS} instructions")
        source = Source(file, parts)
        whole = Piece(source.text, source, 0).strip()
        name = re.match(r"\S+", whole.text)
        if name is None:
            continue  # nothing but escapes
        rest = whole.cut(name.end()).strip()
        documents, index = _documents(whole.cut(0, name.end()), rest, raw, index, escape)
        yield Line(whole.cut(0, name.end()), rest, documents, "\n".join(raw[begin:index]))


def _documents(
    name: Piece, rest: Piece, raw: list[str], index: int, escape: str
) -> tuple[tuple[HereDocument, ...], int]:
    """The blocks of text that the marks of an instruction announce, and the line after them."""
    word = name.text.upper()
    if word == "ONBUILD":
        word = rest.text.split(None, 1)[0].upper() if rest.text else ""
    if word not in _WITH_HERE_DOCUMENTS or "<<" not in rest.text:
        return (), index
    found: list[HereDocument] = []
    for piece in split_words(rest, escape, strict=False):
        match = _MARK.match(piece.text)
        if match is None:
            continue
        quoted = match[3]
        end = quoted
        if quoted[0] in "\"'":
            if len(quoted) < 3 or quoted[-1] != quoted[0]:
                continue
            end = quoted[1:-1]
        if not re.fullmatch(r"[^\"'\\$`\s]+", end):
            continue
        if len(found) == MOST_HERE_DOCUMENTS:
            piece.fail(f"more than {MOST_HERE_DOCUMENTS} here-documents in one instruction")
        strip = match[2] == "-"
        content: list[str] = []
        while True:
            if index >= len(raw):
                piece.fail(f"the here-document is never closed: write `{end}` on a line of its own")
            line = raw[index].lstrip("\t") if strip else raw[index]
            index += 1
            if line == end:
                break
            content.append(line + "\n")
        text = "".join(content)
        found.append(HereDocument(end, text, quoted == end, strip, piece.place, piece.text))
    return tuple(found), index
