"""What can be set, declared once; and where settings come from: files, in one order.

The attributes of `Sandbox` are the options, those of `SandboxCeiling` the most that others than the
user may ask for. An option has a kind (how text becomes a value: `grammar.py`), a default, a unit
and a help; the arguments of the magics and of the command, `--help`, and the reference page are
made of them. Later sources win, and `policy.allow` holds the untrusted ones to the ceilings:

    built-in default   this file and `policy.defaults`
    configuration      ~/.jupyter/jupyter_sandbox_config.py, ~/.config/sandbox-kernel/config.toml
    project            [tool.sandbox-kernel] of pyproject.toml, sandbox.toml: data, never code
    kernelspec         SANDBOX_KERNEL_OPTIONS, written by `sandbox-kernel install`
    notebook           `sandbox_kernel` in its metadata, then %sandbox in its cells
    magic              %%container, and %sandbox in a sandbox kernel
    command line       sandbox-kernel run ...       (the user's own word, as is the configuration)
    program            sandbox_kernel.run(...)      (code that runs on the host anyway)
"""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from . import allowing, grammar, settings_files
from .errors import InvalidOption, StepFailed

if TYPE_CHECKING:
    from traitlets.config import Configurable

MAGIC, COMMAND_LINE, PROGRAM = "magic", "command line", "program"
KERNELSPEC, NOTEBOOK, BUILT_IN = "kernelspec", "notebook", "built-in default"
KERNELSPEC_VARIABLE = "SANDBOX_KERNEL_OPTIONS"
NOTEBOOK_VARIABLE = "JPY_SESSION_NAME"
TRUSTED = (BUILT_IN, COMMAND_LINE, PROGRAM)
"""Sources that speak for the user, as the user's configuration files do: no ceiling binds them."""


class Kind(NamedTuple):
    """How values of one kind are written, read and shown."""

    metavar: str
    parse: Callable[[object, str], Any]
    show: Callable[[Any], str] = str
    identity: Callable[[Any], object] | None = None
    """For options that can be given many times: what makes two items the same, so that a later
    source replaces the item of an earlier one. None: the option has one value."""


def _pair(item: tuple[str, str | None]) -> str:
    return item[0] if item[1] is None else f"{item[0]}={item[1]}"


def _at_least(least: int) -> Callable[[object, str], int]:
    return lambda value, option: grammar.pages(value, option, least=least)


_WORD = Kind("TEXT", grammar.word)
_MEMORY = Kind("SIZE", _at_least(6 << 20), grammar.shown_size)
_SPACE = Kind("SIZE", _at_least(1 << 20), grammar.shown_size)
_OUTPUT = Kind("SIZE", lambda v, o: grammar.size(v, o, least=1024), grammar.shown_size)
_CPUS = Kind("NUMBER", grammar.processors, lambda n: f"{n:g}")
_PIDS = Kind("NUMBER", grammar.pids)
_GRACE = Kind("TIME", lambda v, o: grammar.seconds(v, o, zero=True), grammar.shown_seconds)
_TIMEOUT = Kind("TIME", grammar.seconds_or_none, grammar.shown_seconds)
_SWITCH = Kind("", grammar.switch, lambda on: "yes" if on else "no")
_RATE = Kind("DEVICE:RATE", grammar.device_rate, identity=lambda item: item.device)
_CAPABILITY = Kind("CAPABILITY", grammar.capability, identity=str)
_SECURITY = Kind("OPTION", grammar.security_option, identity=str)
_NETWORK = Kind("NETWORK", grammar.network)
_ENTRY = Kind("ENTRY", allowing.entry, identity=str)
_BITS = Kind("RATE", grammar.bits_per_second, grammar.shown_bits)
_RUNTIME = Kind("RUNTIME", grammar.one_of(*grammar.RUNTIMES))
_IMAGE = Kind("IMAGE", grammar.image)
_OUTPUT_LEVEL = Kind("LEVEL", grammar.one_of(*grammar.OUTPUT_LEVELS))
_MODE = Kind("MODE", grammar.one_of(*grammar.MODES))


