"""What each source may ask for, option by option, and values made exact by what this machine has.

Ceilings bind every source that does not speak for the user. What no ceiling mentions can still not
widen: mounts outside the working folder, a way out of this machine, the network of the host, ports
on other addresses than loopback, capabilities, no filter of system calls.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, NoReturn

from . import grammar, settings
from .allowing import Allowed
from .errors import InvalidOption, NotAllowed
from .grammar import DeviceRate, Mount, Published
from .settings import OPTIONS, Layer, Settings

_ORDERED = ("memory", "memory_swap", "cpus", "pids_limit", "storage_size", "timeout", "bandwidth")
_LISTED = ("cap_add", "security_opt", "runtime")


def check(name: str, value: Any, layer: Layer, within: Settings) -> Any:
    """The value, made exact by what this machine has, or an error if it may not be asked for."""
    if layer.bound and name in _ORDERED:
        _hold_below(name, value, within)
    elif layer.bound and name in _LISTED:
        _hold_to_list(name, value, within)
    if checker := _CHECKERS.get(name):
        return checker(value, layer, within)
    return value


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


def _check_image(value: str, layer: Layer, within: Settings) -> str:
    """Paths are made absolute; what is not the user's own word is held to what he allows.

    Unless his ceiling lists images: files below the folders that may be mounted, and the default
    registry, since another one could be any host that this machine reaches.
    """
    if value.startswith(grammar.ENVIRONMENTS):
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

    def checked(value: str, layer: Layer, within: Settings) -> str:
        if layer.bound:
            file = within.user_file or "the user's config.toml"
            why = "it is one for all containers"
            raise NotAllowed(OPTIONS[name].flags[0], value, why, f"set `{name}` in `{file}`")
        return value

    return checked


def _check_publish(value: tuple[Published, ...], layer: Layer, within: Settings) -> Any:
    if layer.bound:
        ceiling = within.ceilings.get("publish")
        listed = ceiling.value if ceiling else settings.CEILINGS["publish"].default_value
        for item in value:
            if item.address not in listed:
                _not_allowed("publish", item, f"on {', '.join(listed) or 'no address'}", within)
    return value


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

    def checked(value: tuple[DeviceRate, ...], _: Layer, __: Settings) -> tuple[DeviceRate, ...]:
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

    return checked


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
