"""The flags of the magics: those of the settings, and what only makes sense for a cell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from sandbox_kernel import arguments
from sandbox_kernel.arguments import Flag
from sandbox_kernel.container import files, readiness
from sandbox_kernel.container.readiness import Readiness
from sandbox_kernel.errors import InvalidOption
from sandbox_kernel.grammar import ENVIRONMENTS
from sandbox_kernel.widgets.kinds import KINDS, OF_ALL

IN = Flag("in", ("--in",), "NAMES", "Variables of the notebook that the cell gets, such as a,b.",
    many=True)  # fmt: skip
OUT = Flag("out", ("--out",), "NAMES", "Variables of the cell that the notebook gets.",
    many=True)  # fmt: skip
FILES_OUT = Flag("files_out", ("--files-out",), "PATTERNS",
    "Files of the cell's working folder that the notebook's folder gets, such as "
    "'plots/*.png,**/*.csv'. They come after an error too, and replace what has their name.",
    many=True)  # fmt: skip
PROGRAM = Flag("program", ("--program",), "COMMAND",
    "Give the cell to this program of the image, such as sh, instead of Python.")  # fmt: skip
SHOW = Flag("show", ("--show",), "WHAT",
    "After the cell, print usage, limits (read back) or plan. In a notebook, live views while the "
    "cell runs: limits and others, see `%container show`. Several: a,b.")  # fmt: skip
MAP = Flag("map", ("--map",), "NAME",
    "Run the cell once for each item of this list of the notebook, each time in a fresh container; "
    "in the cell it is `item`. What `--out` names become lists in the same order.")  # fmt: skip
WORKERS = Flag("workers", ("--workers",), "NUMBER",
    "With --map: how many run at once. Default: as many as there are processors, and as the memory "
    "has room for.")  # fmt: skip
BACKGROUND = Flag("background", ("--background",), "",
    "Return at once: `_container` is then a handle, with done, wait(), result, show(), "
    "interrupt() and cancel(). It ends with the notebook's kernel.")  # fmt: skip
HANDLE = Flag("handle", ("--handle",), "NAME",
    "With --background: a variable for the handle, beside `_container`.")  # fmt: skip
WAIT_PORT = Flag("wait_port", ("--wait-port",), "PORT",
    "With --background: return when something in the container listens on this port.",
    many=True)  # fmt: skip
HEALTHCHECK = Flag("healthcheck", ("--healthcheck",), "COMMAND",
    "With --background: return when this program of the image, run in the container, ends with "
    "status 0, such as 'redis-cli ping'. It is tried again until then.")  # fmt: skip
WAIT_TIME = Flag("wait_time", ("--wait-time",), "TIME",
    "How long a service may take to be ready; then it is ended, and the cell fails.",
    default="30 s")  # fmt: skip
SERVICE = (WAIT_PORT, HEALTHCHECK, WAIT_TIME)
CELL = (IN, OUT, FILES_OUT, MAP, WORKERS, BACKGROUND, HANDLE, *SERVICE, PROGRAM, SHOW)
ITEM = "item"
VIEWS = tuple(name for name in KINDS if name not in OF_ALL)
SHOWN = tuple(dict.fromkeys(("usage", "limits", "plan", *VIEWS)))
RESET = "reset"
UPDATE = "update"
COURSE = "course"
CHECK = "check"

CELL_USAGE = "%%container [IMAGE] [options]"
CELL_SUMMARY = (
    "Run this cell in a fresh container. Nothing stays but what `--out` names; with "
    "`--name N --keep` the container and its files stay for the next cell with that name."
)
CELL_AFTER = """examples:
  %%container --memory 256m --timeout 30s
  %%container --in data --out mean,table
  %%container --files-out 'plots/*.png'
  %%container --map names --out length
  %%container --background --handle job --timeout 10m
  %%container --program sh --name work --keep --mount .:/work
  %%container --program sh --name cache --background --wait-port 6379