class Option:
    """What has values that its kind's grammar accepts; None means not set.

    Its name is that of the attribute. It is declared as a trait is, and `traits` makes one of it.
    """

    def __init__(
        self,
        kind: Kind,
        default: object = None,
        *,
        help: str,  # noqa: A002
        unit: str = "",
        group: str = "",
        also: tuple[str, ...] = (),
        limit: bool = False,
        default_text: str = "",
    ) -> None:
        self.name = ""
        self.kind = kind
        self.default_value: Any = default
        self.help = help
        self.unit = unit
        self.group = group
        self.also = also
        self.limit = limit
        self.default_text = default_text

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def read(self, value: object, where: str) -> Any:
        """The typed value; a tuple of items if the option can be given many times."""
        if self.kind.identity is None:
            return self.kind.parse(value, where)
        return merge((), [self.kind.parse(item, where) for item in _items(value)], self.kind)

    def show(self, value: object) -> str:
        """The value as a person reads it; `-` when there is none."""
        if value is None or value == ():
            return "-"
        if isinstance(value, tuple) and self.kind.identity is not None:
            return ", ".join(self.kind.show(item) for item in value)
        return self.kind.show(value)

    @property
    def flags(self) -> tuple[str, ...]:
        """How the option is spelled on a command line, the first being the usual one."""
        spelled = "--" + self.name.replace("_", "-")
        return (spelled, *self.also)


