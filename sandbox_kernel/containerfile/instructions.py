"""The instructions as data: what was written, unexpanded, each part with its place."""

from __future__ import annotations

from dataclasses import dataclass

from sandbox_kernel.containerfile.lines import HereDocument
from sandbox_kernel.containerfile.mounts import MountFields
from sandbox_kernel.containerfile.source import Piece, Place


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """What every one has: its place, and its text as it stands in the file."""

    place: Place
    text: str


@dataclass(frozen=True)
class Command:
    """Of RUN, CMD, ENTRYPOINT, HEALTHCHECK: words to execute, or one line for the shell."""

    words: tuple[str, ...]
    shell: bool


@dataclass(frozen=True, kw_only=True)
class From(Instruction):
    """The begin of a stage."""

    image: Piece
    name: str | None
    platform: Piece | None


@dataclass(frozen=True, kw_only=True)
class Arg(Instruction):
    """Names, each with its default or None."""

    names: tuple[tuple[str, Piece | None], ...]


@dataclass(frozen=True, kw_only=True)
class Env(Instruction):
    pairs: tuple[tuple[Piece, Piece], ...]


@dataclass(frozen=True, kw_only=True)
class Label(Instruction):
    pairs: tuple[tuple[Piece, Piece], ...]


@dataclass(frozen=True, kw_only=True)
class Run(Instruction):
    """`network`: none, default or host. `documents`: blocks that the shell reads after the line."""

    command: Command
    mounts: tuple[MountFields, ...]
    network: str
    documents: tuple[HereDocument, ...]


@dataclass(frozen=True, kw_only=True)
class Copy(Instruction):
    """COPY and ADD. A source is a pattern, an address (`add` only) or a block of text."""

    add: bool
    sources: tuple[Piece | HereDocument, ...]
    destination: Piece
    origin: Piece | None
    """`--from`."""
    owner: Piece | None
    mode: Piece | None
    link: bool
    parents: bool
    exclude: tuple[Piece, ...]
    checksum: Piece | None
    unpack: bool | None


@dataclass(frozen=True, kw_only=True)
class Workdir(Instruction):
    path: Piece


@dataclass(frozen=True, kw_only=True)
class User(Instruction):
    user: Piece


@dataclass(frozen=True, kw_only=True)
class Entrypoint(Instruction):
    command: Command


@dataclass(frozen=True, kw_only=True)
class Cmd(Instruction):
    command: Command


@dataclass(frozen=True, kw_only=True)
class Shell(Instruction):
    words: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Expose(Instruction):
    ports: tuple[Piece, ...]


@dataclass(frozen=True, kw_only=True)
class Volume(Instruction):
    paths: tuple[Piece, ...]


@dataclass(frozen=True, kw_only=True)
class Stopsignal(Instruction):
    signal: Piece


@dataclass(frozen=True, kw_only=True)
class Healthcheck(Instruction):
    """`command` None: HEALTHCHECK NONE. Times in nanoseconds, None: as the base image has it."""

    command: Command | None
    interval: int | None
    timeout: int | None
    start_period: int | None
    start_interval: int | None
    retries: int | None


@dataclass(frozen=True, kw_only=True)
class Onbuild(Instruction):
    trigger: str


@dataclass(frozen=True, kw_only=True)
class Maintainer(Instruction):
    name: Piece