`_container` is what the last cell used. See also %container? and %sandbox?."""
SANDBOX_USAGE = (
    "%sandbox [options] | %sandbox reset | %sandbox update | %sandbox course | %sandbox check NAME"
)
SANDBOX_SUMMARY = (
    "Set the defaults of this notebook's `%%container` cells. Alone, print them; `reset` forgets; "
    "`update` asks anew what the name of the image means, and shows what changed. `course` shows "
    "the chapters of the course and what you have done; `check` looks whether an exercise is done."
)


class CellLine(NamedTuple):
    """What stands behind `%%container`."""

    options: dict[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    files_out: tuple[str, ...]
    program: str | None
    show: tuple[str, ...]
    map: str | None
    workers: int | None
    background: bool
    handle: str | None
    readiness: Readiness
    help: bool


def cell_flags() -> tuple[Flag, ...]:
    """All flags of `%%container`."""
    return (*CELL, *arguments.option_flags())


def read_cell(line: str) -> CellLine:
    """Parses the line of a cell. Raises InvalidOption."""
    found = arguments.parse(arguments.words(line), cell_flags())
    if found.rest and found.rest[0].startswith(ENVIRONMENTS):
        # `packages: numpy, pandas on IMAGE` needs no quotes: nothing else has plain words here.
        found.rest[:] = [" ".join(found.rest)]
    if len(found.rest) > 1:
        raise InvalidOption("IMAGE", found.rest[1], f"one image, and `{found.rest[0]}` is one")
    if found.rest and "image" in found.options:
        raise InvalidOption("IMAGE", found.rest[0], "one image, and `--image` names one")
    options = {**found.options, **({"image": found.rest[0]} if found.rest else {})}
    own = found.own
    program = own.get("program")
    outputs = _names("--out", own.get("out", ()))
    inputs = _names("--in", own.get("in", ()))
    if program is not None:
        if inputs or outputs:
            given = "--in" if inputs else "--out"
            raise InvalidOption(given, ", ".join(inputs or outputs), "not with `--program`")
        if not arguments.words(program):
            raise InvalidOption("--program", program, "a program of the image, such as sh")
    show = tuple(word for word in own.get("show", "").split(",") if word)
    for word in show:
        if word not in SHOWN:
            raise InvalidOption("--show", word, f"one of {', '.join(SHOWN)}")
    background = bool(own.get("background"))
    _refuse_misfits(own, inputs, background=background)
    for option in ("map", "handle"):
        if option in own:
            _names(f"--{option}", [own[option]])
    return CellLine(
        options=options,
        inputs=inputs,
        outputs=outputs,
        files_out=_patterns(own.get("files_out", ())),
        program=program,
        show=show,
        map=own.get("map"),
        workers=_workers(own.get("workers")),
        background=background,
        handle=own.get("handle"),
        readiness=read_readiness(own),
        help=bool(own.get("help")),
    )


def _refuse_misfits(own: Mapping[str, Any], inputs: tuple[str, ...], *, background: bool) -> None:
    """Raises InvalidOption for flags that make no sense together."""
    if "map" in own:
        for name in ("program", "show", "background", "files_out"):
            if own.get(name):
                option = "--" + name.replace("_", "-")
                given = ",".join(own[name]) if isinstance(own[name], list) else own[name]
                raise InvalidOption(option, given, "not with `--map`")
        if ITEM in inputs:
            raise InvalidOption("--in", ITEM, "another name: with `--map` each item has this one")
    elif "workers" in own:
        raise InvalidOption("--workers", own["workers"], "only with `--map`")
    if background and own.get("show"):
        raise InvalidOption("--show", own["show"], "not with `--background`: ask the handle later")
    for flag in (HANDLE, *SERVICE):
        if flag.name in own and not background:
            given = ",".join(own[flag.name]) if flag.many else own[flag.name]
            raise InvalidOption(flag.spellings[0], given, "only with `--background`")


def read_readiness(own: Mapping[str, Any]) -> Readiness:
    """When a service counts as ready. Raises InvalidOption."""
    return readiness.read(
        own.get("wait_port", ()), own.get("healthcheck"), own.get("wait_time"), arguments.words
    )


def _workers(given: str | None) -> int | None:
    if given is None:
        return None
    if not given.isdecimal() or not 1 <= len(given) <= 6 or int(given) < 1:
        raise InvalidOption("--workers", given, "a whole number from 1")
    return int(given)


def _names(option: str, given: Any) -> tuple[str, ...]:
    names = [name.strip() for item in given for name in item.split(",")]
    for name in names:
        if not name.isidentifier():
            raise InvalidOption(option, name, "names of variables, such as a,b")
    return tuple(dict.fromkeys(names))


def _patterns(given: Any) -> tuple[str, ...]:
    return files.read_patterns([p for item in given for p in item.split(",")], "--files-out")


def cell_help() -> str:
    """The text of `%%container?`."""
    return arguments.help_text(CELL_USAGE, CELL_SUMMARY, cell_flags(), CELL_AFTER)


def sandbox_help() -> str:
    """The text of `%sandbox?`."""
    return arguments.help_text(SANDBOX_USAGE, SANDBOX_SUMMARY, arguments.option_flags())
