"""The instructions as data: what was written, unexpanded, each part with its place."""

from __future__ import annotations

from msgspec import Struct

from sandbox_kernel.containerfile.lines import HereDocument
from sandbox_kernel.containerfile.mounts import MountFields
from sandbox_kernel.containerfile.source import Piece, Place


class Instruction(Struct, frozen=True, kw_only=True):
    """What every one has: its place, and its text as it stands in the file."""

    place: Place
    text: str

    @property
    def title(self) -> str:
        """Its first line, with single blanks: to be shown."""
        return " ".join(self.text.split("\n", 1)[0].split())


class Command(Struct, frozen=True):
    """Of RUN, CMD, ENTRYPOINT, HEALTHCHECK: words to execute, or one line for the shell."""

    words: tuple[str, ...]
    shell: bool


class From(Instruction, frozen=True, kw_only=True):
    """The begin of a stage."""

    image: Piece
    name: str | None
    platform: Piece | None


class Arg(Instruction, frozen=True, kw_only=True):
    """Names, each with its default or None."""

    names: tuple[tuple[str, Piece | None], ...]


class Env(Instruction, frozen=True, kw_only=True):
    pairs: tuple[tuple[Piece, Piece], ...]


class Label(Instruction, frozen=True, kw_only=True):
    pairs: tuple[tuple[Piece, Piece], ...]


class Run(Instruction, frozen=True, kw_only=True):
    """`network`: none, default or host. `documents`: blocks that the shell reads after the line."""

    command: Command
    mounts: tuple[MountFields, ...]
    network: str
    documents: tuple[HereDocument, ...]


class Copy(Instruction, frozen=True, kw_only=True):
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


class Workdir(Instruction, frozen=True, kw_only=True):
    path: Piece


class User(Instruction, frozen=True, kw_only=True):
    user: Piece


class Entrypoint(Instruction, frozen=True, kw_only=True):
    command: Command


class Cmd(Instruction, frozen=True, kw_only=True):
    command: Command


class Shell(Instruction, frozen=True, kw_only=True):
    words: tuple[str, ...]


class Expose(Instruction, frozen=True, kw_only=True):
    ports: tuple[Piece, ...]


class Volume(Instruction, frozen=True, kw_only=True):
    paths: tuple[Piece, ...]


class Stopsignal(Instruction, frozen=True, kw_only=True):
    signal: Piece


class Healthcheck(Instruction, frozen=True, kw_only=True):
    """`command` None: HEALTHCHECK NONE. Times in nanoseconds, None: as the base image has it."""

    command: Command | None
    interval: int | None
    timeout: int | None
    start_period: int | None
    start_interval: int | None
    retries: int | None


class Onbuild(Instruction, frozen=True, kw_only=True):
    trigger: str


class Maintainer(Instruction, frozen=True, kw_only=True):
    name: Piece
