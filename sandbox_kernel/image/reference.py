"""What a user types to name an image, as data: one strict parser for every kind.

Nothing is looked up here. Names of registries are read as docker reads them (distribution's
`reference` grammar): `python:3.12` is `docker.io/library/python:3.12`. A word before the first
colon that is a kind (`dir`, `oci`, `build` ...) is that kind, not a repository of that name.
"""

from __future__ import annotations

import re
from typing import Literal

from sandbox_kernel.errors import ImageError, shown
from sandbox_kernel.grammar import (
    BUILT_ON,
    DEFAULT_REGISTRY,
    IMAGES_OF_FILES,
    IMAGES_OF_PACKAGES,
    split_image_name,
)
from sandbox_kernel.image import digest as digests
from sandbox_kernel.image.digest import Digest
from sandbox_kernel.records import Record

DEFAULT_TAG = "latest"
LONGEST_REPOSITORY = 255
LONGEST_PATH = 4096

_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])")
PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
REPOSITORY = re.compile(rf"{PART}(?:/{PART})*")
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_HEXADECIMAL = re.compile(r"[0-9a-f]{64}")


class Host(Record):
    """`host`: this Python environment."""

    def __str__(self) -> str:
        return "host"


class Scratch(Record):
    """`scratch`: nothing."""

    def __str__(self) -> str:
        return "scratch"


class Directory(Record):
    """`dir:PATH`: a root file system."""

    path: str

    def __str__(self) -> str:
        return f"dir:{self.path}"


class Layout(Record):
    """`oci:DIR[:TAG]`: an image in an OCI image layout. No tag: its only image."""

    path: str
    tag: str | None = None

    def __str__(self) -> str:
        return f"oci:{self.path}" + (f":{self.tag}" if self.tag else "")


class Archive(Record):
    """`oci-archive:FILE[:TAG]` or `docker-archive:FILE[:NAME:TAG]`: an image in a tar file."""

    kind: Literal["oci", "docker"]
    path: str
    tag: str | None = None

    def __str__(self) -> str:
        return f"{self.kind}-archive:{self.path}" + (f":{self.tag}" if self.tag else "")


class Registry(Record):
    """A name of a registry's image; `str` gives it whole, `familiar` as people write it.

    `host` has no port and no brackets taken off; with neither a tag nor a digest the tag is
    `latest`, with both the digest says which image is meant.
    """

    host: str
    port: int | None
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    @property
    def authority(self) -> str:
        """`HOST[:PORT]`."""
        return self.host if self.port is None else f"{self.host}:{self.port}"

    @property
    def name(self) -> str:
        """`HOST[:PORT]/REPOSITORY`, with no tag and no digest."""
        return f"{self.authority}/{self.repository}"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return self.name + tag + (f"@{self.digest}" if self.digest else "")

    @property
    def familiar(self) -> str:
        """The shortest text that is read as this name."""
        text = str(self)
        for prefix in (f"{DEFAULT_REGISTRY}/library/", f"{DEFAULT_REGISTRY}/"):
            shorter = text.removeprefix(prefix)
            if shorter != text and _registry(shorter, shorter) == self:
                return shorter
        return text

    def with_digest(self, digest: Digest) -> Registry:
        """The same image, pinned."""
        return self.replaced(digest=digest)


class Identity(Record):
    """`sha256:...`: the stored image whose manifest has this digest."""

    digest: Digest

    def __str__(self) -> str:
        return self.digest


class Build(Record):
    """`build:PATH[#FILE][@DIGEST]`: a Containerfile with its context.

    The digest is that of a list of what the names in it mean: see `image.bases`.
    """

    path: str
    file: str | None = None
    bases: Digest | None = None

    def __str__(self) -> str:
        file = f"#{self.file}" if self.file else ""
        return f"build:{self.path}{file}" + (f"@{self.bases}" if self.bases else "")


class Requirements(Record):
    """`requirements:FILE`: a Python environment, from a file of requirements."""

    file: str

    def __str__(self) -> str:
        return f"requirements:{self.file}"


class Pyproject(Record):
    """`pyproject:DIR`: a Python environment, from a project's declaration."""

    path: str

    def __str__(self) -> str:
        return f"pyproject:{self.path}"


class Conda(Record):
    """`conda:FILE`: a conda environment."""

    file: str

    def __str__(self) -> str:
        return f"conda:{self.file}"


class Packages(Record):
    """`packages: A, B==1.2`: a Python environment, from requirements that stand right there."""

    requirements: tuple[str, ...]

    def __str__(self) -> str:
        return "packages:" + ",".join(self.requirements)


Reference = (
    Host
    | Scratch
    | Directory
    | Layout
    | Archive
    | Registry
    | Identity
    | Build
    | Requirements
    | Pyproject
    | Conda
    | Packages
)