class Sandbox:
    """Everything that can be set for a container."""

    image = Option(
        _IMAGE,
        "host",
        help="What the container is made of: host (this Python environment, read-only), a name "
        "in a registry such as python:3.12-slim, oci:DIR, oci-archive:FILE, docker-archive:FILE, "
        "dir:PATH (a root file system), build:PATH (a Containerfile), requirements:FILE, "
        "pyproject:DIR, packages:A,B, conda:FILE, or scratch (nothing).",
        group="image",
    )
    memory = Option(
        _MEMORY,
        also=("-m",),
        limit=True,
        unit="bytes",
        group="limits",
        default_text="75 % of the available memory",
        help="Memory of the container with its files; above it, the container is ended.",
    )
    memory_swap = Option(
        _MEMORY,
        limit=True,
        unit="bytes",
        group="limits",
        default_text="the same as memory: no swap",
        help="Memory and swap together.",
    )
    cpus = Option(
        _CPUS,
        limit=True,
        unit="processors",
        group="limits",
        help="How much processor time for each second, such as 0.5.",
    )
    cpuset_cpus = Option(
        Kind("LIST", grammar.cpuset),
        limit=True,
        group="limits",
        help="On which processors it may run, such as 0-2,5.",
    )
    cpu_shares = Option(
        Kind("NUMBER", grammar.shares),
        also=("-c",),
        limit=True,
        group="limits",
        help="Its weight against other containers when all want the processor; 1024 is usual.",
    )
    pids_limit = Option(
        _PIDS,
        512,
        limit=True,
        unit="processes",
        group="limits",
        help="How many processes and threads at once.",
    )
    device_read_bps = Option(
        _RATE,
        (),
        limit=True,
        unit="bytes/s",
        group="limits",
        help="Read at most so fast from a block device, such as /dev/sda:1m.",
    )
    device_write_bps = Option(
        _RATE,
        (),
        limit=True,
        unit="bytes/s",
        group="limits",
        help="Write at most so fast to a block device.",
    )
    ulimit = Option(
        Kind("NAME=SOFT[:HARD]", grammar.ulimit, identity=lambda item: item.name),
        (),
        limit=True,
        group="limits",
        help="A limit of setrlimit(2) for each process, such as nofile=1024.",
    )
    storage_size = Option(
        _SPACE,
        limit=True,
        unit="bytes",
        group="limits",
        default_text="60 % of the memory limit",
        help="Size of the writable layer. It lies in memory and counts against its limit.",
    )
    timeout = Option(
        _TIMEOUT,
        limit=True,
        unit="seconds",
        group="limits",
        help="End a run that takes longer, with TimedOut. `none` for no limit.",
    )
    network = Option(
        _NETWORK,
        "none",
        also=("--net",),
        group="network",
        help="none: only a loopback of its own. NAME: a network of yours, whose containers reach "
        "each other by name, with no way out. bridge: a way out, nothing in, and no neighbours. "
        "container:NAME: that of another container. host: the network of this machine.",
    )
    allow = Option(
        _ENTRY,
        (),
        group="network",
        default_text="all public addresses",
        help="With --network bridge: let only this through, [tcp:|udp:]HOST[:PORT], the host a "
        "name, *.NAME, an address or a network. Private, link-local and metadata addresses only "
        "when they are named as addresses.",
    )
    allow_from = Option(
        Kind("SOURCE", grammar.one_of("requirements"), identity=str),
        (),
        group="network",
        help="With --network bridge: let through what is needed too. requirements: the package "
        "index, as UV_DEFAULT_INDEX, UV_INDEX, PIP_INDEX_URL or PIP_EXTRA_INDEX_URL name it, else "
        "pypi.org with its files.",
    )
    publish = Option(
        Kind("PORTS", grammar.published, identity=lambda item: (item.address, item.port or item)),
        (),
        group="network",
        also=("-p",),
        help="A TCP port of this machine that leads into the container: "
        "[[ADDRESS:]PORT:]PORT_INSIDE; on 127.0.0.1 unless told otherwise.",
    )
    bandwidth = Option(
        _BITS,
        group="network",
        unit="bits per second",
        help="How much its link carries each way, such as 10mbit.",
    )
    latency = Option(
        Kind("TIME", grammar.delay, grammar.shown_seconds),
        group="network",
        unit="seconds",
        help="How long its link takes each way, such as 50ms, where the kernel has `netem`.",
    )
    loss = Option(
        Kind("PART", grammar.share, grammar.shown_share),
        group="network",
        help="The part of the packets that its link loses each way, such as 1%, where the kernel "
        "has `netem`.",
    )
    network_range = Option(
        Kind("NETWORK", grammar.private_range),
        group="network",
        default_text="one that this machine does not use",
        help="Private addresses, a /16, of which all your networks are; in your own settings only.",
    )
    network_hardware = Option(
        Kind("PREFIX", grammar.hardware_prefix),
        "02:5b",
        group="network",
        help="The first two bytes of the hardware addresses; in your own settings only.",
    )
    mount = Option(
        Kind("MOUNT", grammar.mount, identity=lambda item: item.target),
        (),
        group="files",
        also=("--volume", "-v"),
        help="A file or folder of the host in the container: "
        "SOURCE:TARGET[:ro] or type=bind|tmpfs,source=PATH,target=PATH,readonly.",
    )
    read_only = Option(
        _SWITCH,
        False,
        group="files",
        help="No writable layer: / can't be written. Temporary files need a mount of their own, "
        "as `--tmpfs /tmp`, or `type=tmpfs,target=/tmp` where that is no option.",
    )
    env = Option(
        Kind("KEY=VALUE", grammar.variable, _pair, identity=lambda item: item[0]),
        (),
        also=("-e",),
        group="process",
        help="A variable of the environment in the container.",
    )
    workdir = Option(
        Kind("PATH", grammar.path_inside),
        also=("-w",),
        group="process",
        help="The working folder in the container.",
    )
    user = Option(
        Kind("USER[:GROUP]", grammar.user),
        also=("-u",),
        group="process",
        help="Who the processes are in the container: a number or a name of the image.",
    )
    entrypoint = Option(
        _WORD, group="process", help="The program to start instead of the image's own."
    )
    hostname = Option(
        Kind("NAME", grammar.hostname),
        also=("-h",),
        group="process",
        help="The host name that the container sees.",
        default_text="the container's name",
    )
    name = Option(
        Kind("NAME", grammar.name),
        group="container",
        help="A name for the container, to find it again.",
    )
    keep = Option(
        _SWITCH,
        False,
        group="container",
        help="The container stays after its first run; `rm` removes it.",
    )
    label = Option(
        Kind("KEY=VALUE", grammar.label, _pair, identity=lambda item: item[0]),
        (),
        also=("-l",),
        group="container",
        help="A note that is kept with the container.",
    )
    stop_timeout = Option(
        _GRACE,
        5.0,
        unit="seconds",
        group="container",
        help="How long `stop` waits after SIGTERM before everything is killed.",
    )
    interrupt_grace = Option(
        _GRACE,
        5.0,
        unit="seconds",
        group="container",
        help="How long an interrupted cell may go on before its container is ended.",
    )
    output_limit = Option(
        _OUTPUT,
        128 << 20,
        unit="bytes",
        group="container",
        help="How much output of one run is passed on before it is cut.",
    )
    output = Option(
        _OUTPUT_LEVEL,
        "safe",
        group="isolation",
        help="What outputs may do in the page that shows them. safe: HTML is cleaned, scripts run "
        "in a frame with no way out, widgets are those of ipywidgets. text: plain text only. "
        "trusted: all, as in Jupyter; then the code can do in the page what its reader can.",
    )
    audit = Option(
        Kind("LEVEL", grammar.one_of(*grammar.AUDIT_LEVELS)),
        grammar.AUDIT_OFF,
        group="container",
        help="Write down what runs and what is refused, for `sandbox-kernel audit`: off, on, or "
        "content, with the text of the cells; in your own settings only.",
    )
    cap_add = Option(
        _CAPABILITY,
        (),
        group="isolation",
        help="A capability over the container's own user namespace; there are none otherwise.",
    )
    cap_drop = Option(
        _CAPABILITY,
        (),
        group="isolation",
        help="Take away a capability that an earlier source added, or ALL.",
    )
    security_opt = Option(
        _SECURITY,
        (),
        group="isolation",
        help="no-new-privileges (always on) or seccomp=unconfined (no filter of system calls).",
    )
    strict = Option(
        _SWITCH,
        False,
        group="isolation",
        help="More walls, where the kernel has Landlock: no executable memory but of files, only "
        "sockets that the network needs, /proc to be read only and without other runs, nothing "
        "executable on what is mounted writable.",
    )
    seccomp = Option(
        Kind("NAME", grammar.seccomp),
        group="isolation",
        help="Of the system calls that are allowed only those that were learnt and saved under "
        "this name: see `sandbox-kernel learn-seccomp --help`.",
    )
    runtime = Option(_RUNTIME, "embedded", group="isolation", help="What makes the container.")
    mode = Option(
        _MODE,
        "fresh",
        group="kernel",
        help='Of "Sandbox Cells". fresh: each cell in a container of its own. carry: each in a '
        "fork of the state after the last one, so that it can be undone.",
    )
    warm = Option(
        Kind("MODULE", grammar.module, identity=str),
        (),
        group="start",
        help="A module that is imported before a cell asks for it, once for many containers.",
    )
    holder = Option(
        _SWITCH,
        True,
        group="start",
        help="Keep a kernel ready for the next start, in a process that ends when nobody uses it.",
    )
    cold = Option(
        _SWITCH,
        False,
        group="start",
        help="Start from nothing: no ready container, no interpreter that was forked.",
    )


