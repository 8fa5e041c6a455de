"""`RUN --mount=...`: an enumerated set of options, each checked, none passed on as text.

Source: Dockerfile reference, "RUN --mount". What it does not list is refused: options that were
passed on unchecked led out of the build elsewhere (CVE-2024-9407, CVE-2024-9675, CVE-2024-1753).
"""

from __future__ import annotations

import posixpath
import re
from typing import NamedTuple, NoReturn, Protocol

from msgspec import Struct

from sandbox_kernel.containerfile.source import Piece, Place
from sandbox_kernel.containerfile.words import Lookup, expand

_SHORT = {"src": "source", "dst": "target", "destination": "target", "readonly": "ro",
    "readwrite": "rw"}  # fmt: skip
OPTIONS = {
    "bind": ("type", "target", "source", "from", "rw", "ro"),
    "cache": (
        "type",
        "target",
        "id",
        "ro",
        "rw",
        "sharing",
        "from",
        "source",
        "mode",
        "uid",
        "gid",
    ),
    "tmpfs": ("type", "target", "size"),
    "secret": ("type", "target", "id", "required", "mode", "uid", "gid", "env"),
}
SHARING = ("shared", "private", "locked")
_CACHE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./@+-]{0,199}$")
_SECRET_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")
_SIZE = re.compile(r"([0-9]{1,12})([kKmMgG]?)[bB]?$")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*$")


class _Fail(Protocol):
    """The function that says which option is wrong."""

    def __call__(self, key: str, why: str) -> NoReturn:
        """Raises ContainerfileError."""


class MountFields(NamedTuple):
    """One `--mount` as written: its kind, and options whose values may hold variables."""

    kind: str
    fields: tuple[tuple[str, Piece], ...]
    place: Place


class RunMount(Struct, frozen=True, kw_only=True):
    """One `--mount` with its values. Sizes in bytes."""

    kind: str
    place: Place
    target: str = ""
    source: str = "/"
    origin: str | None = None
    read_only: bool = True
    id: str = ""
    sharing: str = "shared"
    size: int | None = None
    required: bool = False
    mode: int | None = None
    uid: int = 0
    gid: int = 0
    env: str | None = None


def read(piece: Piece) -> MountFields:
    """The options of one flag's value. Raises ContainerfileError."""
    fields: list[tuple[str, Piece]] = []
    for part in _fields(piece):
        name, equals, _ = part.text.partition("=")
        key = _SHORT.get(name.strip().lower(), name.strip().lower())
        if not key:
            part.fail("an empty option: write `type=bind,target=/path` without blanks")
        if key in dict(fields):
            part.fail(f"`{key}` is given twice")
        fields.append((key, part.cut(len(name) + len(equals))))
        if not equals and key not in ("ro", "rw", "required"):
            part.fail(f"`{key[:60]}` needs a value")
    kind = dict(fields)["type"].text if "type" in dict(fields) else "bind"
    if kind == "ssh":
        piece.fail("`type=ssh`: keys of an agent are never given to a build: use `type=secret`")
    if kind not in OPTIONS:
        piece.fail(f"`type={kind[:60]}` is no kind of mount: there are {', '.join(OPTIONS)}")
    for key, value in fields:
        if key not in OPTIONS[kind]:
            value.fail(
                f"`{key[:60]}` is no option of `type={kind}`: there are {', '.join(OPTIONS[kind])}"
            )
    return MountFields(kind, tuple(fields), piece.place)


def _fields(piece: Piece) -> list[Piece]:
    """Parts between commas; a part may stand in double quotes, as in CSV."""
    parts: list[Piece] = []
    start = index = 0
    text = piece.text
    while True:
        if text.startswith('"', start):
            end = text.find('"', start + 1)
            if end < 0:
                piece.at(start).fail('the quote " is not closed')
            parts.append(piece.cut(start + 1, end))
            index = end + 1
            if index < len(text) and text[index] != ",":
                piece.at(index).fail("a comma must follow the quote")
        else:
            index = text.find(",", start)
            index = len(text) if index < 0 else index
            parts.append(piece.cut(start, index))
        if index >= len(text):
            return parts
        start = index + 1


