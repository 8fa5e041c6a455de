"""What a caller may have: a request and the settings become a plan, or an error that says why not.

The walk is `plan(...)` -> `request` -> `allow`, which asks `ceilings` about each value. A plan is
frozen data that prints itself; whoever makes it real (`bundle/`, `runtime/`) decides nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from . import allowing, ceilings, grammar, host, learnt, package_index, settings
from .allowing import Allowed
from .errors import InvalidOption
from .grammar import PAGE, DeviceRate, Mount, Published, Ulimit
from .records import Record
from .settings import BUILT_IN, MAGIC, OPTIONS, Layer, Settings

__all__ = [
    "LIVE", "ContainerPlan", "ContainerRequest", "DeviceRate", "Mount", "Row", "Ulimit", "allow",
    "change", "plan", "record", "recorded", "request",
]  # fmt: skip

MEMORY_SHARE = 0.75
STORAGE_SHARE = 0.60


class ContainerRequest(NamedTuple):
    """What a caller asked for, typed but not yet allowed: option name -> (value, source)."""

    options: Mapping[str, tuple[Any, str]]


class Row(NamedTuple):
    """One line of a printed plan. `in_force`: yes, no, or what the kernel says instead."""

    option: str
    value: str
    source: str
    in_force: str


class ContainerPlan(Record):
    """Everything that will be in force for a container. Sizes in bytes, times in seconds."""

    image: str = "host"
    memory: int | None = None
    memory_swap: int | None = None  # memory and swap together, as docker counts
    cpus: float | None = None
    cpuset_cpus: str | None = None
    cpu_shares: int | None = None
    pids_limit: int | None = None
    device_read_bps: tuple[DeviceRate, ...] = ()
    device_write_bps: tuple[DeviceRate, ...] = ()
    ulimit: tuple[Ulimit, ...] = ()
    storage_size: int | None = None
    timeout: float | None = None
    network: str = "none"
    allow: tuple[Allowed, ...] = ()
    allow_from: tuple[str, ...] = ()
    """Empty: all public addresses."""
    publish: tuple[Published, ...] = ()
    bandwidth: int | None = None  # bits per second
    latency: float | None = None
    loss: float | None = None  # of 1
    network_range: str | None = None
    network_hardware: str = "02:5b"
    mount: tuple[Mount, ...] = ()
    read_only: bool = False
    env: tuple[tuple[str, str], ...] = ()
    workdir: str | None = None
    user: str | None = None
    entrypoint: str | None = None
    hostname: str | None = None
    name: str | None = None
    keep: bool = False
    label: tuple[tuple[str, str], ...] = ()
    stop_timeout: float = 5.0
    interrupt_grace: float = 5.0
    output_limit: int = 128 << 20
    output: str = "safe"
    audit: str = "off"
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    packet_sockets: bool = True
    """Whether CAP_NET_RAW opens those, too (`AF_PACKET`), and not only raw ones of IP."""
    security_opt: tuple[str, ...] = ()
    seccomp: str | None = None
    seccomp_calls: tuple[str, ...] = ()
    """Those of the filter `seccomp` as it is now."""
    strict: bool = False
    runtime: str = "embedded"
    mode: str = "fresh"
    warm: tuple[str, ...] = ()
    holder: bool = True
    cold: bool = False
    sources: Mapping[str, str] = {}
    asked: frozenset[str] = frozenset()
    """Limits that somebody asked for. They fail closed; a built-in default may be lacking."""

    def __hash__(self) -> int:
        # Of those in which plans that are alike differ: it is asked for with each container.
        return hash((self.image, self.memory, self.mount, self.env))

    @property
    def from_holder(self) -> bool:
        """Whether a kernel of this plan may be one that the warm holder has ready."""
        return self.holder and not self.cold and self.runtime == "embedded"

    def options(self) -> dict[str, Any]:
        """Option name -> value, in the order of the reference."""
        return {name: getattr(self, name) for name in OPTIONS}

    def describe(self, in_force: Mapping[str, object] | None = None) -> list[Row]:
        """The rows to print. `in_force`: what the kernel reads back (`Container.limits`)."""
        rows = []
        for name, option in OPTIONS.items():
            if name in settings.OF_A_KERNEL:
                continue
            value = getattr(self, name)
            shown = option.show(value)
            state = ""
            if in_force is not None and value not in (None, ()):
                if name in in_force:
                    read_back = in_force[name]
                    state = "yes" if read_back == value else option.show(read_back)
                    state = "no" if read_back is None else state
                else:
                    state = "yes"
            rows.append(Row(name, shown, self.sources.get(name, BUILT_IN), state))
        return rows


def plan(
    source: str = MAGIC, *, within: Settings | None = None, **options: object
) -> ContainerPlan:
    """The whole walk: options as text or values, from one source, over the settings of this folder.

    >>> plan(memory="256m", cpus=0.5).memory
    268435456
    """
    over = within if within is not None else settings.load()
    return allow(request(options, source), over)


_RECORDS = {
    "mount": Mount,
    "publish": Published,
    "ulimit": Ulimit,
    "device_read_bps": DeviceRate,
    "device_write_bps": DeviceRate,
}


def record(made: ContainerPlan) -> dict[str, Any]:
    """A plan as JSON can hold it, to be kept with its container; see `recorded`."""
    values = {
        name: [item.values() for item in value] if name in _RECORDS else value
        for name, value in made.options().items()
        if value not in (None, ())
    }
    values["allow"] = [str(item) for item in made.allow]
    if made.seccomp_calls:
        values["seccomp_calls"] = list(made.seccomp_calls)
    return {"options": values, "sources": dict(made.sources), "asked": sorted(made.asked)}


def recorded(found: Mapping[str, Any]) -> ContainerPlan:
    """The plan that `record` kept. Nothing is checked anew: it was allowed then."""
    values: dict[str, Any] = {}
    for name, value in found["options"].items():
        if not isinstance(value, list):
            values[name] = value
        elif name == "allow":
            values[name] = tuple(allowing.entry(item, "--allow") for item in value)
        elif kind := _RECORDS.get(name):
            values[name] = tuple(kind(*item) for item in value)
        else:
            values[name] = tuple(tuple(i) if isinstance(i, list) else i for i in value)
    return ContainerPlan(**values, sources=found["sources"], asked=frozenset(found["asked"]))


LIVE = (
    "memory",
    "memory_swap",
    "cpus",
    "cpuset_cpus",
    "cpu_shares",
    "pids_limit",
    "device_read_bps",
    "device_write_bps",
)
"""Limits that can be changed while a container lives."""


def change(
    current: ContainerPlan,
    source: str = MAGIC,
    *,
    within: Settings | None = None,
    **options: object,
) -> tuple[ContainerPlan, ContainerPlan]:
    """New limits for a live container: its plan with them, and one that has nothing but them.

    The ceilings bind as they do at the start. Swap stays what it was beside memory, unless it is
    given too. Raises InvalidOption for what can't change in a live container.
    """
    over = within if within is not None else settings.load()
    changes = settings.read_options(options, source)
    layer = _layer(source, changes)
    for name, value in changes.items():
        if name not in LIVE:
            live = ", ".join(OPTIONS[limit].flags[0] for limit in LIVE)
            flag = OPTIONS[name].flags[0]
            raise InvalidOption(flag, value, f"in a live container only {live} can change")
        changes[name] = ceilings.check(name, value, layer, over)
    if "memory" in changes and "memory_swap" not in changes:
        swap = (current.memory_swap or 0) - (current.memory or 0)
        changes["memory_swap"] = changes["memory"] + max(swap, 0)
    elif "memory_swap" in changes:
        changes.setdefault("memory", current.memory)  # the kernel wants the two in order
    _check_swap({**current.options(), **changes})
    asked = current.asked | changes.keys()
    whole: dict[str, Any] = {
        **current.options(),
        **changes,
        "seccomp_calls": current.seccomp_calls,
        "sources": {**current.sources, **dict.fromkeys(changes, source)},
    }
    return ContainerPlan(**whole, asked=asked), ContainerPlan(**changes, asked=asked)


LIVE_NETWORK = ("allow", "bandwidth", "latency", "loss")
"""What can be changed of the network of a container that lives."""


def change_network(
    current: ContainerPlan,
    source: str = MAGIC,
    *,
    within: Settings | None = None,
    **options: object,
) -> ContainerPlan:
    """The plan of a live container with more on its allow-list, or another shape of its link.

    The ceilings bind as they do at the start. Raises InvalidOption, NotAllowed.
    """
    over = within if within is not None else settings.load()
    changes = settings.read_options(options, source)
    layer = _layer(source, changes)
    for name, value in changes.items():
        if name not in LIVE_NETWORK:
            live = ", ".join(OPTIONS[each].flags[0] for each in LIVE_NETWORK)
            raise InvalidOption(OPTIONS[name].flags[0], value, f"one of {live}")
        changes[name] = ceilings.check(name, value, layer, over)
    _fit_network({**current.options(), **changes}, changes)
    if "allow" in changes:
        kind = OPTIONS["allow"].kind
        changes["allow"] = settings.merge(current.allow, changes["allow"], kind)
    sources = {**current.sources, **dict.fromkeys(changes, source)}
    return current.replaced(**changes, sources=sources)


def request(options: Mapping[str, object], source: str = MAGIC) -> ContainerRequest:
    """Reads the options (text or typed values; None means not given) and notes who asked."""
    typed = settings.read_options(options, source)
    return ContainerRequest({name: (value, source) for name, value in typed.items()})


def allow(asked: ContainerRequest, within: Settings) -> ContainerPlan:
    """Holds every source to the ceilings, puts them over each other, and fills in the defaults."""
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for layer in (*within.layers, *_layers_of(asked)):
        for name, value in layer.values.items():
            checked = ceilings.check(name, value, layer, within)
            identity = OPTIONS[name].kind.identity
            if identity is None:
                values[name], sources[name] = checked, layer.source
            else:
                values[name] = settings.merge(values.get(name, ()), checked, OPTIONS[name].kind)
                earlier = [sources[name]] if name in sources else []
                sources[name] = ", ".join(dict.fromkeys([*earlier, layer.source]))
    for name in _LISTS:
        if name in asked.options and "network" not in values:  # it means nothing else
            source = asked.options[name][1]
            values["network"] = ceilings.check(
                "network", grammar.BRIDGE, _layer(source, {}), within
            )
            sources["network"] = f"{source}: {OPTIONS[name].flags[0]}"
    _lower_to_ceilings(values, sources, within)
    _fit_network(values, asked.options)
    if values.get("allow_from"):
        _let_through_the_index(values, sources, within)
    _defaults(values, sources)
    limits = frozenset(name for name in settings.LIMITS if sources.get(name, BUILT_IN) != BUILT_IN)
    return ContainerPlan(**values, sources=sources, asked=limits)


_LISTS = ("allow", "allow_from")
"""What a container with a way out is let through to."""


def _let_through_the_index(
    values: dict[str, Any], sources: dict[str, str], within: Settings
) -> None:
    """`--allow-from requirements`: entries of the list, and what names the index inside."""
    source = sources["allow_from"]
    bound = not all(_speaks_for_user(each) for each in source.split(", "))
    found = ceilings.check(
        "allow", package_index.entries(os.environ), Layer(source, bound, {}), within
    )
    values["allow"] = settings.merge(found, values.get("allow", ()), OPTIONS["allow"].kind)
    sources["allow"] = ", ".join(filter(None, (sources.get("allow"), f"{source}: --allow-from")))
    if named := tuple(package_index.variables(os.environ).items()):
        values["env"] = settings.merge(named, values.get("env", ()), OPTIONS["env"].kind)
        sources.setdefault("env", f"{source}: --allow-from")


def _layers_of(asked: ContainerRequest) -> Iterable[Layer]:
    by_source: dict[str, dict[str, Any]] = {}
    for name, (value, source) in asked.options.items():
        by_source.setdefault(source, {})[name] = value
    for source, values in by_source.items():
        yield _layer(source, values)


def _layer(source: str, values: Mapping[str, Any]) -> Layer:
    return Layer(source, source not in settings.TRUSTED, values)


def with_image(
    made: ContainerPlan, image: str, source: str, *, within: Settings | None = None
) -> ContainerPlan:
    """The plan with another image, which a cell declares at its head: held to the same ceilings.

    Raises InvalidOption, NotAllowed.
    """
    layer = _layer(source, {})
    over = within if within is not None else settings.load()
    checked = ceilings.check("image", OPTIONS["image"].read(image, "image"), layer, over)
    return made.replaced(image=checked, sources={**made.sources, "image": "the cell's head"})


_SHAPE = ("bandwidth", "latency", "loss")


def _fit_network(values: dict[str, Any], asked: Mapping[str, Any]) -> None:
    """What only some networks have. Asked for with another one it is an error.

    What comes from settings waits there for a network that has it.
    """
    network = values.get("network", OPTIONS["network"].default_value)
    linked = network not in ("none", "host") and not network.startswith("container:")
    for name in (*_LISTS, "publish", *_SHAPE):
        fits = network == grammar.BRIDGE if name in _LISTS else linked
        if fits or not values.get(name):
            continue
        option = OPTIONS[name]
        if name in asked:
            needed = "--network bridge" if name in _LISTS else "--network bridge or NAME"
            shown = option.show(values[name])
            raise InvalidOption(option.flags[0], shown, f"with `{needed}`; this one is `{network}`")
        values[name] = option.default_value
    if {"CAP_NET_ADMIN", "ALL"} & set(values.get("cap_add") or ()):
        for name in _SHAPE:
            if values.get(name):
                option = OPTIONS[name]
                allowed = "without `--cap-add NET_ADMIN`, with which the container could change it"
                raise InvalidOption(option.flags[0], option.show(values[name]), allowed)


def with_learnt(made: ContainerPlan, name: str, source: str) -> ContainerPlan:
    """The plan with the calls of a filter that was saved; itself when there is none.

    Raises StepFailed for a file that is damaged.
    """
    found = learnt.find(name)
    if found is None:
        return made
    sources = {**made.sources, "seccomp": source}
    return made.replaced(seccomp=name, seccomp_calls=found.calls, sources=sources)


LOOSENING = ("CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "ALL")
"""Capabilities with which the walls of `strict` would not stand."""


def _fit_learnt(values: dict[str, Any]) -> None:
    """The calls of the filter that is named. Raises InvalidOption when it can't be in force."""
    name = values["seccomp"]
    if name is None:
        return
    if "seccomp=unconfined" in values["security_opt"]:
        allowed = f"without `--seccomp {name}`, which is a filter"
        raise InvalidOption("--security-opt", "seccomp=unconfined", allowed)
    found = learnt.find(name)
    if found is None:
        known = ", ".join(learnt.names()) or "none is saved: see `sandbox-kernel learn-seccomp`"
        raise InvalidOption("--seccomp", name, f"one that was learnt and saved: {known}")
    values["seccomp_calls"] = found.calls