class SandboxCeiling:
    """The most that a project, a kernelspec, a notebook or a magic may ask for."""

    memory = Option(_MEMORY, unit="bytes", help="The highest `memory`.")
    memory_swap = Option(
        _MEMORY, unit="bytes", default_text="the same as memory", help="The highest `memory_swap`."
    )
    cpus = Option(_CPUS, unit="processors", help="The highest `cpus`.")
    pids_limit = Option(_PIDS, unit="processes", help="The highest `pids_limit`.")
    storage_size = Option(_SPACE, unit="bytes", help="The highest `storage_size`.")
    timeout = Option(_TIMEOUT, unit="seconds", help="The longest `timeout`.")
    mount_roots = Option(
        Kind("PATH", settings_files.folder, identity=str),
        None,
        default_text="the working folder",
        help="Folders whose content may be mounted. `.` is the working folder.",
    )
    cap_add = Option(_CAPABILITY, (), help="Capabilities that may be asked for.")
    security_opt = Option(
        _SECURITY, ("no-new-privileges",), help="Security options that may be asked for."
    )
    network = Option(
        Kind("PATTERN", grammar.word, identity=str),
        ("*",),
        help="Patterns of networks that may be asked for. They stand for networks between "
        "containers; `bridge`, `host` and `container:NAME` lead further and have to be named.",
    )
    allow = Option(
        _ENTRY,
        None,
        default_text="names and public addresses",
        help="What may stand in `allow`; with no `allow` of its own a container gets all of this.",
    )
    publish = Option(
        Kind("ADDRESS", grammar.word, identity=str),
        ("127.0.0.1",),
        help="Addresses of this machine on which ports may be published.",
    )
    bandwidth = Option(_BITS, unit="bits per second", help="The highest `bandwidth`.")
    output = Option(
        _OUTPUT_LEVEL,
        default_text="your own `output`, else safe",
        help="The widest `output`: text, safe or trusted.",
    )
    runtime = Option(
        Kind("RUNTIME", _RUNTIME.parse, identity=str),
        ("embedded",),
        help="Runtimes that may be asked for.",
    )
    image = Option(
        Kind("PATTERN", grammar.image, identity=str),
        None,
        default_text="all of docker.io, and of files in folders that may be mounted",
        help="Patterns of image references that may be asked for, such as `dir:/srv/images/*` or "
        "`ghcr.io/*`. A name of the default registry is `docker.io/library/NAME:TAG`.",
    )


