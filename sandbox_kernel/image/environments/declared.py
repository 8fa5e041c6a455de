"""What an environment is declared to be: requirements, constraints, hashes, and the base.

    packages: A, B==1.2 [before DATE] [on BASE]
    requirements:FILE   [before DATE] [on BASE]
    pyproject:DIR       [before DATE] [on BASE]
    conda:FILE          [before DATE] [on BASE]

BASE is an image, `host` when it is left out. DATE leaves out what was uploaded to the index later.
`@sha256:...` before these names a lock (see `lock`). `python>=3.12` among packages is what the base
must have. Files of requirements are read here, strictly, and not by pip's rules: what they could
say of indexes, paths, addresses or builds is the user's to decide and is refused, so that a folder
that is not trusted can't make this machine fetch, read or run anything but wheels of the user's own
index.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from sandbox_kernel.errors import ImageError, shown
from sandbox_kernel.image.digest import Digest

CONDA = "conda"
KINDS = ("packages", "requirements", "pyproject", CONDA)
BASE = "host"
ON = " on "
PYTHON = "python"
MOST_BYTES = 1 << 20
MOST_REQUIREMENTS = 2000
DEEPEST = 8
LOCKED = re.compile(r"\s*@(sha256:[0-9a-f]{64})")
BEFORE = re.compile(r"\s+before\s+([0-9]{4}-[0-9]{2}-[0-9]{2}(?:T[0-9:.]+(?:Z|[+-][0-9:]+))?)")
_HASH = re.compile(r"--hash[= ](sha256:[0-9a-f]{64})")


@dataclass(frozen=True)
class Declared:
    """Requirements in the words of PEP 508, or in those of conda, and what they stand on."""

    reference: str
    requirements: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    hashes: dict[str, frozenset[str]] = field(default_factory=dict)
    """Normalised name -> SHA-256 digits; empty when the file gives none."""
    base: str = BASE
    requires_python: str | None = None
    exclude_newer: str | None = None
    lock: Digest | None = None
    channels: tuple[str, ...] = ()
    """Names of the user's channels, the first before the next; of conda only."""


class Split(NamedTuple):
    """The parts of a reference."""

    kind: str
    rest: str
    base: str
    before: str | None
    lock: Digest | None

    def __str__(self) -> str:
        """The reference again; of `base`, only one that is not the usual."""
        space = " " if self.kind == "packages" else ""
        lock = f"@{self.lock}" if self.lock else ""
        before = f" before {self.before}" if self.before else ""
        on = f"{ON}{self.base}" if self.base != BASE else ""
        return f"{self.kind}:{space}{self.rest}{lock}{before}{on}"


def is_environment(reference: str) -> bool:
    """Whether a reference is of this room."""
    kind, colon, _ = reference.partition(":")
    return bool(colon) and kind in KINDS


def is_conda(reference: str) -> bool:
    """Whether a reference is of the kind that rattler resolves, and uv does not."""
    return reference.partition(":")[0] == CONDA


def split(text: str) -> Split:
    """The parts of a reference. Raises ImageError."""
    kind, colon, rest = text.partition(":")
    if not colon or kind not in KINDS:
        raise _wrong(text, f"it is none of `{':`, `'.join(KINDS)}:`")
    rest, on, base = rest.partition(ON)
    rest, base = rest.strip(), base.strip()
    before = BEFORE.search(rest)
    if before and before.end() == len(rest):
        rest = rest[: before.start()]
    else:
        before = None
    locked = LOCKED.search(rest)
    if locked and locked.end() == len(rest):
        rest = rest[: locked.start()]
    else:
        locked = None
    if not rest or (on and not base):
        raise _wrong(text, f"it is not `{kind}:... [on BASE]`")
    if is_environment(base):
        raise _wrong(text, "an environment stands on an image that is none: name that")
    return Split(
        kind,
        rest,
        base or BASE,
        before[1] if before else None,
        Digest(locked[1]) if locked else None,
    )


def read(text: str) -> Declared:
    """The declaration behind a reference, with its files. Raises ImageError."""
    named = split(text)
    kind, rest, base, before, lock = named
    text = str(named)
    if kind == "packages":
        # `a>=1,<2` and `a[b,c]` are one requirement: no name begins after such a comma.
        parts = re.split(r",(?![^\[]*\])(?=\s*[A-Za-z0-9])", rest)
        found = _without_python(Declared(text, tuple(requirement(part, text) for part in parts)))
    elif kind == "requirements":
        found = _Files(text).read(os.path.abspath(rest))
    elif kind == CONDA:
        from sandbox_kernel.image.environments.conda import environment_file

        found = environment_file.read(text, os.path.abspath(rest))
    else:
        found = _pyproject(text, rest)
    if len(found.requirements) + len(found.constraints) > MOST_REQUIREMENTS:
        raise _wrong(text, f"there are more than {MOST_REQUIREMENTS} requirements")
    return replace(found, base=base, lock=lock, exclude_newer=before or found.exclude_newer)


def _without_python(found: Declared) -> Declared:
    """`python>=3.12` is no package but what the base must have."""
    named = [each for each in found.requirements if re.match(rf"{PYTHON}(?![\w.-])", each)]
    needs = ",".join(each.removeprefix(PYTHON).strip() for each in named) or None
    rest = tuple(each for each in found.requirements if each not in named)
    return replace(found, requirements=rest, requires_python=needs)


def requirement(text: str, where: str) -> str:
    """A requirement by PEP 508, in its one spelling. Raises ImageError."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        read = Requirement(text.strip())
    except InvalidRequirement as error:
        why = str(error).splitlines()[0]
        raise _wrong(where, f"`{shown(text.strip())}` is no requirement: {shown(why)}") from None
    if read.url is not None:
        raise _wrong(
            where,
            f"`{shown(read.name)}` is asked for from an address: only names of the user's own "
            "index are fetched: name a version",
        )
    return str(read)


def normalised(name: str) -> str:
    """The name of a package as all indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


