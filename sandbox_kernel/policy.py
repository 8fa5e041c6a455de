"""What a caller may have: a request and the settings become a plan, or an error that says why not.

The walk is `plan(...)` -> `request` -> `allow`. A plan is frozen data that prints itself; whoever
makes it real (`bundle/`, `runtime/`) decides nothing. Ceilings bind every source that does not
speak for the user. What no ceiling mentions can still not widen: mounts outside the working
folder, a way out of this machine, the network of the host, ports on other addresses than loopback,
capabilities, no filter of system calls.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, NoReturn

from . import allowing, grammar, host, learnt, package_index, settings
from .allowing import Allowed
from .errors import InvalidOption, NotAllowed
from .grammar import PAGE, DeviceRate, Mount, Published, Ulimit
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


@dataclass(frozen=True, kw_only=True)
class ContainerPlan:
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
    sources: Mapping[str, str] = field(default_factory=dict)
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
        changes[name] = _check(name, value, layer, over)
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
        changes[name] = _check(name, value, layer, over)
    _fit_network({**current.options(), **changes}, changes)
    if "allow" in changes:
        kind = OPTIONS["allow"].kind
        changes["allow"] = settings.merge(current.allow, changes["allow"], kind)
    sources = {**current.sources, **dict.fromkeys(changes, source)}
    return replace(current, **changes, sources=sources)


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
            checked = _check(name, value, layer, within)
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
            values["network"] = _check("network", grammar.BRIDGE, _layer(source, {}), within)
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
    found = _check_allow(package_index.entries(os.environ), Layer(source, bound, {}), within)
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


def _check(name: str, value: Any, layer: Layer, within: Settings) -> Any:
    """The value, made exact by what this machine has, or an error if it may not be asked for."""
    if layer.bound and name in _ORDERED:
        _hold_below(name, value, within)
    elif layer.bound and name in _LISTED:
        _hold_to_list(name, value, within)
    if checker := _CHECKERS.get(name):
        return checker(value, layer, within)
    return value


_ORDERED = ("memory", "memory_swap", "cpus", "pids_limit", "storage_size", "timeout", "bandwidth")
_LISTED = ("cap_add", "security_opt", "runtime")


def _ceiling(name: str, within: Settings) -> settings.Ceiling | None:
    if name == "memory_swap" and name not in within.ceilings:
        return within.ceilings.get("memory")
    return within.ceilings.get(name)


def _hold_below(name: str, value: Any, within: Settings) -> None:
    ceiling = _ceiling(name, within)
    if ceiling is None or ceiling.value is None:
        return
    if value is None or value > ceiling.value:  # None: `--timeout none`
        option = OPTIONS[name]
        _not_allowed(name, option.show(value), f"at most {option.show(ceiling.value)}", within)


def _hold_to_list(name: str, value: Any, within: Settings) -> None:
    ceiling = _ceiling(name, within)
    allowed = ceiling.value if ceiling else settings.CEILINGS[name].default_value
    for item in value if isinstance(value, tuple) else (value,):
        if item not in allowed and "ALL" not in allowed:
            _not_allowed(name, item, ", ".join(allowed) or "none at all", within)


def _not_allowed(name: str, value: object, ceiling: str, within: Settings) -> NoReturn:
    """Names the option, the value, the ceiling, and the line to change."""
    key = "mount_roots" if name == "mount" else name
    stands = within.ceilings.get(key) or (_ceiling(key, within))
    where = stands.where if stands else f"the built-in `{key}`"
    file = within.user_file or "the user's config.toml"
    change = f"change `{stands.where}`" if stands else f"set `{key}` under [ceiling] in `{file}`"
    remedy = f"only the user can widen it: {change}"
    raise NotAllowed(OPTIONS[name].flags[0], value, f"{ceiling}, by {where}", remedy)


def with_image(
    made: ContainerPlan, image: str, source: str, *, within: Settings | None = None
) -> ContainerPlan:
    """The plan with another image, which a cell declares at its head: held to the same ceilings.

    Raises InvalidOption, NotAllowed.
    """
    layer = _layer(source, {})
    over = within if within is not None else settings.load()
    checked = _check_image(settings.OPTIONS["image"].read(image, "image"), layer, over)
    return replace(made, image=checked, sources={**made.sources, "image": "the cell's head"})


ENVIRONMENTS = ("packages:", "requirements:", "pyproject:", "conda:")
"""References of Python environments, which may end in ` on BASE`."""


def _check_environment_image(value: str, layer: Layer, within: Settings) -> str:
    """A file or folder is held to the same roots as `dir:`, and the base is an image of its own."""
    named, on, base = value.partition(" on ")
    kind, _, path = named.partition(":")
    if kind != "packages":
        found = re.fullmatch(r"(.*?)((?:\s*@sha256:[0-9a-f]{64})?(?:\s+before\s+\S+)?)", path)
        path, rest = found.groups() if found else (path, "")
        path = path.strip()
        full = _source(_here(path), "image", within)
        if layer.bound and "image" not in within.ceilings:
            _hold_to_roots("image", full, within)
        named = f"{kind}:{full}{rest}"
    return f"{named} on {_check_image(base.strip(), layer, within)}" if on else named


def _check_image(value: str, layer: Layer, within: Settings) -> str:
    """Paths are made absolute; what is not the user's own word is held to what he allows.

    Unless his ceiling lists images: files below the folders that may be mounted, and the default
    registry, since another one could be any host that this machine reaches.
    """
    if value.startswith(ENVIRONMENTS):
        value = _check_environment_image(value, layer, within)
    kind, path, rest = grammar.image_path(value)
    if kind == "dir":
        path = _source(_here(path), "image", within)
    elif kind:
        path = _image_file(kind, path, within)
    if kind:
        value = f"{kind}:{path}{rest}"
    if not layer.bound:
        return value
    ceiling = within.ceilings.get("image")
    if ceiling is not None:
        names = {value, grammar.whole_image_name(value)}
        if not any(fnmatchcase(name, pattern) for pattern in ceiling.value for name in names):
            _not_allowed("image", value, ", ".join(ceiling.value), within)
    elif kind:
        _hold_to_roots("image", path, within)
    elif grammar.image_registry(value) not in (None, grammar.DEFAULT_REGISTRY):
        _not_allowed("image", value, f"images of {grammar.DEFAULT_REGISTRY}", within)
    return value


def _here(path: str) -> str:
    """Behind `dir:` and the like, a name without `/` can only be one of this folder."""
    return f"./{path}" if path and "/" not in path and path[0] != "~" else path


def _image_file(kind: str, path: str, within: Settings) -> str:
    """The resolved path of what an image is made of, as `_source` but with no `/` demanded."""
    sign = "#" if kind == "build" else ":"
    try:
        resolved = os.path.realpath(os.path.join(within.folder, path), strict=True)
    except OSError as error:
        raise InvalidOption("--image", path, f"a path that is there: {error.strerror}") from None
    if not os.access(resolved, os.R_OK):
        raise InvalidOption("--image", path, "a path that you can read")
    if not resolved.isprintable() or sign in resolved:
        allowed = f"a path without control characters and no `{sign}` in it"
        raise InvalidOption("--image", resolved, allowed)
    return resolved


def _check_mounts(value: tuple[Mount, ...], layer: Layer, within: Settings) -> tuple[Mount, ...]:
    checked = []
    for mount in value:
        if mount.type == "bind":
            source = _source(mount.source, "mount", within)
            if layer.bound:
                _hold_to_roots("mount", source, within)
            mount = Mount("bind", source, mount.target, mount.read_only, None)  # noqa: PLW2901
        checked.append(mount)
    return tuple(checked)


def _source(path: str, name: str, within: Settings) -> str:
    """The resolved path of something that is there and that this user can read."""
    option = OPTIONS[name].flags[0]
    if path.startswith("~") or not ("/" in path or path in (".", "..")):
        allowed = (
            f"a path with `/` in it, such as ./{path.lstrip('~/')}: there are no named volumes"
        )
        allowed = "a full path: `~` is not expanded here" if path.startswith("~") else allowed
        raise InvalidOption(option, path, allowed)
    try:
        resolved = os.path.realpath(os.path.join(within.folder, path), strict=True)
    except OSError as error:
        raise InvalidOption(option, path, f"a path that is there: {error.strerror}") from None
    seen = os.stat(resolved)
    if not (stat.S_ISDIR(seen.st_mode) or stat.S_ISREG(seen.st_mode) or name == "mount"):
        raise InvalidOption(option, path, "a folder")
    if stat.S_ISBLK(seen.st_mode) or stat.S_ISCHR(seen.st_mode):
        raise InvalidOption(option, path, "a file or a folder, and no device")
    if not os.access(resolved, os.R_OK | (os.X_OK if stat.S_ISDIR(seen.st_mode) else 0)):
        raise InvalidOption(option, path, "a path that you can read")
    if any(c < " " or c == "\x7f" for c in resolved):
        raise InvalidOption(option, resolved, "a path without control characters")
    return resolved


def _hold_to_roots(name: str, path: str, within: Settings) -> None:
    ceiling = within.ceilings.get("mount_roots")
    listed = ceiling.value if ceiling else (".",)
    roots = [root for item in listed if (root := _root(item, within))]
    if not any(path == root or path.startswith(root.rstrip("/") + "/") for root in roots):
        shown = " and ".join(f"below {root}" for root in roots) or "nothing of this machine"
        _not_allowed("mount" if name == "mount" else "image", path, shown, within)


def _root(item: str, within: Settings) -> str:
    """`.` is the working folder, unless that is the whole home or the whole machine."""
    if item != ".":
        return item
    here, home = os.path.realpath(within.folder), os.path.realpath(os.path.expanduser("~"))
    return "" if here == "/" or (home + "/").startswith(here + "/") else here


def _check_network(value: str, layer: Layer, within: Settings) -> str:
    """A pattern means networks between containers only; what leads further has to be named."""
    if not layer.bound or value == "none":
        return value
    ceiling = within.ceilings.get("network")
    listed = ceiling.value if ceiling else settings.CEILINGS["network"].default_value
    kind, colon, _ = value.partition(":")
    leads_further = colon or value in grammar.NETWORKS
    patterns = [
        pattern for pattern in listed if not leads_further or pattern.startswith(kind + ":")
    ]
    if value not in listed and not any(fnmatchcase(value, pattern) for pattern in patterns):
        _not_allowed("network", value, ", ".join(listed) or "none at all", within)
    return value


def _check_allow(value: tuple[Allowed, ...], layer: Layer, within: Settings) -> Any:
    """Who does not speak for the user names public addresses only, or what the ceiling covers."""
    if not layer.bound:
        return value
    ceiling = within.ceilings.get("allow")
    for item in value:
        if ceiling is None or ceiling.value is None:
            if item.special:
                _not_allowed("allow", item, "names and public addresses", within)
        elif not any(known.covers(item) for known in ceiling.value):
            _not_allowed("allow", item, ", ".join(map(str, ceiling.value)) or "nothing", within)
    return value


def _of_the_user(name: str) -> Callable[[str, Layer, Settings], str]:
    """What holds for all containers of a user is not for one of them to say."""

    def check(value: str, layer: Layer, within: Settings) -> str:
        if layer.bound:
            file = within.user_file or "the user's config.toml"
            why = "it is one for all containers"
            raise NotAllowed(OPTIONS[name].flags[0], value, why, f"set `{name}` in `{file}`")
        return value

    return check


def _check_publish(value: tuple[Published, ...], layer: Layer, within: Settings) -> Any:
    if layer.bound:
        ceiling = within.ceilings.get("publish")
        listed = ceiling.value if ceiling else settings.CEILINGS["publish"].default_value
        for item in value:
            if item.address not in listed:
                _not_allowed("publish", item, f"on {', '.join(listed) or 'no address'}", within)
    return value


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


def _check_output(value: str, layer: Layer, within: Settings) -> str:
    """Who does not speak for the user may not widen what the user's own word is."""
    if layer.bound:
        own = [each.values["output"] for each in within.layers if not each.bound and
               each.values.get("output")]  # fmt: skip
        ceiling = within.ceilings.get("output")
        widest = ceiling.value if ceiling and ceiling.value else (own or ["safe"])[-1]
        if grammar.OUTPUT_LEVELS.index(value) > grammar.OUTPUT_LEVELS.index(widest):
            _not_allowed("output", value, f"at most {widest}", within)
    return value


