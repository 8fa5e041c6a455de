"""What a build is asked for, with everything that only the caller may decide."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct, field

from sandbox_kernel.errors import InvalidOption
from sandbox_kernel.image.digest import Digest
from sandbox_kernel.policy import ContainerPlan

LARGEST_SECRET = 1 << 20
FILES = ("Containerfile", "Dockerfile")
_SECRET_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")
_ARGUMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*$")


class BuildRequest(Struct, frozen=True, kw_only=True):
    """A build. `plan` was allowed by `policy`: its limits and network hold for every RUN.

    `allow_image` is policy too: it raises NotAllowed for a base image that the caller may not use.
    `text` is the Containerfile itself, when it is not a file below or beside the context.
    """

    context: str | None
    file: str | None = None
    text: str | None = None
    name: str | None = None
    target: str | None = None
    arguments: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, bytes] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    plan: ContainerPlan
    allow_image: Callable[[str], None]
    allow_hosts: frozenset[str] = frozenset()
    """HOST:PORT of private networks that ADD may fetch from."""
    bases: Mapping[str, Digest] = field(default_factory=dict)
    """What names of registries mean, as they stand in the Containerfile; others are looked up."""
    pull: bool = False
    """Ask registries for the names that are looked up, whatever is stored."""
    used: Callable[[str, Digest], None] | None = None
    """Told of each name of a registry, and what it meant. Called by the threads of stages."""
    use_cache: bool = True
    epoch: int | None = None
    """SOURCE_DATE_EPOCH: seconds; no time in the image is later."""
    workers: int | None = None


def file_of(context: str | None, given: str | None) -> str:
    """The path of the Containerfile. Raises InvalidOption when there is none."""
    if given is not None:
        return given
    for name in FILES:
        path = os.path.join(context or ".", name)
        if os.path.isfile(path):
            return path
    raise InvalidOption("PATH", context or ".", "a folder with a Containerfile: or name one by -f")


def read_arguments(given: Sequence[str]) -> dict[str, str]:
    """`--build-arg NAME=VALUE`, or NAME with the value from outside. Raises InvalidOption."""
    found: dict[str, str] = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not _ARGUMENT.match(name) or "\0" in value:
            raise InvalidOption("--build-arg", item, "NAME=VALUE")
        if equals:
            found[name] = value
        elif name in os.environ:
            found[name] = os.environ[name]
    return found


def read_secrets(given: Sequence[str]) -> dict[str, bytes]:
    """`--secret id=NAME,src=FILE` or `id=NAME,env=VARIABLE`. Raises InvalidOption."""
    found: dict[str, bytes] = {}
    allowed = "id=NAME,src=FILE or id=NAME,env=VARIABLE"
    for item in given:
        fields = dict(part.partition("=")[::2] for part in item.split(","))
        kind = fields.pop("type", "file")
        source = fields.pop("src", fields.pop("source", None))
        name, variable = fields.pop("id", ""), fields.pop("env", None)
        if fields or kind not in ("file", "env") or not _SECRET_ID.match(name):
            raise InvalidOption("--secret", item, allowed)
        if variable is None and source is None:
            variable, source = (name, None) if name in os.environ else (None, name)
        if variable is not None:
            if variable not in os.environ:
                raise InvalidOption(
                    "--secret", item, f"a variable that is set: `{variable}` is not"
                )
            found[name] = os.fsencode(os.environ[variable])
        else:
            found[name] = _read_secret(item, str(source))
    return found


def _read_secret(item: str, path: str) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            data = file.read(LARGEST_SECRET + 1)
    except OSError as error:
        raise InvalidOption("--secret", item, f"a file to read: {error.strerror}") from None
    if len(data) > LARGEST_SECRET:
        raise InvalidOption("--secret", item, f"a file of at most {LARGEST_SECRET} bytes")
    return data


def read_hosts(given: Sequence[str]) -> frozenset[str]:
    """`--allow HOST[:PORT]`. Raises InvalidOption."""
    for item in given:
        if not re.fullmatch(r"[A-Za-z0-9.:\[\]-]{1,255}", item):
            raise InvalidOption("--allow", item, "HOST or HOST:PORT")
    return frozenset(item.lower() for item in given)


def read_epoch(arguments: Mapping[str, str]) -> int | None:
    """SOURCE_DATE_EPOCH of the arguments or of the environment. Raises InvalidOption."""
    text = arguments.get("SOURCE_DATE_EPOCH", os.environ.get("SOURCE_DATE_EPOCH", ""))
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,11}", text):
        raise InvalidOption("SOURCE_DATE_EPOCH", text, "seconds since 1970, a whole number")
    return int(text)