class _Files:
    """A file of requirements with those that it names, all below its own folder."""

    def __init__(self, reference: str) -> None:
        self._reference = reference
        self._requirements: list[str] = []
        self._constraints: list[str] = []
        self._hashes: dict[str, frozenset[str]] = {}

    def read(self, path: str) -> Declared:
        self._root = os.path.dirname(path)
        self._read(path, constraint=False, depth=0)
        return Declared(
            self._reference,
            tuple(self._requirements),
            tuple(self._constraints),
            self._hashes,
        )

    def _read(self, path: str, *, constraint: bool, depth: int) -> None:
        if depth > DEEPEST:
            raise _wrong(self._reference, f"files name files more than {DEEPEST} deep")
        for number, line in _logical_lines(text_of(path, self._reference)):
            where = f"{self._reference}, line {number} of {os.path.basename(path)}"
            if line.startswith("-"):
                self._option(line, path, where, constraint=constraint, depth=depth)
                continue
            plain, hashes = _HASH.sub("", line), _HASH.findall(line)
            if " --" in plain:
                raise _wrong(where, f"`{shown(plain)}`: of options only `--hash=sha256:` is taken")
            wanted = requirement(plain, where)
            (self._constraints if constraint else self._requirements).append(wanted)
            if hashes:
                name = normalised(re.split(r"[^A-Za-z0-9._-]", wanted, maxsplit=1)[0])
                digits = frozenset(each.partition(":")[2] for each in hashes)
                self._hashes[name] = self._hashes.get(name, frozenset()) | digits

    def _option(self, line: str, path: str, where: str, *, constraint: bool, depth: int) -> None:
        match = re.fullmatch(r"(-r|--requirement|-c|--constraint)[= ]?\s*(\S.*)", line)
        if match is None:
            name = re.split(r"[\s=]", line, maxsplit=1)[0]
            raise _wrong(
                where,
                f"`{shown(name)}` is refused in files: indexes and "
                "how packages are made are set by the user: UV_DEFAULT_INDEX, or his `uv.toml`",
            )
        below = os.path.normpath(os.path.join(os.path.dirname(path), match[2].strip()))
        if not below.startswith(self._root.rstrip("/") + "/"):
            raise _wrong(where, f"`{shown(match[2])}` is not below the folder of the first file")
        kind = constraint or match[1] in ("-c", "--constraint")
        self._read(below, constraint=kind, depth=depth + 1)


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines without comments, those that end in a backslash joined; the number of the first."""
    joined, first = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        first = first or number
        if line.endswith("\\"):
            joined += line[:-1] + " "
            continue
        whole = re.sub(r"(^|\s+)#.*$", "", joined + line).strip()
        if whole:
            yield first, whole
        joined, first = "", 0
    if joined.strip():
        yield first, joined.strip()


def text_of(path: str, reference: str) -> str:
    """A file of the caller's folder: regular, not too large, UTF-8. Raises ImageError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _wrong(reference, f"`{shown(path)}` is no regular file")
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise _wrong(reference, f"`{shown(path)}` can't be read: {error.strerror}") from None
    if len(data) > MOST_BYTES:
        raise _wrong(reference, f"`{shown(path)}` is larger than {MOST_BYTES} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise _wrong(reference, f"`{shown(path)}` is not UTF-8") from None


def _pyproject(reference: str, folder: str) -> Declared:
    """The `[project]` table; the project itself is not installed, since that would build it."""
    path = os.path.join(os.path.abspath(folder), "pyproject.toml")
    try:
        document = tomllib.loads(text_of(path, reference))
    except tomllib.TOMLDecodeError as error:
        raise _wrong(reference, f"`{shown(path)}`: {shown(error)}") from None
    project = document.get("project")
    if not isinstance(project, dict):
        raise _wrong(reference, f"`{shown(path)}` has no table `[project]`")
    if "dependencies" in (project.get("dynamic") or ()):
        raise _wrong(
            reference,
            "its dependencies are dynamic, and to know them would run the project's code: list "
            "them under `dependencies`",
        )
    return of_tables(reference, project, document.get("tool"))


def of_tables(reference: str, project: dict[str, Any], tool: object) -> Declared:
    """`dependencies`, `requires-python`, and `exclude-newer` of `[tool.uv]`. PEP 621, PEP 723."""
    listed = project.get("dependencies", [])
    if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
        raise _wrong(reference, "`dependencies` is no list of requirements")
    needs = project.get("requires-python")
    if needs is not None and not isinstance(needs, str):
        raise _wrong(reference, "`requires-python` is no text")
    uv = tool.get("uv") if isinstance(tool, dict) else None
    uv = uv if isinstance(uv, dict) else {}
    for name in ("sources", "index", "find-links", "index-url", "extra-index-url"):
        if uv.get(name):
            raise _wrong(
                reference,
                f"`[tool.uv]` has `{name}`: where packages come from is set by the user: "
                "UV_DEFAULT_INDEX, or his `uv.toml`",
            )
    newer = uv.get("exclude-newer")
    if newer is not None and not re.fullmatch(
        r"[0-9]{4}-[0-9]{2}-[0-9]{2}[0-9TZ:.+-]*", str(newer)
    ):
        raise _wrong(reference, "`exclude-newer` is no date such as 2026-01-31")
    return Declared(
        reference,
        tuple(requirement(each, reference) for each in listed),
        requires_python=needs,
        exclude_newer=None if newer is None else str(newer),
    )


def _wrong(reference: object, why: str) -> ImageError:
    return ImageError(f"read environment `{shown(reference)}`: {why}")
