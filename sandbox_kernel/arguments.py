"""Command lines, of the command and of the magics: words to option names and values, and the help.

docker's habits: `--memory 256m`, `--memory=256m`, `-m256m`, switches without a value, `--` ends the
options, and the first word that is no option ends them too where a command follows. Different from
argparse: nothing is guessed from a prefix, an option given twice is an error unless it is one of
many, and every error is an `InvalidOption`. Values stay text; `settings.read_options` types them.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from . import grammar, settings
from .errors import InvalidOption


class Flag(NamedTuple):
    """One thing that can be typed. `metavar` empty: a switch. `many`: may be given again."""

    name: str
    spellings: tuple[str, ...]
    metavar: str
    help: str
    many: bool = False
    group: str = "options"
    choices: tuple[str, ...] = ()
    default: str = ""


class Parsed(NamedTuple):
    """`options`: for a request. `own`: of the verb's own flags. `rest`: the other words."""

    options: dict[str, Any]
    own: dict[str, Any]
    rest: list[str]


HELP = Flag("help", ("--help",), "", "Show this text.")
_RM = Flag("rm", ("--rm",), "", "The container is removed after its run, as is usual.",
    group="container")  # fmt: skip
_TMPFS = Flag("tmpfs", ("--tmpfs",), "TARGET[:size=SIZE]", "An empty file system in memory.",
    many=True, group="files")  # fmt: skip


def option_flags(names: Iterable[str] | None = None) -> tuple[Flag, ...]:
    """The flags of the settings, in the order of the table; by default those of a container."""
    flags = []
    for name, option in settings.OPTIONS.items():
        if name in settings.OF_A_KERNEL if names is None else name not in names:
            continue
        kind = option.kind
        default = option.default_text
        if not default and option.default_value not in (None, (), False):
            default = option.show(option.default_value)
        many = kind.identity is not None
        flags.append(
            Flag(name, option.flags, kind.metavar, option.help, many, option.group, (), default)
        )
    if names is None:
        flags += [_TMPFS, _RM]
    return tuple(flags)


def words(line: str) -> list[str]:
    """A magic's line as a shell would split it; nothing is expanded."""
    try:
        return shlex.split(line)
    except ValueError as error:
        raise InvalidOption("line", line, f"quotes that are closed: {error}") from None


def parse(given: Sequence[str], flags: Sequence[Flag], *, command: bool = False) -> Parsed:
    """Sorts words into options and the rest. `command`: the first other word ends the options."""
    spelled = {spelling: flag for flag in (*flags, HELP) for spelling in flag.spellings}
    found = Parsed({}, {}, [])
    queue = list(given)
    while queue:
        word = queue.pop(0)
        if word == "--":
            found.rest.extend(queue)
            break
        if not word.startswith("-") or word == "-":
            found.rest.append(word)
            if command:
                found.rest.extend(queue)
                break
            continue
        flag, spelling, value = _split(word, queue, spelled)
        if flag.metavar and value is None:
            if not queue:
                raise InvalidOption(spelling, "nothing", f"{spelling} {flag.metavar}")
            value = queue.pop(0)
        _take(found, flag, spelling, value)
    return found


def _split(
    word: str, queue: list[str], spelled: Mapping[str, Flag]
) -> tuple[Flag, str, str | None]:
    """One word as flag, spelling and attached value; `-it` puts `-t` back into the queue."""
    if word.startswith("--"):
        spelling, equals, text = word.partition("=")
        if flag := spelled.get(spelling):
            return flag, spelling, text if equals else None
        raise InvalidOption(spelling, word, _unknown(spelling, spelled))
    spelling, text = word[:2], word[2:]
    flag = spelled.get(spelling)
    if flag is None:
        raise InvalidOption(spelling, word, _unknown(spelling, spelled))
    if flag.metavar:
        return flag, spelling, text.removeprefix("=") if text else None
    if text:
        queue.insert(0, "-" + text)
    return flag, spelling, None


def _unknown(spelling: str, spelled: Iterable[str]) -> str:
    import difflib

    near = difflib.get_close_matches(spelling, list(spelled), 1)
    return "there is no such option" + (f": did you mean `{near[0]}`?" if near else "")


def _take(found: Parsed, flag: Flag, spelling: str, value: str | None) -> None:
    if flag.choices and value not in flag.choices:
        raise InvalidOption(spelling, value, f"one of {', '.join(flag.choices)}")
    known = settings.OPTIONS.get(flag.name) if flag.group != "options" else None
    if known is not None and flag.name in ("mount", "env"):
        typed: object = known.kind.parse(value, spelling)  # checked under the spelling it has here
    elif flag is _TMPFS:
        typed = grammar.tmpfs(value, spelling)
    elif not flag.metavar:
        typed = value is None or grammar.switch(value, spelling)
    else:
        typed = value
    name, into = flag.name, found.own if known is None else found.options
    if flag is _TMPFS:
        name, into = "mount", found.options
    elif flag is _RM:
        name, typed, into = "keep", not typed, found.options
    if flag.many:
        into.setdefault(name, [])
        into[name].append(typed)
    elif name in into and into[name] != typed:
        raise InvalidOption(spelling, value, f"`{spelling}` once, but it is given twice")
    else:
        into[name] = typed


def help_text(usage: str, summary: str, flags: Sequence[Flag], after: str = "") -> str:
    """`usage:`, one sentence, and the flags in their groups, in at most 100 columns."""
    import textwrap

    lines = [f"usage: {usage}", "", *textwrap.wrap(summary, 96)]
    groups: dict[str, list[Flag]] = {}
    for flag in (*flags, HELP):
        groups.setdefault(flag.group, []).append(flag)
    for group, members in groups.items():
        lines += ["", f"{group}:"]
        for flag in members:
            shorts = [s for s in flag.spellings if not s.startswith("--")]
            longs = [s for s in flag.spellings if s.startswith("--")]
            lines.append("  " + " ".join([", ".join((*shorts, *longs)), flag.metavar]).rstrip())
            text = flag.help + (f" One of: {', '.join(flag.choices)}." if flag.choices else "")
            text += " Can be given again." if flag.many else ""
            text += f" Default: {flag.default}." if flag.default else ""
            lines += textwrap.wrap(text, 92, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return "\n".join([*lines, *(["", after] if after else [])]) + "\n"
