"""The grammar of `%sandbox`, the first line of a cell of "Sandbox Cells". Does nothing itself."""

from __future__ import annotations

from typing import Any, NamedTuple

from sandbox_kernel import arguments, settings
from sandbox_kernel.arguments import Flag
from sandbox_kernel.errors import InvalidOption

from .. import course
from ..commands import SANDBOX

IN = Flag("in", ("--in",), "NAMES", "Values that this cell gets, such as a,b.", many=True)
OUT = Flag("out", ("--out",), "NAMES", "Variables of this cell that are kept.", many=True)
USAGE = f"{SANDBOX} [WORD] [options]"
SUMMARY = (
    "The first line of a cell. Options are the defaults of this cell and the next ones; "
    "alone, it shows what is in force."
)
AFTER = """words:
  mode fresh|carry      each cell in a fresh container; or each in a fork of the state after
                        the last one, so that it can be undone
  share [NAME...]       from now on these names go into each cell and come out again
  unshare NAME...       no longer
  update                ask anew what the name of the image means, and show what changed
  reset                 begin anew: no values, no state, no defaults of this notebook
  undo [N]              mode carry: take back the last N cells (1), variables and files
  snapshot NAME         mode carry: give the state a name; it stays until its name is used again
  restore NAME          mode carry: go back to the state of that name
  snapshots             mode carry: which states are kept
  course                the chapters of the course, and which exercises are done"""


class Line(NamedTuple):
    """What stands behind `%sandbox`."""

    verb: str
    """`options` for a line that has no word."""
    words: tuple[str, ...]
    options: dict[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def read(line: str) -> Line:
    """Parses the line. Raises InvalidOption."""
    flags = (IN, OUT, *arguments.option_flags())
    found = arguments.parse(arguments.words(line), flags)
    if found.own.get("help"):
        return Line("help", (), {}, (), ())
    inputs = _names("--in", ",".join(found.own.get("in", ())))
    outputs = _names("--out", ",".join(found.own.get("out", ())))
    verb, *words = found.rest or ["options"]
    if verb != "options" and (found.options or inputs or outputs):
        raise InvalidOption(SANDBOX, verb, "options, or a word such as `reset`, not both")
    check = _VERBS.get(verb)
    if check is None or (verb == "options" and found.rest):
        allowed = f"options such as --memory 512m, or one of {', '.join(list(_VERBS)[1:-1])}"
        raise InvalidOption(SANDBOX, verb, allowed)
    check(verb, words)
    return Line(verb, tuple(words), found.options, inputs, outputs)


def help_text() -> str:
    """The text of `%sandbox --help`."""
    return arguments.help_text(USAGE, SUMMARY, (IN, OUT, *arguments.option_flags()), AFTER)


def _names(option: str, text: str) -> tuple[str, ...]:
    names = [name.strip() for name in text.split(",")] if text else []
    for name in names:
        if not name.isidentifier():
            raise InvalidOption(option, name, "names of variables, such as a,b")
    return tuple(dict.fromkeys(names))


def _nothing(verb: str, words: list[str]) -> None:
    if words:
        raise InvalidOption(f"{SANDBOX} {verb}", words[0], "nothing behind it")


def _mode(verb: str, words: list[str]) -> None:
    if len(words) != 1:
        raise InvalidOption(f"{SANDBOX} {verb}", " ".join(words), "`fresh` or `carry`")
    settings.OPTIONS["mode"].read(words[0], f"{SANDBOX} mode")


def _variables(verb: str, words: list[str]) -> None:
    for word in words:
        _names(f"{SANDBOX} {verb}", word)
    if verb == "unshare" and not words:
        raise InvalidOption(f"{SANDBOX} {verb}", "", "the names that are no longer shared")


def _count(verb: str, words: list[str]) -> None:
    one_number = len(words) <= 1 and all(word.isascii() and word.isdecimal() for word in words)
    if not one_number or any(int(word[:9]) < 1 for word in words):
        allowed = "how many cells to take back, such as 2"
        raise InvalidOption(f"{SANDBOX} {verb}", " ".join(words), allowed)


def _one_name(verb: str, words: list[str]) -> None:
    if len(words) != 1 or not words[0].isidentifier():
        raise InvalidOption(f"{SANDBOX} {verb}", " ".join(words), "one name, such as `before`")


def _course(verb: str, words: list[str]) -> None:
    if (verb, words) != (course.COURSE, []):
        course.in_a_sandbox((verb, *words))  # raises, and says where that can be asked


_VERBS = {
    "options": _nothing,
    "mode": _mode,
    "share": _variables,
    "unshare": _variables,
    "update": _nothing,
    "reset": _nothing,
    "undo": _count,
    "snapshot": _one_name,
    "restore": _one_name,
    "snapshots": _nothing,
    course.COURSE: _course,
    course.CHECK: _course,
}