def _fit_strict(values: Mapping[str, Any]) -> None:
    """What can't be had together with `strict`. Raises InvalidOption."""
    if not values["strict"]:
        return
    if "seccomp=unconfined" in values["security_opt"]:
        allowed = "without `--strict`, which is a filter of system calls for a good part"
        raise InvalidOption("--security-opt", "seccomp=unconfined", allowed)
    for name in values["cap_add"]:
        if name in LOOSENING:
            allowed = "without `--strict`, whose walls it could take down"
            raise InvalidOption("--cap-add", name, allowed)
    if values["runtime"] != "embedded":
        allowed = "embedded with `--strict`: no other runtime can build all of its walls"
        raise InvalidOption("--runtime", values["runtime"], allowed)


def _lower_to_ceilings(values: dict[str, Any], sources: dict[str, str], within: Settings) -> None:
    """Where nobody asked, a ceiling is the value: what is unlimited by default is above it."""
    linked = values.get("network", "none") not in ("none", "host")
    for name in ("cpus", "pids_limit", "timeout", *(("bandwidth",) if linked else ())):
        ceiling = within.ceilings.get(name)
        if ceiling is None or ceiling.value is None or name in values:
            continue
        default = OPTIONS[name].default_value
        if default is None or default > ceiling.value:
            values[name], sources[name] = ceiling.value, f"ceiling of {ceiling.where}"
    allowed = within.ceilings.get("allow")
    open_way = values.get("network") == grammar.BRIDGE and not values.get("allow")
    if allowed and allowed.value and open_way and not _speaks_for_user(sources["network"]):
        values["allow"], sources["allow"] = allowed.value, f"ceiling of {allowed.where}"
    if "memory" not in values:
        values["memory"] = _rounded(int(host.available_memory() * MEMORY_SHARE))
        ceiling = within.ceilings.get("memory")
        if ceiling and ceiling.value and ceiling.value < values["memory"]:
            values["memory"], sources["memory"] = ceiling.value, f"ceiling of {ceiling.where}"
    ceiling = within.ceilings.get("storage_size")
    if "storage_size" not in values:
        values["storage_size"] = int(values["memory"] * STORAGE_SHARE) // PAGE * PAGE
        if ceiling and ceiling.value and ceiling.value < values["storage_size"]:
            values["storage_size"] = ceiling.value
            sources["storage_size"] = f"ceiling of {ceiling.where}"


