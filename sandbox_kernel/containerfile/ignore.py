"""`.dockerignore` and `--exclude`: which files of a context are left out. Linear in each path.

Source: Dockerfile reference, ".dockerignore file"; moby's patternmatcher for `**`, `!` and parents.
"""

from __future__ import annotations

import posixpath

from sandbox_kernel.containerfile.glob import Glob

TYPE_CHECKING = False  # not from `typing`, which is heavy for the launcher
if TYPE_CHECKING:
    from collections.abc import Iterable

    from sandbox_kernel.containerfile.glob import Where

    State = tuple[bool, ...]

MOST_BYTES = 1 << 20
MOST_PATTERNS = 10_000


class Rule:
    """One pattern; `keep`: it began with `!`."""

    __slots__ = ("glob", "keep")

    def __init__(self, glob: Glob, keep: bool) -> None:
        self.glob = glob
        self.keep = keep


class Ignored:
    """Patterns in order; the last one that meets a path, or a folder above it, decides."""

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self._rules = tuple(rules)
        self._keeps = any(rule.keep for rule in self._rules)

    def __bool__(self) -> bool:
        return bool(self._rules)

    def is_left_out(self, path: str, above: State | None = None) -> tuple[bool, State]:
        """Whether a path is left out, given the state of the folder it lies in.

        The state of a path is for what lies in it.
        """
        parts = path.split("/")
        met = above or (False,) * len(self._rules)
        state = tuple(
            was or rule.glob.matches(parts) for was, rule in zip(met, self._rules, strict=True)
        )
        left_out = False
        for now, rule in zip(state, self._rules, strict=True):
            if now:
                left_out = not rule.keep
        return left_out, state

    def may_keep_below(self) -> bool:
        """Whether something in a folder that is left out may be kept none the less."""
        return self._keeps


def read(text: str, file: str) -> Ignored:
    """The rules of an ignore file. Raises ContainerfileError for a pattern that is none."""
    from sandbox_kernel.containerfile.source import Place  # not for the launcher

    if len(text) > MOST_BYTES:
        Place(file, 1, 1).fail(f"it is larger than {MOST_BYTES >> 20} MiB: make it smaller")
    rules: list[Rule] = []
    text = text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")
    for number, line in enumerate(text.split("\n"), 1):
        if line.startswith("#"):
            continue
        pattern = line.strip()
        if not pattern:
            continue
        if len(rules) == MOST_PATTERNS:
            Place(file, number, 1).fail(f"it has more than {MOST_PATTERNS} patterns")
        rules.append(rule(pattern, Place(file, number, line.index(pattern[0]) + 1)))
    return Ignored(rules)


def rule(pattern: str, place: Where) -> Rule:
    """One pattern. Raises ContainerfileError when it is none, or leads out of the context."""
    keep = pattern.startswith("!")
    body = pattern[1:].strip() if keep else pattern
    if not body:
        place.fail("`!` alone is no pattern: write !PATTERN")
    if "\0" in body:
        place.fail("a pattern holds a NUL character")
    clean = posixpath.normpath(body).lstrip("/")
    if clean == ".." or clean.startswith("../"):
        place.fail(f"`{pattern[:80]}` leads out of the context: patterns begin at its root")
    return Rule(Glob(clean or ".", place), keep)
