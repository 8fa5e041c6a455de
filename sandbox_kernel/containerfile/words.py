"""Words of an instruction: quotes, escapes, and variables with their modifiers.

Source: Dockerfile reference, "Environment replacement"; POSIX.1-2017 2.6.2 for the modifiers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from sandbox_kernel.containerfile.source import Piece

LONGEST_VALUE = 1 << 18
"""Characters of an expanded value: one that doubles with each line ends here."""
DEEPEST = 16
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9]+|[@*#?$!-]")
_BLANKS = " \t\n\r\v\f"

Lookup = Mapping[str, str]


def split_words(piece: Piece, escape: str, *, strict: bool = True) -> list[Piece]:
    """Words between blanks; quotes and escapes hold blanks, and stay in the words.

    Raises ContainerfileError for a quote that is not closed, if `strict`.
    """
    text = piece.text
    words: list[Piece] = []
    index, size = 0, len(text)
    while index < size:
        if text[index] in _BLANKS:
            index += 1
            continue
        start = index
        while index < size and text[index] not in _BLANKS:
            if text[index] in "\"'":
                end = _closing(text, index, escape)
                if end < 0:
                    if strict:
                        piece.at(index).fail(f"the quote {text[index]} is not closed")
                    end = size - 1
                index = end + 1
            elif text[index] == escape:
                index += 2
            else:
                index += 1
        words.append(piece.cut(start, min(index, size)))
    return words


def _closing(text: str, start: int, escape: str) -> int:
    """Where the quote that opens at `start` closes, -1 for nowhere."""
    quote = text[start]
    index = start + 1
    while index < len(text):
        if text[index] == quote:
            return index
        index += 2 if text[index] == escape and quote == '"' else 1
    return -1


def blank_words(piece: Piece) -> list[Piece]:
    """Words between blanks, where quotes mean nothing."""
    return [piece.cut(*match.span()) for match in re.finditer(r"\S+", piece.text)]


def expand(piece: Piece, lookup: Lookup, escape: str) -> str:
    """One word with its variables replaced and its quotes removed. Raises ContainerfileError."""
    return _Expansion(piece, lookup, escape).whole()


def expand_words(piece: Piece, lookup: Lookup, escape: str) -> list[str]:
    """The same, and what blanks in an unquoted variable part are words of their own."""
    return _Expansion(piece, lookup, escape).words()


def expand_document(piece: Piece, lookup: Lookup, escape: str) -> str:
    """A here-document: variables are replaced, quotes are text."""
    return _Expansion(piece, lookup, escape, quotes=False).whole()


class _Expansion:
    """One pass over a word from left to right; nothing that came out is read again."""

    def __init__(self, piece: Piece, lookup: Lookup, escape: str, *, quotes: bool = True) -> None:
        self._piece = piece
        self._text = piece.text
        self._lookup = lookup
        self._escape = escape
        self._quotes = quotes
        self._size = 0

    def whole(self) -> str:
        return "".join(text for text, _ in self._read())

    def words(self) -> list[str]:
        words: list[str] = []
        open_word: list[str] | None = None
        for text, splits in self._read():
            if not splits:
                open_word = [] if open_word is None else open_word
                open_word.append(text)
                continue
            for part in re.split(r"(\s+)", text):
                if part and part.isspace():
                    if open_word is not None:
                        words.append("".join(open_word))
                    open_word = None
                elif part:
                    open_word = [] if open_word is None else open_word
                    open_word.append(part)
        if open_word is not None:
            words.append("".join(open_word))
        return words

    def _read(self) -> Iterator[tuple[str, bool]]:
        """The parts that come out, and whether blanks in one part words."""
        index, text, size = 0, self._text, len(self._text)
        while index < size:
            char = text[index]
            if char == "'" and self._quotes:
                end = text.find("'", index + 1)
                if end < 0:
                    self._piece.at(index).fail("the quote ' is not closed")
                yield self._counted(text[index + 1 : end], index), False
                index = end + 1
            elif char == '"' and self._quotes:
                quoted, index = self._double(index)
                yield quoted, False
            elif char == self._escape:
                if self._quotes:
                    yield self._counted(text[index + 1 : index + 2] or char, index), False
                    index += 2
                else:
                    step = 2 if text[index + 1 : index + 2] in (char, "$") else 1
                    yield self._counted(text[index + step - 1], index), False
                    index += step
            elif char == "$":
                value, index = self._variable(index, 0)
                yield self._counted(value, index), True
            else:
                end = index + 1
                while end < size and text[end] not in ("'", '"', self._escape, "$"):
                    end += 1
                yield self._counted(text[index:end], index), True
                index = end

    def _counted(self, text: str, index: int) -> str:
        self._size += len(text)
        if self._size > LONGEST_VALUE:
            self._piece.at(min(index, len(self._text))).fail(
                f"a value grows to more than {LONGEST_VALUE >> 10} KiB here: make it shorter"
            )
        return text

    def _double(self, start: int) -> tuple[str, int]:
        """From a double quote to the next: escapes hold before $, " and themselves."""
        parts: list[str] = []
        index, text = start + 1, self._text
        while index < len(text):
            char = text[index]
            if char == '"':
                return self._counted("".join(parts), start), index + 1
            if char == self._escape:
                after = text[index + 1 : index + 2]
                parts.append(after if after in ('"', "$", self._escape) and after else char + after)
                index += 2
            elif char == "$":
                value, index = self._variable(index, 0)
                parts.append(value)
            else:
                parts.append(char)
                index += 1
        raise self._piece.at(start).error('the quote " is not closed')

    def _variable(self, start: int, depth: int) -> tuple[str, int]:
        """The value of what begins with `$`, and the index after it."""
        text = self._text
        if depth > DEEPEST:
            self._piece.at(start).fail(f"variables stand in each other more than {DEEPEST} deep")
        if text[start + 1 : start + 2] != "{":
            match = _NAME.match(text, start + 1)
            if match is None:
                return "$", start + 1
            name = match[0] if not match[0].isdigit() else match[0][0]
            return self._lookup.get(name, ""), start + 1 + len(name)
        match = _NAME.match(text, start + 2)
        if match is None:
            self._piece.at(start).fail(
                "`${` is not followed by a name: write ${NAME}, or \\$ for $"
            )
        name, index = match[0], match.end()
        if text[index : index + 1] == "}":
            return self._lookup.get(name, ""), index + 1
        operator = next(
            (
                o
                for o in (":-", ":+", ":?", "##", "%%", "//", *"-+?#%/")
                if text.startswith(o, index)
            ),
            None,
        )
        if operator is None:
            if index >= len(text):
                self._piece.at(start).fail("`${` is not closed: write a `}`")
            self._piece.at(index).fail(
                f"`{text[index : index + 2]}` is no modifier: it is one of :- :+ :? - + # % /"
            )
        return self._modified(name, operator, index + len(operator), start, depth)

    def _modified(
        self, name: str, operator: str, index: int, start: int, depth: int
    ) -> tuple[str, int]:
        value = self._lookup.get(name)
        if operator.startswith("/"):
            pattern, index = self._until("/}", index, start, depth)
            replacement = ""
            if self._text[index] == "/":
                replacement, index = self._until("}", index + 1, start, depth)
            self._bound(
                len(value or "") ** 2 if "*" in pattern else len(value or ""), pattern, start
            )
            made = _replaced(value or "", pattern, replacement, every=operator == "//")
            return self._counted(made, start), index + 1
        word, index = self._until("}", index, start, depth)
        there = value is not None and (value != "" or not operator.startswith(":"))
        match operator.removeprefix(":"):
            case "-":
                return (value or "") if there else word, index + 1
            case "+":
                return word if there else "", index + 1
            case "?":
                if not there:
                    self._piece.at(start).fail(
                        f"`{name}` is needed: {word or 'it is not set'}: give it a value"
                    )
                return value or "", index + 1
            case _:
                self._bound(len(value or ""), word, start)
                return _trimmed(value or "", word, operator), index + 1

    def _bound(self, length: int, pattern: str, start: int) -> None:
        if length * max(1, len(pattern)) > _MOST_STEPS:
            self._piece.at(start).fail("value and pattern are too long for each other: shorten one")

    def _until(self, ends: str, index: int, start: int, depth: int) -> tuple[str, int]:
        """The word of a modifier, its own variables replaced, up to one of `ends`."""
        parts: list[str] = []
        text, size = self._text, 0
        while index < len(text):
            char = text[index]
            if char in ends:
                return "".join(parts), index
            if char == "$":
                value, index = self._variable(index, depth + 1)
            elif char == self._escape:
                value, index = text[index + 1 : index + 2], index + 2
            elif (
                char in "\"'" and self._quotes and (end := _closing(text, index, self._escape)) > 0
            ):
                inner = self._piece.cut(index, end + 1)
                value, index = _Expansion(inner, self._lookup, self._escape).whole(), end + 1
            else:
                value, index = char, index + 1
            size += len(value)
            if size > LONGEST_VALUE:
                self._piece.at(start).fail(f"a value grows to more than {LONGEST_VALUE >> 10} KiB")
            parts.append(value)
        raise self._piece.at(start).error("`${` is not closed: write a `}`")