def _check_strict(value: bool, layer: Layer, within: Settings) -> bool:
    """Who does not speak for the user may switch it on, and not off where the user has it on."""
    own = [each for each in within.layers if not each.bound and "strict" in each.values]
    if layer.bound and not value and own and own[-1].values["strict"]:
        remedy = f"only the user can widen it: change it in `{own[-1].source}`"
        raise NotAllowed("--strict", "no", f"yes, by {own[-1].source}", remedy)
    return value


def _check_seccomp(value: str, layer: Layer, within: Settings) -> str:
    """Who does not speak for the user may take a filter, and not another than the user's own."""
    own = [each for each in within.layers if not each.bound and each.values.get("seccomp")]
    if layer.bound and own and own[-1].values["seccomp"] != value:
        mine = own[-1].values["seccomp"]
        remedy = f"only the user can change it: change it in `{own[-1].source}`"
        raise NotAllowed("--seccomp", value, f"{mine}, by {own[-1].source}", remedy)
    return value


def with_learnt(made: ContainerPlan, name: str, source: str) -> ContainerPlan:
    """The plan with the calls of a filter that was saved; itself when there is none.

    Raises StepFailed for a file that is damaged.
    """
    found = learnt.find(name)
    if found is None:
        return made
    sources = {**made.sources, "seccomp": source}
    return replace(made, seccomp=name, seccomp_calls=found.calls, sources=sources)


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


