"""From the text of a Containerfile to stages of instructions, or an error with its place.

Source: Dockerfile reference. What a build makes of it is in `building`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from sandbox_kernel.containerfile import instructions as i
from sandbox_kernel.containerfile import mounts
from sandbox_kernel.containerfile.flags import Flags
from sandbox_kernel.containerfile.lines import Directives, Line, read_lines
from sandbox_kernel.containerfile.source import Piece, Place, Source
from sandbox_kernel.containerfile.words import blank_words, split_words

MOST_STAGES = 1_000
_STAGE_NAME = re.compile(r"[a-z][a-z0-9-_.]{0,127}$")
_ARGUMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*$")
_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9,
    "h": 3600 * 10**9}  # fmt: skip
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ns|us|µs|ms|s|m|h)")
_NOT_IN_ONBUILD = ("ONBUILD", "FROM", "MAINTAINER")


class Stage(Struct, frozen=True):
    """One FROM and what follows it."""

    index: int
    begin: i.From
    instructions: tuple[i.Instruction, ...]

    @property
    def name(self) -> str:
        """Its name, or its number."""
        return self.begin.name or str(self.index)


class Containerfile(Struct, frozen=True):
    """The whole file. `arguments` stand before the first FROM."""

    file: str
    directives: Directives
    arguments: tuple[i.Arg, ...]
    stages: tuple[Stage, ...]


def parse(text: str, file: str = "Containerfile") -> Containerfile:
    """Read a Containerfile; `file` is its name in messages. Raises ContainerfileError."""
    directives, lines = read_lines(text, file)
    reader = _Reader(directives.escape)
    arguments: list[i.Arg] = []
    begun: list[tuple[i.From, list[i.Instruction]]] = []
    names: dict[str, Place] = {}
    for line in lines:
        made = reader.read(line)
        if isinstance(made, i.From):
            if len(begun) == MOST_STAGES:
                made.place.fail(f"it has more than {MOST_STAGES} stages")
            if made.name in names:
                made.place.fail(
                    f"the stage name `{made.name}` is taken in line {names[made.name].line}"
                )
            if made.name:
                names[made.name] = made.place
            begun.append((made, []))
        elif begun:
            begun[-1][1].append(made)
        elif isinstance(made, i.Arg):
            arguments.append(made)
        else:
            made.place.fail("only ARG may stand before the first FROM: begin with `FROM IMAGE`")
    if not begun:
        Place(file, max(1, text.count("\n")), 1).fail("it has no FROM: begin with `FROM IMAGE`")
    stages = tuple(Stage(n, made, tuple(rest)) for n, (made, rest) in enumerate(begun))
    return Containerfile(file, directives, tuple(arguments), stages)


def parse_trigger(text: str, file: str, escape: str = "\\") -> i.Instruction:
    """One instruction that a base image has for those who build on it (ONBUILD)."""
    _, lines = read_lines(text, file)
    if len(lines) != 1:
        Place(file, 1, 1).fail("a trigger is one instruction")
    if lines[0].name.text.upper() in _NOT_IN_ONBUILD:
        lines[0].name.fail(f"{lines[0].name.text.upper()} is not allowed in ONBUILD")
    return _Reader(escape).read(lines[0])


class _Reader:
    """Makes an instruction of a line."""

    def __init__(self, escape: str) -> None:
        self._escape = escape

    def read(self, line: Line) -> i.Instruction:
        name = line.name.text.upper()
        method: _Method | None = _INSTRUCTIONS.get(name)
        if method is None:
            import difflib

            near = difflib.get_close_matches(name[:40], _INSTRUCTIONS, 1)
            hint = f": did you mean `{near[0]}`?" if near else ""
            line.name.fail(f"`{line.name.text[:40]}` is no instruction{hint}")
        if not line.rest.text:
            line.name.fail(f"{name} needs something after it")
        return method(self, line, {"place": line.name.place, "text": _shown(line)})

    def _flags(self, line: Line, *known: str, switches: tuple[str, ...] = (),
        many: tuple[str, ...] = ()) -> tuple[Flags, Piece]:  # fmt: skip
        return Flags.read(line, self._escape, known, switches, many)

    def from_(self, line: Line, both: dict[str, Any]) -> i.From:
        flags, rest = self._flags(line, "platform")
        words = blank_words(rest)
        if not words:
            line.name.fail("FROM needs an image: `FROM IMAGE [AS NAME]`")
        name = None
        if len(words) > 1:
            if len(words) != 3 or words[1].text.upper() != "AS":
                words[1].fail("it is `FROM IMAGE [AS NAME]`")
            name = words[2].text.lower()
            if not _STAGE_NAME.match(name):
                words[2].fail("a stage is named by letters, digits, - _ . and begins with a letter")
        return i.From(image=words[0], name=name, platform=flags.one("platform"), **both)

    def arg(self, line: Line, both: dict[str, Any]) -> i.Arg:
        names: list[tuple[str, Piece | None]] = []
        for word in split_words(line.rest, self._escape):
            name, equals, _ = word.text.partition("=")
            if not _ARGUMENT.match(name):
                word.fail(f"`{name[:60]}` is no name of a variable")
            names.append((name, word.cut(len(name) + 1) if equals else None))
        return i.Arg(names=tuple(names), **both)

    def _pairs(self, line: Line) -> tuple[tuple[Piece, Piece], ...]:
        words = split_words(line.rest, self._escape)
        if "=" not in words[0].text:  # the old form, `ENV NAME the rest`
            rest = line.rest.cut(len(words[0].text)).strip()
            if not rest.text:
                words[0].fail(f"{line.name.text.upper()} needs NAME=VALUE")
            return ((words[0], rest),)
        pairs = []
        for word in words:
            name, equals, _ = word.text.partition("=")
            if not equals or not name:
                word.fail(f"`{word.text[:60]}` is not NAME=VALUE: quote a value with blanks")
            pairs.append((word.cut(0, len(name)), word.cut(len(name) + 1)))
        return tuple(pairs)

    def env(self, line: Line, both: dict[str, Any]) -> i.Env:
        return i.Env(pairs=self._pairs(line), **both)

    def label(self, line: Line, both: dict[str, Any]) -> i.Label:
        return i.Label(pairs=self._pairs(line), **both)

    def run(self, line: Line, both: dict[str, Any]) -> i.Run:
        flags, rest = self._flags(line, "mount", "network", "security", many=("mount",))
        security = flags.one("security")
        if security is not None and security.text != "sandbox":
            security.fail("`--security` can only be `sandbox`: a build is never given more rights")
        network = flags.one("network")
        if network is not None and network.text not in ("none", "default", "host"):
            network.fail("`--network` is one of none, default, host")
        if not rest.text:
            line.name.fail("RUN needs a command")
        return i.Run(
            command=_command(rest),
            mounts=tuple(mounts.read(piece) for piece in flags.all("mount")),
            network=network.text if network else "default",
            documents=line.documents,
            **both,
        )

    def copy(self, line: Line, both: dict[str, Any]) -> i.Copy:
        add = line.name.text.upper() == "ADD"
        own = ("checksum",) if add else ("from",)
        switches = ("link", "keep-git-dir", "unpack") if add else ("link", "parents")
        flags, rest = self._flags(
            line, "chown", "chmod", "exclude", *own, switches=switches, many=("exclude",)
        )
        words = _json_pieces(rest)
        if words is None:
            words = blank_words(rest)
        if len(words) < 2:
            line.name.fail(f"{line.name.text.upper()} needs a source and a destination")
        documents = {document.mark: document for document in line.documents}
        if words[-1].text in documents:
            words[-1].fail("a here-document is a source: name a destination after it")
        return i.Copy(
            add=add,
            sources=tuple(documents.get(word.text, word) for word in words[:-1]),
            destination=words[-1],
            origin=flags.one("from"),
            owner=flags.one("chown"),
            mode=flags.one("chmod"),
            link=flags.switch("link"),
            parents=flags.switch("parents"),
            exclude=flags.all("exclude"),
            checksum=flags.one("checksum"),
            unpack=flags.switch("unpack") if flags.has("unpack") else None,
            **both,
        )

    def workdir(self, line: Line, both: dict[str, Any]) -> i.Workdir:
        return i.Workdir(path=line.rest, **both)

    def user(self, line: Line, both: dict[str, Any]) -> i.User:
        return i.User(user=line.rest, **both)

    def entrypoint(self, line: Line, both: dict[str, Any]) -> i.Entrypoint:
        return i.Entrypoint(command=_command(line.rest), **both)

    def cmd(self, line: Line, both: dict[str, Any]) -> i.Cmd:
        return i.Cmd(command=_command(line.rest), **both)

    def shell(self, line: Line, both: dict[str, Any]) -> i.Shell:
        words = _json(line.rest)
        if not words:
            line.rest.fail('SHELL needs a list in JSON: `SHELL ["/bin/sh", "-c"]`')
        return i.Shell(words=tuple(words), **both)

    def expose(self, line: Line, both: dict[str, Any]) -> i.Expose:
        return i.Expose(ports=tuple(blank_words(line.rest)), **both)

    def volume(self, line: Line, both: dict[str, Any]) -> i.Volume:
        paths = _json_pieces(line.rest)
        if paths is None:
            paths = blank_words(line.rest)
        if not paths:
            line.rest.fail("VOLUME needs a path")
        return i.Volume(paths=tuple(paths), **both)

    def stopsignal(self, line: Line, both: dict[str, Any]) -> i.Stopsignal:
        return i.Stopsignal(signal=line.rest, **both)

    def maintainer(self, line: Line, both: dict[str, Any]) -> i.Maintainer:
        return i.Maintainer(name=line.rest, **both)

    def healthcheck(self, line: Line, both: dict[str, Any]) -> i.Healthcheck:
        names = ("interval", "timeout", "start-period", "start-interval", "retries")
        flags, rest = self._flags(line, *names)
        kind = rest.text.split(None, 1)[0].upper() if rest.text else ""
        if kind not in ("NONE", "CMD"):
            (rest if rest.text else line.name).fail(
                "it is `HEALTHCHECK [options] CMD COMMAND` or `HEALTHCHECK NONE`"
            )
        after = rest.cut(len(kind)).strip()
        if kind == "NONE":
            if after.text or any(flags.has(name) for name in names):
                rest.fail("HEALTHCHECK NONE takes nothing more")
            return i.Healthcheck(command=None, interval=None, timeout=None, start_period=None,
                start_interval=None, retries=None, **both)  # fmt: skip
        if not after.text:
            rest.fail("HEALTHCHECK CMD needs a command")
        times: dict[str, Any] = {
            name.replace("-", "_"): _duration(flags.one(name)) for name in names[:-1]
        }
        retries = flags.one("retries")
        if retries is not None and not re.fullmatch(r"[0-9]{1,6}", retries.text):
            retries.fail("`--retries` is a whole number")
        return i.Healthcheck(
            command=_command(after), retries=int(retries.text) if retries else None, **times, **both
        )

    def onbuild(self, line: Line, both: dict[str, Any]) -> i.Onbuild:
        word = line.rest.text.split(None, 1)[0].upper()
        if word in _NOT_IN_ONBUILD:
            line.rest.fail(f"{word} is not allowed in ONBUILD")
        name = line.rest.cut(0, len(word))
        inner = Line(name, line.rest.cut(len(word)).strip(), line.documents, line.rest.text)
        self.read(inner)  # what a later build would stumble over is said now
        trigger = line.rest.text
        for document in line.documents:
            trigger += f"\n{document.content}{document.name}"
        return i.Onbuild(trigger=trigger, **both)


_Method = Callable[[_Reader, Line, dict[str, Any]], i.Instruction]
_INSTRUCTIONS: dict[str, _Method] = {
    "FROM": _Reader.from_, "ARG": _Reader.arg, "ENV": _Reader.env, "LABEL": _Reader.label,
    "RUN": _Reader.run, "COPY": _Reader.copy, "ADD": _Reader.copy, "WORKDIR": _Reader.workdir,
    "USER": _Reader.user, "ENTRYPOINT": _Reader.entrypoint, "CMD": _Reader.cmd,
    "SHELL": _Reader.shell, "EXPOSE": _Reader.expose, "VOLUME": _Reader.volume,
    "STOPSIGNAL": _Reader.stopsignal, "MAINTAINER": _Reader.maintainer,
    "HEALTHCHECK": _Reader.healthcheck, "ONBUILD": _Reader.onbuild,
}  # fmt: skip


def _shown(line: Line) -> str:
    """The instruction on one line, for history and progress."""
    text = f"{line.name.text.upper()} {line.rest.text}"
    for document in line.documents:
        text += f"\n{document.content}{document.name}"
    return text


def _json(piece: Piece) -> list[str] | None:
    """A JSON list of texts, None when it is not one."""
    if not piece.text.startswith("["):
        return None
    try:
        found = json.loads(piece.text)
    except (ValueError, RecursionError):
        return None
    fine = isinstance(found, list) and all(isinstance(word, str) for word in found)
    if fine and any("\0" in word for word in found):
        piece.fail("a word holds a NUL character")
    return found if fine else None


def _json_pieces(piece: Piece) -> list[Piece] | None:
    words = _json(piece)
    if words is None:
        return None
    place = piece.place
    return [
        Piece(word, Source(place.file, [(word, place.line, place.column)]), 0) for word in words
    ]


def _command(piece: Piece) -> i.Command:
    words = _json(piece)
    return i.Command((piece.text,), True) if words is None else i.Command(tuple(words), False)


def _duration(piece: Piece | None) -> int | None:
    """Nanoseconds of a text such as 1m30s."""
    if piece is None:
        return None
    at = total = 0
    while match := _DURATION.match(piece.text, at):
        total += round(float(match[1]) * _UNITS[match[2]])
        at = match.end()
    if at != len(piece.text) or (not at and piece.text != "0"):
        piece.fail("a time is written as 30s, 1m30s or 500ms")
    if total and total < 10**6:
        piece.fail("a time is 0 or at least 1ms")
    return total
