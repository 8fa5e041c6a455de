"""Files that hold settings: which there are, whether they can be trusted, and what they say.

The user's `jupyter_sandbox_config.py` is code and read as Jupyter reads its own; everything else is
TOML. A file of another user, or one that everybody can write, is refused and not skipped: skipping
could drop a ceiling. Nothing is interpreted here; `settings.py` knows the options.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .errors import InvalidOption, NotAllowed

MOST_BYTES = 1 << 20
MOST_NOTEBOOK = 256 << 20
NOTEBOOK_KEY = "sandbox_kernel"
Where = Callable[..., str]
OWN_TABLES: Mapping[str, str] = {"registry": "registries", "conda": "channels of conda"}
"""Tables that only the user's own files may have, as they widen whom we trust: what each names."""


class Place(NamedTuple):
    """A file that may be there. `project`: it came with a folder, and the ceilings hold for it."""

    path: str
    project: bool
    table: tuple[str, ...] = ()


class Found(NamedTuple):
    """What one file says, and a function that names the file and line of a key."""

    where: Where
    options: Mapping[str, object]
    ceiling: Mapping[str, object]
    own: Mapping[str, Mapping[str, object]]
    """By the names of `OWN_TABLES`, those that are there."""


def places(folder: str) -> tuple[Place, ...]:
    """Every file that is looked for, earliest first; of the user's own, `config.toml` is last."""
    home = os.path.expanduser("~")
    home = home if home.startswith("/") else ""
    own: list[Place] = []
    jupyter = os.environ.get("JUPYTER_CONFIG_DIR") or (home and os.path.join(home, ".jupyter"))
    if jupyter and os.path.isabs(jupyter) and not os.environ.get("JUPYTER_NO_CONFIG"):
        own.append(Place(os.path.join(jupyter, "jupyter_sandbox_config.py"), project=False))
    if user_file := user_configuration():
        own.append(Place(user_file, project=False))
    return (
        *own,
        Place(os.path.join(folder, "pyproject.toml"), True, ("tool", "sandbox-kernel")),
        Place(os.path.join(folder, "sandbox.toml"), project=True),
    )


def user_configuration() -> str:
    """`config.toml` in the user's configuration folder (XDG: a relative path is ignored)."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(base):
        base = os.path.join(os.path.expanduser("~"), ".config")
    return os.path.join(base, "sandbox-kernel", "config.toml") if os.path.isabs(base) else ""


def signature(path: str) -> tuple[int, ...] | None:
    """Changes whenever the file does; None while there is none."""
    try:
        seen = os.stat(path)
    except OSError:
        return None
    return seen.st_mtime_ns, seen.st_ctime_ns, seen.st_size, seen.st_ino, seen.st_uid, seen.st_mode


def read(place: Place) -> Found | None:
    """What the file says, or None if there is none (or a pyproject.toml without our table)."""
    raw = _bytes(place)
    if raw is None or (place.table and place.table[-1].encode() not in raw):
        return None
    if place.path.endswith(".py"):
        return _read_python(place)
    text = _text(raw, place)
    where = _locator(place, text)
    data: Any = _toml(text, place)
    for name in place.table:
        data = data.get(name) if isinstance(data, Mapping) else None
    if data is None:
        return None
    _check_owner(place)
    if not isinstance(data, Mapping):
        raise InvalidOption(where(place.table[-1]), data, "a table of settings")
    options = dict(data)
    ceiling = options.pop("ceiling", {})
    if not isinstance(ceiling, Mapping):
        raise InvalidOption(where("ceiling"), ceiling, "a table of ceilings")
    own = {}
    for name, what in OWN_TABLES.items():
        table = options.pop(name, {})
        if not isinstance(table, Mapping):
            raise InvalidOption(where(name), table, f"a table of settings for {what}")
        if table:
            own[name] = table
    return Found(where, options, ceiling, own)


def folder(value: object, option: str) -> str:
    """A folder of the user's configuration: absolute, `~/...`, or `.` for the working folder."""
    path = os.path.expanduser(value) if isinstance(value, str) else ""
    if value == ".":
        return "."
    if not path.startswith("/") or "\0" in path:
        raise InvalidOption(
            option, value, "an absolute path, ~/PATH, or `.` for the working folder"
        )
    return os.path.realpath(path)


def read_notebook(path: str, where: str) -> dict[str, object] | None:
    """The table `sandbox_kernel` in a notebook's metadata; None if there is none, or no file."""
    metadata = notebook_metadata(path, where)
    table = None if metadata is None else metadata.get(NOTEBOOK_KEY)
    if table is None:
        return None
    if not isinstance(table, dict):
        raise InvalidOption(where, table, "a table of settings")
    refuse_twice(table, where)
    return table