def resolve(mount: MountFields, lookup: Lookup, escape: str, workdir: str) -> RunMount:
    """The options with their variables replaced. Raises ContainerfileError."""
    # As with `COPY --from`, a stage or image is named without variables.
    values = {
        key: piece.text if key == "from" else expand(piece, lookup, escape)
        for key, piece in mount.fields
    }
    places = {key: piece.place for key, piece in mount.fields}

    def fail(key: str, why: str) -> NoReturn:
        raise places.get(key, mount.place).error(f"`{key}={values.get(key, '')[:60]}`: {why}")

    for key, value in values.items():
        if any(char < " " or char == "\x7f" for char in value):
            fail(key, "it holds a control character")
    target = values.get("target", "")
    if not target and mount.kind == "secret" and "env" not in values:
        target = "/run/secrets/" + values.get("id", "")
    if not target and not (mount.kind == "secret" and "env" in values):
        mount.place.fail("a mount needs `target=/path`")
    if target:
        if ".." in target.split("/"):
            fail("target", "a target has no `..`")
        target = posixpath.normpath(posixpath.join(workdir, target))
        first = target.split("/")[1]
        if first in ("", "proc", "sys", "dev") and not target.startswith("/dev/shm/"):  # noqa: S108
            fail("target", "a target is not /, nor below /proc, /sys or /dev")
    source = values.get("source", "/")
    if ".." in source.split("/"):
        fail("source", "a source has no `..`: it lies in the context, or in the stage of `from`")
    return RunMount(
        kind=mount.kind,
        place=mount.place,
        target=target,
        source=posixpath.normpath("/" + source.lstrip("/")),
        origin=values.get("from"),
        read_only=_is_read_only(mount.kind, values, fail),
        id=_identifier(mount, values, target, fail),
        sharing=_one_of("sharing", values.get("sharing", "shared"), SHARING, fail),
        size=_size(values["size"], fail) if "size" in values else None,
        required=_switch("required", values["required"], fail) if "required" in values else False,
        mode=_number("mode", values["mode"], 8, 0o7777, fail) if "mode" in values else None,
        uid=_number("uid", values["uid"], 10, 65535, fail) if "uid" in values else 0,
        gid=_number("gid", values["gid"], 10, 65535, fail) if "gid" in values else 0,
        env=_variable(values["env"], fail) if "env" in values else None,
    )


def _is_read_only(kind: str, values: dict[str, str], fail: _Fail) -> bool:
    """A bind mount is read-only unless `rw`; what is written to it is dropped then."""
    if "ro" in values and "rw" in values:
        fail("rw", "`ro` or `rw`, not both")
    for key, wanted in (("ro", True), ("rw", False)):
        if key in values:
            return _switch(key, values[key], fail) is wanted
    return kind == "bind"


def _identifier(mount: MountFields, values: dict[str, str], target: str, fail: _Fail) -> str:
    if mount.kind == "cache":
        name = values.get("id", target.lstrip("/"))
        if ".." in name.split("/") or not _CACHE_ID.match(name):
            fail("id", "a cache is named by letters, digits and . _ - / @ +, without `..`")
        return name
    if mount.kind == "secret":
        name = values.get("id") or posixpath.basename(target)
        if not _SECRET_ID.match(name):
            fail("id", "a secret is named by letters, digits and . _ -")
        return name
    return ""


def _switch(key: str, value: str, fail: _Fail) -> bool:
    if value.lower() not in ("", "true", "false", "1", "0"):
        fail(key, "it is true or false")
    return value.lower() in ("", "true", "1")


def _one_of(key: str, value: str, allowed: tuple[str, ...], fail: _Fail) -> str:
    if value not in allowed:
        fail(key, f"it is one of {', '.join(allowed)}")
    return value


def _number(key: str, value: str, base: int, most: int, fail: _Fail) -> int:
    digits = "01234567" if base == 8 else "0123456789"
    if not value or len(value) > 12 or any(char not in digits for char in value):
        fail(key, "it is an octal number" if base == 8 else "it is a whole number")
    number = int(value, base)
    if number > most:
        fail(key, f"it is at most {most:o}" if base == 8 else f"it is at most {most}")
    return number


def _size(value: str, fail: _Fail) -> int:
    match = _SIZE.match(value)
    if match is None:
        fail("size", "it is a number with k, m or g")
    size = int(match[1]) << {"": 0, "k": 10, "m": 20, "g": 30}[match[2].lower()]
    if not size:
        fail("size", "it is above 0")
    return size


def _variable(value: str, fail: _Fail) -> str:
    if not _VARIABLE.match(value):
        fail("env", "it is the name of a variable")
    return value