def table(declared: type) -> dict[str, Option]:
    """The options that are attributes of a class, by name."""
    return {name: found for name, found in vars(declared).items() if isinstance(found, Option)}


@functools.cache
def traits(declared: type) -> type[Configurable]:
    """The options of a class as traits of traitlets, which hold values to their grammar.

    For applications of Jupyter, which have a `Config` and ask for help and defaults. What starts
    fast does without: traitlets takes a tenth of the start of a short command, and a MiB.
    """
    from traitlets import TraitType
    from traitlets.config import Configurable

    class Trait(TraitType[Any, Any]):
        def __init__(self, option: Option) -> None:
            super().__init__(option.default_value, allow_none=True, help=option.help)
            self._read = option.read
            self.tag(
                config=True, unit=option.unit, group=option.group, limit=option.limit,
                flags=option.also,
            )  # fmt: skip

        def validate(self, obj: object, value: object) -> Any:
            return None if value is None else self._read(value, str(self.name))

    made = {name: Trait(option) for name, option in table(declared).items()}
    return type(declared.__name__, (Configurable,), {"__doc__": declared.__doc__, **made})


OPTIONS: Mapping[str, Option] = table(Sandbox)
CEILINGS: Mapping[str, Option] = table(SandboxCeiling)
OF_A_KERNEL = frozenset(name for name, option in OPTIONS.items() if option.group == "kernel")
"""Settings that say nothing about a container: `install` and the configuration have them."""
LIMITS = frozenset(name for name, option in OPTIONS.items() if option.limit)


class Layer(NamedTuple):
    """What one source says: option name -> typed value. `bound`: the ceilings hold for it."""

    source: str
    bound: bool
    values: Mapping[str, Any]


class Ceiling(NamedTuple):
    """One ceiling, and where it stands, so that an error can say what to change."""

    value: Any
    where: str


class Settings(NamedTuple):
    """All sources so far, earliest first, with the ceilings that bind the untrusted ones."""

    folder: str
    layers: tuple[Layer, ...] = ()
    ceilings: Mapping[str, Ceiling] = MappingProxyType({})
    user_file: str = ""
    registry: tuple[tuple[settings_files.Where, Mapping[str, object]], ...] = ()
    """What the user's own files say of registries, as it stands there: `image/registry/` types it,
    when something is pulled."""
    conda: tuple[tuple[settings_files.Where, Mapping[str, object]], ...] = ()
    """The same of channels: `image/environments/conda/` types it."""

    def plus(self, source: str, values: Mapping[str, object], where: str = "") -> Settings:
        """These settings with one more source on top; `where` names it in errors."""
        bound = source not in TRUSTED
        layer = Layer(source, bound, read_options(values, where or source))
        return self._replace(layers=(*self.layers, layer))


def load(folder: str | None = None) -> Settings:
    """The user's configuration and the project's, as they are now in the working folder.

    Raises InvalidOption for what they must not say, StepFailed where that folder was removed.
    """
    try:
        here = folder or os.getcwd()
    except FileNotFoundError as error:
        why = "it was removed: change to one that is there"
        raise StepFailed("find", "the working folder", why, errno.ENOENT) from error
    places = settings_files.places(here)
    key = (here, tuple(settings_files.signature(place.path) for place in places))
    known = _loaded.get(here)
    if known is None or known[0] != key:
        known = _loaded[here] = (key, _read(here, places))
    return known[1]


_loaded: dict[str, tuple[object, Settings]] = {}