_MOST_STEPS = 4 << 20


def _matcher(pattern: str) -> Callable[[str], list[int]]:
    """For a shell pattern of `*` and `?`: all lengths of a text's beginning that it meets.

    States of the pattern go along the text one after another, so no pattern can take longer than
    its length times that of the text.
    """
    items: list[tuple[bool, str]] = []
    index = 0
    while index < len(pattern):
        char = pattern[index]
        if char == "\\" and index + 1 < len(pattern):
            index += 1
            items.append((False, pattern[index]))
        else:
            items.append((char in "*?", char))
        index += 1

    def reach(states: set[int]) -> set[int]:
        todo = list(states)
        while todo:
            state = todo.pop()
            if state < len(items) and items[state] == (True, "*") and state + 1 not in states:
                states.add(state + 1)
                todo.append(state + 1)
        return states

    def lengths(text: str) -> list[int]:
        states = reach({0})
        found = [0] if len(items) in states else []
        for at, char in enumerate(text):
            after: set[int] = set()
            for state in states:
                if state == len(items):
                    continue
                special, item = items[state]
                if special and item == "*":
                    after.add(state)
                elif special or item == char:
                    after.add(state + 1)
            states = reach(after)
            if not states:
                break
            if len(items) in states:
                found.append(at + 1)
        return found

    return lengths


def _trimmed(value: str, pattern: str, operator: str) -> str:
    """The value without the shortest (`#`, `%`) or longest beginning or end that is met."""
    suffix = operator.startswith("%")
    lengths = _matcher(_reversed(pattern))(value[::-1]) if suffix else _matcher(pattern)(value)
    if not lengths:
        return value
    cut = lengths[-1] if len(operator) == 2 else lengths[0]
    return value[: len(value) - cut] if suffix else value[cut:]


def _reversed(pattern: str) -> str:
    """A pattern for the text from its end; what is escaped stays so."""
    items = re.findall(r"\\.|.", pattern, re.DOTALL)
    return "".join(reversed(items))


def _replaced(value: str, pattern: str, replacement: str, *, every: bool) -> str:
    """The first or every longest part that the pattern meets replaced."""
    if not pattern:
        return value
    lengths = _matcher(pattern)
    parts: list[str] = []
    at = 0
    reach = len(value) if "*" in pattern else len(pattern)
    while at < len(value):
        found = [length for length in lengths(value[at : at + reach]) if length]
        if found:
            parts.append(replacement)
            at += found[-1]
            if not every:
                break
        else:
            parts.append(value[at])
            at += 1
    return "".join(parts) + value[at:]
