"""The `--name=value` words between an instruction's name and its arguments."""

from __future__ import annotations

from collections.abc import Mapping

from sandbox_kernel.containerfile.lines import Line
from sandbox_kernel.containerfile.source import Piece
from sandbox_kernel.containerfile.words import split_words


class Flags:
    """What was given, by name."""

    def __init__(self, given: Mapping[str, list[Piece]]) -> None:
        self._given = given

    @classmethod
    def read(
        cls,
        line: Line,
        escape: str,
        known: tuple[str, ...],
        switches: tuple[str, ...],
        many: tuple[str, ...],
    ) -> tuple[Flags, Piece]:
        """The flags, and what follows them. Raises ContainerfileError."""
        given: dict[str, list[Piece]] = {}
        rest = line.rest
        while rest.text.startswith("--"):
            word = _first(rest, escape)
            rest = rest.cut(len(word.text)).strip()
            if word.text == "--":
                break
            name, equals, _ = word.text[2:].partition("=")
            instruction = line.name.text.upper()
            if name not in (*known, *switches):
                import difflib

                near = difflib.get_close_matches(name[:40], (*known, *switches), 1)
                hint = f": did you mean `--{near[0]}`?" if near else ""
                word.fail(f"{instruction} has no option `--{name[:40]}`{hint}")
            value = word.cut(2 + len(name) + 1)
            if name in switches:
                if equals and value.text not in ("true", "false"):
                    word.fail(f"`--{name}` is true or false")
            elif not equals:
                word.fail(f"`--{name}` needs a value: write --{name}=VALUE")
            if name in given and name not in many:
                word.fail(f"`--{name}` is given twice")
            given.setdefault(name, []).append(value)
        return cls(given), rest

    def has(self, name: str) -> bool:
        return name in self._given

    def one(self, name: str) -> Piece | None:
        return self._given[name][0] if name in self._given else None

    def all(self, name: str) -> tuple[Piece, ...]:
        return tuple(self._given.get(name, ()))

    def switch(self, name: str) -> bool:
        return name in self._given and self._given[name][0].text != "false"


def _first(piece: Piece, escape: str) -> Piece:
    """The first word; only as much is read as it is long."""
    end = piece.text.find("\n")
    words = split_words(piece if end < 0 else piece.cut(0, end), escape, strict=False)
    return words[0]