def _read(here: str, places: Iterable[settings_files.Place]) -> Settings:
    layers: list[Layer] = []
    ceilings: dict[str, Ceiling] = {}
    own: dict[str, list[tuple[settings_files.Where, Mapping[str, object]]]]
    own = {name: [] for name in settings_files.OWN_TABLES}
    user_file = ""
    for place in places:
        if not place.project:
            user_file = place.path
        found = settings_files.read(place)
        if found is None:
            continue
        if found.ceiling and place.project:
            raise InvalidOption(
                found.where("ceiling"), "[ceiling]", f"ceilings stand only in `{user_file}`"
            )
        for name, table in found.own.items():
            if place.project:
                what = settings_files.OWN_TABLES[name]
                raise InvalidOption(
                    found.where(name), f"[{name}]", f"{what} stand only in `{user_file}`"
                )
            own[name].append((found.where, table))
        for name, value in read_options(found.ceiling, found.where, CEILINGS, "ceiling").items():
            ceilings[name] = Ceiling(value, found.where(name, "ceiling"))
        values = read_options(found.options, found.where)
        source = os.path.basename(place.path) if place.project else f"config file {place.path}"
        layers.append(Layer(source, place.project, values))
    registry, conda = tuple(own["registry"]), tuple(own["conda"])
    return Settings(here, tuple(layers), ceilings, user_file, registry, conda)


def read_options(
    values: Mapping[str, object],
    where: str | settings_files.Where,
    table: Mapping[str, Option] = OPTIONS,
    section: str = "",
) -> dict[str, Any]:
    """Typed values of a mapping of names. `-` and `_` are the same; None means not given."""
    typed: dict[str, Any] = {}
    for given, value in values.items():
        name = str(given).replace("-", "_")
        place = where(str(given), section) if callable(where) else _named(name, where, table)
        option = table.get(name)
        if option is None:
            raise InvalidOption(place, given, unknown(name, table))
        if name in typed:
            raise InvalidOption(place, given, f"`{name}` once, but it is given twice")
        if value is not None:
            typed[name] = option.read(value, place)
    return typed


def unknown(name: str, table: Iterable[str]) -> str:
    """`no such setting; did you mean ...`: the nearest names."""
    import difflib

    near = difflib.get_close_matches(name, list(table), 1)
    return "there is no such setting" + (f": did you mean `{near[0]}`?" if near else "")


def merge(first: tuple[Any, ...], then: Iterable[Any], kind: Kind) -> tuple[Any, ...]:
    """Items of two sources; a later item replaces an earlier one that is the same thing."""
    assert kind.identity is not None
    items = {kind.identity(item): item for item in first}
    for item in then:
        items.pop(kind.identity(item), None)
        items[kind.identity(item)] = item
    return tuple(items.values())


def _named(name: str, source: str, table: Mapping[str, Option]) -> str:
    """How the person wrote it: `--memory` in a magic, `notebook: memory` in metadata."""
    if source in (MAGIC, COMMAND_LINE):
        return table[name].flags[0] if name in table else name
    return name if source == PROGRAM else f"{source}: {name}"


def _items(value: object) -> Iterator[object]:
    """One item, a list of items, or a table of pairs."""
    if isinstance(value, Mapping) and not {"target", "type", "source"} & set(value):
        yield from value.items()
    elif isinstance(value, (list, tuple, set, frozenset)) and not hasattr(value, "_fields"):
        yield from value
    else:
        yield value


def of_kernelspec(within: Settings) -> Settings:
    """The settings plus those of the kernelspec that started this process.

    They come in the environment: `kernel.json` may hold text for variables, and jupyter_client
    replaces `{resource_dir}` only in argv, which must stay as every front end expects it.
    """
    text = os.environ.get(KERNELSPEC_VARIABLE)
    if not text:
        return within
    options = settings_files.parse_json(text, KERNELSPEC_VARIABLE)
    if not isinstance(options, dict):
        raise InvalidOption(KERNELSPEC_VARIABLE, text, "a JSON object of options")
    settings_files.refuse_twice(options, KERNELSPEC)
    return within.plus(KERNELSPEC, options)


def of_notebook(within: Settings) -> Settings:
    """The settings plus those in the metadata of the notebook that this process serves.

    Jupyter Server names the notebook in the environment; other front ends name none.
    """
    path = os.environ.get(NOTEBOOK_VARIABLE, "")
    if not path.endswith(".ipynb"):
        return within
    path = os.path.join(within.folder, path)
    where = f"{path}: metadata.{settings_files.NOTEBOOK_KEY}"
    options = settings_files.read_notebook(path, where)
    return within if options is None else within.plus(NOTEBOOK, options, where)