def _check_environment(value: tuple[tuple[str, str | None], ...], layer: Layer, _: Settings) -> Any:
    """`--env KEY` takes the value from outside; only the user may: it could be a secret."""
    known = []
    for key, text in value:
        if text is None and layer.bound:
            raise InvalidOption("--env", key, "KEY=VALUE: outside values are the user's to give")
        if text is None and key not in os.environ:
            continue
        known.append((key, os.environ[key] if text is None else text))
    return tuple(known)


def _check_cpus(value: float, _: Layer, __: Settings) -> float:
    if value > (have := os.cpu_count() or 1):
        raise InvalidOption("--cpus", f"{value:g}", f"at most {have}: this machine has no more")
    return value


def _check_cpuset(value: str, _: Layer, __: Settings) -> str:
    have = os.sched_getaffinity(0)
    if not grammar.cpu_numbers(value) <= have:
        raise InvalidOption("--cpuset-cpus", value, f"within {grammar.join_numbers(have)}")
    return value


def _check_devices(
    name: str,
) -> Callable[[tuple[DeviceRate, ...], Layer, Settings], tuple[DeviceRate, ...]]:
    flag = OPTIONS[name].flags[0]

    def check(value: tuple[DeviceRate, ...], _: Layer, __: Settings) -> tuple[DeviceRate, ...]:
        found = []
        for item in value:
            try:
                seen = os.stat(item.device)
            except OSError as error:
                allowed = f"a device that is there: {error.strerror}"
                raise InvalidOption(flag, item.device, allowed) from None
            if not stat.S_ISBLK(seen.st_mode):
                raise InvalidOption(flag, item.device, "a block device such as /dev/sda")
            numbers = os.major(seen.st_rdev), os.minor(seen.st_rdev)
            found.append(DeviceRate(item.device, *numbers, item.rate))
        return tuple(found)

    return check


_CHECKERS: Mapping[str, Callable[[Any, Layer, Settings], Any]] = {
    "image": _check_image,
    "mount": _check_mounts,
    "env": _check_environment,
    "network": _check_network,
    "network_range": _of_the_user("network_range"),
    "network_hardware": _of_the_user("network_hardware"),
    "allow": _check_allow,
    "publish": _check_publish,
    "output": _check_output,
    "audit": _of_the_user("audit"),
    "strict": _check_strict,
    "seccomp": _check_seccomp,
    "cpus": _check_cpus,
    "cpuset_cpus": _check_cpuset,
    "device_read_bps": _check_devices("device_read_bps"),
    "device_write_bps": _check_devices("device_write_bps"),
}


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
