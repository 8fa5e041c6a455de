"""Tab completion of the magics' lines: options, their values, subcommands, names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from IPython.core.completer import SimpleCompletion, context_matcher

from magics import grammar
from magics.notebook import Notebook
from magics.verbs import VERBS
from sandbox_kernel import arguments
from sandbox_kernel.arguments import Flag
from sandbox_kernel.course import contents
from sandbox_kernel.grammar import (
    AUDIT_LEVELS,
    IMAGES_OF_FILES,
    IMAGES_OF_PACKAGES,
    NETWORKS,
    OUTPUT_LEVELS,
    RLIMITS,
    RUNTIMES,
    SECURITY_OPTIONS,
)
from sandbox_kernel.linux.capabilities import NAMES as CAPABILITIES
from sandbox_kernel.widgets.kinds import KINDS

if TYPE_CHECKING:
    from IPython.core.completer import CompletionContext, SimpleMatcherResult
    from IPython.core.interactiveshell import InteractiveShell

SIZES = ("128m", "256m", "512m", "1g", "2g")
TIMES = ("10s", "30s", "1m", "5m")
IMAGES = ("host", "scratch", *(f"{kind}:" for kind in (*IMAGES_OF_FILES, *IMAGES_OF_PACKAGES)))
PROGRAMS = ("sh", "bash", "python3", "perl")
VALUES: dict[str, tuple[str, ...]] = {
    "memory": SIZES,
    "memory_swap": SIZES,
    "storage_size": SIZES,
    "output_limit": ("1m", "16m", "128m"),
    "output": OUTPUT_LEVELS,
    "audit": AUDIT_LEVELS,
    "cpus": ("0.5", "1", "2"),
    "pids_limit": ("32", "64", "512"),
    "timeout": (*TIMES, "none"),
    "interrupt_grace": ("1s", "5s"),
    "stop_timeout": ("1s", "5s"),
    "network": NETWORKS,
    "allow_from": ("requirements",),
    "bandwidth": ("1mbit", "10mbit", "100mbit"),
    "latency": ("10ms", "50ms"),
    "loss": ("1%", "5%"),
    "runtime": RUNTIMES,
    "cap_add": CAPABILITIES,
    "cap_drop": ("ALL", *CAPABILITIES),
    "security_opt": SECURITY_OPTIONS,
    "ulimit": tuple(f"{name}=" for name in RLIMITS),
    "program": PROGRAMS,
    "show": grammar.SHOWN,
    "read_only": ("true", "false"),
    "strict": ("true", "false"),
    "keep": ("true", "false"),
    "workers": ("1", "2", "4"),
}
OF_IMAGES = (
    "images", "history", "tag", "save", "rmi", "push", "inspect", "tree", "diff", "sbom", "tags",
    "referrers",
)  # fmt: skip
NAMED = ("inspect", "limits", "logs", "top", "show", "stop", "rm", "diff", "net", "capture")


MAGICS = ("%%container", "%container", "%sandbox")


class Completer:
    """A matcher for IPython: the lines of our magics are completed here and nowhere else."""

    def __init__(self, shell: InteractiveShell, notebook: Notebook) -> None:
        self.shell = shell
        self.notebook = notebook

    def install(self) -> None:
        """Adds this matcher to the shell's."""

        @context_matcher()  # type: ignore[untyped-decorator]
        def sandbox_kernel_matcher(context: CompletionContext) -> SimpleMatcherResult:
            matches = self.complete(context.text_until_cursor, context.token)
            found = [SimpleCompletion(text) for text in matches if text.startswith(context.token)]
            return {"completions": found, "suppress": bool(matches), "ordered": True}

        self.shell.Completer.custom_matchers.append(sandbox_kernel_matcher)

    def complete(self, line: str, token: str) -> list[str]:  # noqa: PLR0911 - a table of cases
        """All that may stand at the end of this line, where IPython sees a word `token`."""
        words = line.split()
        if not words or words[0] not in MAGICS:
            return []
        if line[-1:].isspace():
            words.append("")
        if len(words) < 2:
            return []
        magic, *given, last = words
        flags = self._flags(magic, given)
        # IPython splits at `=`: then only the value is to be completed.
        spelling, equals, value = last.partition("=")
        flag = _find(flags, spelling if equals else (given[-1] if given else ""))
        if flag is not None and flag.metavar and (equals or not last.startswith("-")):
            return self._values(flag, value if equals else last, token)
        if last.startswith("-"):
            return [spelling for flag in flags for spelling in flag.spellings]
        if magic == "%container":
            if not given:
                return list(VERBS)
            if given == ["show"]:
                return list(KINDS)
            found = list(self.notebook.kept) if given[0] in NAMED else []
            stored = _stored() if given[0] in OF_IMAGES else []
            return [*found, *_after(last, token, stored)]
        if magic == "%sandbox" and given == [grammar.CHECK]:
            return list(contents.exercises())
        if magic == "%sandbox":
            return [grammar.RESET, grammar.UPDATE, grammar.COURSE, grammar.CHECK]
        return _after(last, token, [*IMAGES, *_stored()])

    def _flags(self, magic: str, given: list[str]) -> tuple[Flag, ...]:
        if magic == "%container" and given[:1] not in (["plan"], ["limits"]):
            return (arguments.HELP,)
        flags = grammar.cell_flags() if magic == "%%container" else arguments.option_flags()
        return (*flags, arguments.HELP)

    def _values(self, flag: Flag, typed: str, token: str) -> list[str]:
        """Values that make sense; of a list `a,b` the last part is completed."""
        if flag.name in ("in", "out"):
            names = [name for name in self.shell.user_ns if not name.startswith("_")]
            before = typed.rpartition(",")[0]
            # The comma is one of IPython's delimiters, or it is part of the word.
            return [f"{before},{name}" if before and "," in token else name for name in names]
        if flag.name == "map":
            mappable = (list, tuple, range)
            named = [(n, v) for n, v in self.shell.user_ns.items() if not n.startswith("_")]
            return [name for name, value in named if isinstance(value, mappable)]
        if flag.name == "name":
            return list(self.notebook.kept)
        if flag.name == "image":
            return _after(typed, token, [*IMAGES, *_stored()])
        return list(flag.choices or VALUES.get(flag.name, ()))


def _stored() -> list[str]:
    """The names of stored images, as people write them."""
    from sandbox_kernel.cli.images import familiar
    from sandbox_kernel.errors import SandboxError
    from sandbox_kernel.image.store import Store

    try:
        return [familiar(name) for name in Store.open().names()]
    except SandboxError:
        return []  # a list that can't be read is said by whoever needs an image of it


def _after(typed: str, token: str, names: list[str]) -> list[str]:
    """Names that begin as the word does. IPython ends its token at `:`: what was before stays."""
    before = typed[: len(typed) - len(token)] if typed.endswith(token) else ""
    return [name[len(before) :] for name in names if name.startswith(before)]


def _find(flags: tuple[Flag, ...], spelling: str) -> Flag | None:
    return next((flag for flag in flags if spelling in flag.spellings), None)