def notebook_metadata(path: str, where: str) -> dict[str, object] | None:
    """A notebook's metadata; None if there is no file, or nothing of ours in it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None  # a notebook that is not saved yet, or that only the server can read
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None
    with open(descriptor, "rb") as file:
        raw = file.read(MOST_NOTEBOOK + 1)
    if f'"{NOTEBOOK_KEY}"'.encode() not in raw:
        return None
    if len(raw) > MOST_NOTEBOOK:
        raise InvalidOption(where, "file", f"a notebook of at most {MOST_NOTEBOOK} bytes")
    document = parse_json(raw, where)
    metadata = document.get("metadata") if isinstance(document, dict) else None
    return metadata if isinstance(metadata, dict) else None


class _Table(dict[str, object]):
    """A JSON object that remembers a name that stood in it twice."""

    twice = ""


def parse_json(text: str | bytes, option: str) -> object:
    """JSON, in which a name that stands twice in an object is found by `refuse_twice`."""
    import json

    def table(pairs: list[tuple[str, object]]) -> _Table:
        made = _Table(pairs)
        if len(made) != len(pairs):
            names = [name for name, _ in pairs]
            made.twice = next(name for name in names if names.count(name) > 1)
        return made

    try:
        return json.loads(text, object_pairs_hook=table)
    except (ValueError, RecursionError) as error:
        shown = text if isinstance(text, str) else "file"
        raise InvalidOption(option, shown, f"a JSON object: {error}") from None


def refuse_twice(table: dict[str, object], where: str) -> None:
    """Raises InvalidOption for a name that stands twice: which of the two counts is a guess."""
    if isinstance(table, _Table) and table.twice:
        raise InvalidOption(f"{where}: {table.twice}", table.twice, "each option once")


def _bytes(place: Place) -> bytes | None:
    """The content; a project's file is not followed when it is a link."""
    try:
        # O_NONBLOCK: a FIFO in an untrusted folder must not hold us
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(place.path, flags | (os.O_NOFOLLOW if place.project else 0))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if place.table:  # a pyproject.toml that we can't read does not concern us
            return None
        raise InvalidOption(
            place.path, "file", f"a file that can be read: {error.strerror}"
        ) from None
    seen = os.fstat(descriptor)
    if not stat.S_ISREG(seen.st_mode):
        os.close(descriptor)
        raise InvalidOption(place.path, "file", "a regular file")
    with open(descriptor, "rb") as file:
        if not place.table:
            _check_owner(place, seen)
        raw = file.read(MOST_BYTES + 1)
    if len(raw) > MOST_BYTES:
        if place.table:
            return None
        raise InvalidOption(place.path, "file", f"a file of at most {MOST_BYTES} bytes")
    return raw


def _check_owner(place: Place, seen: os.stat_result | None = None) -> None:
    seen = seen or os.lstat(place.path)
    if seen.st_uid not in (os.getuid(), 0):
        why, mend = f"user {seen.st_uid} owns it", "chown it to yourself once you have read it"
    elif seen.st_mode & stat.S_IWOTH:
        why, mend = "everybody can write it", f"run `chmod o-w {place.path}`"
    else:
        return
    raise NotAllowed(place.path, "settings file", why, mend)


def _text(raw: bytes, place: Place) -> str:
    if raw.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise InvalidOption(f"{place.path}:1", "byte order mark", "UTF-8 without a byte order mark")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InvalidOption(f"{place.path}:{line}", raw[error.start : error.end], "UTF-8") from None


def _toml(text: str, place: Place) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"line ([0-9]+)", str(error))
        number = int(line[1]) if line else text.count("\n") + 1
        lines = text.splitlines()
        key = lines[number - 1].strip() if 0 < number <= len(lines) else ""
        why = re.sub(r" \(at [^)]*\)", "", str(error))
        if why == "Cannot overwrite a value":
            why = "each key once, but it is given twice"
        raise InvalidOption(f"{place.path}:{number}", key, f"TOML: {why}") from None
    except (RecursionError, ValueError) as error:
        raise InvalidOption(place.path, "file", f"TOML: {error}") from None


def _locator(place: Place, text: str) -> Where:
    """Names `file:line: key`. TOML's parser keeps no lines, so the key is looked for again."""

    def where(key: str, section: str = "") -> str:
        wanted = ".".join((*place.table, *([section] if section else [])))
        plain = re.compile(rf"""\s*["']?{re.escape(key)}["']?\s*[=.]""")
        dotted = re.compile(rf"\s*{section}\s*\.\s*{re.escape(key)}\s*=")
        at, current = 0, ""
        for number, line in enumerate(text.splitlines(), 1):
            if header := re.match(r"\s*\[+([^\]]+)\]", line):
                current = header[1].replace('"', "").replace(" ", "")
                if current == ".".join(filter(None, (wanted, key))):
                    at = at or number
            elif (current == wanted and plain.match(line)) or (section and dotted.match(line)):
                at = at or number
        full = f"{section}.{key}" if section else key
        return f"{place.path}:{at}: {full}" if at else f"{place.path}: {full}"

    return where


def _read_python(place: Place) -> Found:
    """The user's own Python configuration, by Jupyter's loader: `c.Sandbox.memory = "1g"`."""
    from traitlets.config.loader import LazyConfigValue, PyFileConfigLoader

    try:
        config = PyFileConfigLoader(os.path.basename(place.path), os.path.dirname(place.path))
        sections = config.load_config()
    except Exception as error:
        line = getattr(error, "lineno", None)
        trace = error.__traceback__
        while line is None and trace is not None:
            if trace.tb_frame.f_code.co_filename == place.path:
                line = trace.tb_lineno
            trace = trace.tb_next
        at = f"{place.path}:{line}" if line else place.path
        raise InvalidOption(at, type(error).__name__, f"Python that runs: {error}") from None

    def where(key: str, section: str = "") -> str:
        return f"{place.path}: c.Sandbox{section.capitalize()}.{key}"

    classes = {name.capitalize(): name for name in OWN_TABLES}
    for name in sections:
        if name not in ("Sandbox", "SandboxCeiling", *(f"Sandbox{own}" for own in classes)):
            allowed = "c.Sandbox, c.SandboxCeiling, c.SandboxRegistry or c.SandboxConda"
            raise InvalidOption(f"{place.path}: c.{name}", name, allowed)

    def section(name: str) -> dict[str, object]:
        values = dict(sections.get(name, {}))
        for key, value in values.items():
            if isinstance(value, LazyConfigValue):
                values[key] = value.get_value([])
        return values

    own = {name: table for kind, name in classes.items() if (table := section(f"Sandbox{kind}"))}
    return Found(where, section("Sandbox"), section("SandboxCeiling"), own)
