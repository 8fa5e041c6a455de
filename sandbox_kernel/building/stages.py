"""Which stages a build needs, and what each is built on. Nothing is built or fetched here."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from sandbox_kernel.building.request import BuildRequest
from sandbox_kernel.containerfile import words
from sandbox_kernel.containerfile.instructions import Copy, Instruction, Run
from sandbox_kernel.containerfile.parse import Containerfile, Stage
from sandbox_kernel.containerfile.source import Piece
from sandbox_kernel.errors import InvalidOption
from sandbox_kernel.image.architectures import own_architecture
from sandbox_kernel.image.documents import Platform

# Arguments that need no ARG, and that no image remembers: Dockerfile reference.
PREDEFINED = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")


class Needed(Struct, frozen=True):
    """A stage that is built: its base is another stage, or an image by its reference."""

    stage: Stage
    base: str | int
    needs: frozenset[int]


class Order(Struct, frozen=True):
    """The stages that are needed, in their order; the last one is the target."""

    needed: tuple[Needed, ...]
    arguments: Mapping[str, str]
    """Of before the first FROM."""
    platform: Platform


def order(file: Containerfile, request: BuildRequest) -> Order:
    """Raises ContainerfileError, InvalidOption for a target that is not there."""
    arguments = _global_arguments(file, request)
    target = _target(file, request.target)
    by_name = {stage.begin.name: stage.index for stage in file.stages if stage.begin.name}
    wanted, waiting = {target}, [target]
    found: dict[int, Needed] = {}
    while waiting:
        index = waiting.pop()
        stage = file.stages[index]
        base = _base(file, stage, arguments, by_name)
        needs = {base} if isinstance(base, int) else set()
        for made in stage.instructions:
            for origin in _origins(made):
                number = stage_of(origin.text, origin, stage.index, by_name)
                needs |= {number} if number is not None else set()
        found[index] = Needed(stage, base, frozenset(needs))
        waiting += needs - wanted
        wanted |= needs
    chosen = tuple(found[index] for index in sorted(found))
    return Order(chosen, arguments, platform())


def platform() -> Platform:
    """What is built for: this machine."""
    return Platform(architecture=own_architecture(), os="linux")


def platform_arguments(of: Platform) -> dict[str, str]:
    """TARGETPLATFORM and the like, for those who ask by ARG."""
    found: dict[str, str] = {}
    for side in ("TARGET", "BUILD"):
        found |= {
            f"{side}PLATFORM": str(of),
            f"{side}OS": of.os,
            f"{side}ARCH": of.architecture,
            f"{side}VARIANT": of.variant or "",
        }
    return found


def _global_arguments(file: Containerfile, request: BuildRequest) -> dict[str, str]:
    lookup = platform_arguments(platform())
    found: dict[str, str] = {}
    for made in file.arguments:
        for name, default in made.names:
            if name in request.arguments:
                found[name] = request.arguments[name]
            elif default is not None:
                found[name] = words.expand(default, {**lookup, **found}, file.directives.escape)
    return {**lookup, **found}


def _target(file: Containerfile, wanted: str | None) -> int:
    if wanted is None:
        return len(file.stages) - 1
    for stage in file.stages:
        if wanted.lower() == stage.begin.name:
            return stage.index
    if wanted.isascii() and wanted.isdigit() and int(wanted[:6]) < len(file.stages):
        return int(wanted)
    names = ", ".join(stage.name for stage in file.stages[:20])
    raise InvalidOption("--target", wanted, f"a stage of `{file.file}`: {names}")


def _base(
    file: Containerfile, stage: Stage, arguments: Mapping[str, str], by_name: Mapping[str, int]
) -> str | int:
    escape = file.directives.escape
    begin = stage.begin
    reference = words.expand(begin.image, arguments, escape)
    if not reference:
        begin.image.fail("the image is empty: give its ARG a value before the first FROM")
    if begin.platform is not None:
        wanted = words.expand(begin.platform, arguments, escape)
        own = str(platform())
        if wanted not in ("", own):
            begin.platform.fail(f"`--platform={wanted[:60]}`: this machine builds for {own} only")
    index = by_name.get(reference.lower())
    if index is None:
        return reference
    if index == stage.index:
        return reference  # `FROM python AS python`: the image of that name
    if index > stage.index:
        begin.image.fail(
            f"the stage `{reference}` begins later, in line {file.stages[index].begin.place.line}: "
            "move it before this one"
        )
    return index


def _origins(made: Instruction) -> list[Piece]:
    if isinstance(made, Copy):
        return [made.origin] if made.origin is not None else []
    if isinstance(made, Run):
        return [dict(mount.fields)["from"] for mount in made.mounts if "from" in dict(mount.fields)]
    return []


def stage_of(text: str, piece: Piece, before: int, by_name: Mapping[str, int]) -> int | None:
    """The stage that `--from` means, by name or number; None: an image. Names can't be variables.

    Raises ContainerfileError for a stage that is not there yet.
    """
    if text.isascii() and text.isdigit():
        if int(text[:6]) >= before:
            piece.fail(f"there is no stage {text[:6]} before this one")
        return int(text)
    index = by_name.get(text.lower())
    if index is not None and index >= before:
        piece.fail(f"the stage `{text}` does not come before this one")
    return index