def _speaks_for_user(source: str) -> bool:
    return source in settings.TRUSTED or source.startswith("config file ")


def _rounded(size: int) -> int:
    """Down to a sixteenth, so that plans made one after another are the same plan."""
    step = max(PAGE, 1 << max(0, size.bit_length() - 5))
    return size // step * step


def _check_swap(values: Mapping[str, Any]) -> None:
    memory, together = values["memory"], values["memory_swap"]
    if memory is not None and together is not None and together < memory:
        least = f"at least `memory`, which is {grammar.shown_size(memory)}"
        raise InvalidOption("--memory-swap", grammar.shown_size(together),
            f"{least}: memory and swap are counted together")  # fmt: skip


def _defaults(values: dict[str, Any], sources: dict[str, str]) -> None:
    """What is left, and what only makes sense together."""
    if values.get("memory_swap") is None:
        values["memory_swap"] = values["memory"]
    _check_swap(values)
    added, dropped = values.get("cap_add", ()), values.get("cap_drop", ())
    if "ALL" in dropped:
        values["cap_add"] = ()
    elif dropped:
        values["cap_add"] = tuple(name for name in added if name not in dropped)
    for name, option in OPTIONS.items():
        values.setdefault(name, option.default_value)
        sources.setdefault(name, BUILT_IN)
    _fit_strict(values)
    _fit_learnt(values)