def parse(text: object) -> Reference:
    """The reference that a text is. Raises ImageError that says which part is wrong.

    >>> str(parse("python:3.12"))
    'docker.io/library/python:3.12'
    """
    if not isinstance(text, str) or not text.isprintable() or not 0 < len(text) <= LONGEST_PATH:
        raise _wrong(text, f"it is not 1 to {LONGEST_PATH} printable characters")
    if text == "host":
        return Host()
    if text == "scratch":
        return Scratch()
    kind, colon, rest = text.partition(":")
    if colon and kind in _KINDS:
        return _of_kind(text, kind, rest)
    if digests.PATTERN.fullmatch(text):
        return Identity(Digest(text))
    return _registry(text, text)


def registry(text: object) -> Registry:
    """The registry's name that a text is. Raises ImageError for other kinds too."""
    found = parse(text)
    if not isinstance(found, Registry):
        raise _wrong(text, "it is no name such as `NAME:TAG` or `HOST/NAME:TAG`")
    return found


_KINDS = (*IMAGES_OF_FILES, *IMAGES_OF_PACKAGES)


def _of_kind(text: str, kind: str, rest: str) -> Reference:  # noqa: PLR0911 - one for each kind
    if kind == "packages":
        return Packages(_requirements(text, rest))
    if not rest.strip():
        raise _wrong(text, f"there is nothing after `{kind}:`")
    if kind == "dir":
        return Directory(rest)
    if kind == "build":
        pinned = BUILT_ON.search(rest)
        plain = rest[: pinned.start()] if pinned else rest
        path, _, file = plain.partition("#")
        if not path or ("#" in plain and not file):
            raise _wrong(text, "it is not `build:PATH` or `build:PATH#FILE`")
        return Build(path, file or None, Digest(pinned[1]) if pinned else None)
    if kind == "requirements":
        return Requirements(rest)
    if kind == "pyproject":
        return Pyproject(rest)
    if kind == "conda":
        return Conda(rest)
    # skopeo's rule: what stands after the first colon is the name of the image in there.
    path, colon, tag = rest.partition(":")
    if not path or (colon and not _TAG_IN_ARCHIVE.fullmatch(tag)):
        raise _wrong(text, f"it is not `{kind}:PATH` or `{kind}:PATH:NAME`")
    if kind == "oci":
        return Layout(path, tag or None)
    return Archive("oci" if kind == "oci-archive" else "docker", path, tag or None)


# containers/image, oci/internal/oci_util.go: names that a layout may hold.
_TAG_IN_ARCHIVE = re.compile(r"[A-Za-z0-9]+(?:[-._:@/+]+[A-Za-z0-9]+)*")


def _requirements(text: str, rest: str) -> tuple[str, ...]:
    """The comma ends a requirement, unless it stands in brackets or between version numbers."""
    # `a>=1,<2` and `a[b,c]` are one requirement: what follows a comma begins with no letter there.
    found = [part.strip() for part in re.split(r",(?![^\[]*\])(?=\s*[A-Za-z0-9])", rest)]
    if not rest.strip() or not all(found):
        raise _wrong(text, "it is not `packages: NAME, NAME==VERSION, ...`")
    return tuple(found)


def _registry(text: str, rest: str) -> Registry:
    name, at, digest = rest.partition("@")
    found = digests.parse(digest) if at else None
    first, repository = split_image_name(name)
    host, port = _authority(text, first)
    repository, colon, tag = repository.partition(":")
    if colon and not TAG.fullmatch(tag):
        raise _wrong(text, f"the tag `{shown(tag)}` is not 1 to 128 letters, digits, `_.-`")
    if not REPOSITORY.fullmatch(repository):
        why = "it has capital letters" if repository != repository.lower() else "it is no name"
        raise _wrong(
            text,
            f"the repository `{shown(repository)}` can't be: {why}; names are small letters and "
            "digits, joined by `.`, `_`, `-` or `/`",
        )
    if len(repository) > LONGEST_REPOSITORY:
        raise _wrong(text, f"the repository is longer than {LONGEST_REPOSITORY} characters")
    if _HEXADECIMAL.fullmatch(name):
        raise _wrong(text, "64 hexadecimal digits are no name: write `sha256:` before a digest")
    if host == DEFAULT_REGISTRY and port is None and "/" not in repository:
        repository = f"library/{repository}"
    if not tag and found is None:
        tag = DEFAULT_TAG
    return Registry(host, port, repository, tag or None, found)


def _authority(text: str, authority: str) -> tuple[str, int | None]:
    host, colon, port = authority, "", ""
    if not authority.endswith("]"):
        before, colon, after = authority.rpartition(":")
        if colon:
            host, port = before, after
    if not HOST.fullmatch(host):
        raise _wrong(text, f"`{shown(host)}` is no name of a registry's host")
    if colon and not (re.fullmatch(r"[0-9]{1,5}", port) and 0 < int(port) < 65536):
        raise _wrong(text, f"the port `{shown(port)}` is not 1 to 65535")
    host = host.lower()
    if not colon and not ("." in host or ":" in host or host == "localhost"):
        raise _wrong(text, f"`{shown(authority)}` has capital letters: write a host with its port")
    return host, int(port) if colon else None


def _wrong(text: object, why: str) -> ImageError:
    return ImageError(
        f"read image reference `{shown(text)}`: {why}: see `docs/images.md` for all kinds"
    )
