"""Text to values: sizes, times, processors, mounts, names. One function for each kind of value.

Every function takes what a person, a file or a program gave (`value`) and the name under which it
was given (`option`), and returns the typed value or raises `InvalidOption` with one sentence that
says what is allowed. Nothing here looks at the machine, and nothing decides: that is `policy.py`.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from . import allowing
from .errors import InvalidOption
from .linux import capabilities
from .records import Record

PAGE = 4096
MOST_BYTES = (1 << 63) - PAGE
UNLIMITED = (1 << 64) - 1  # RLIM_INFINITY of <sys/resource.h>
MOST_SECONDS = 365 * 86400.0

# Patterns stay text: `re` compiles each when it is first used, which most runs never do.
NAME = r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}"
HOSTNAME = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
VARIABLE = r"[A-Za-z_][A-Za-z0-9_]{0,255}"
LABEL = r"[A-Za-z0-9][A-Za-z0-9_./-]{0,127}"
USER = r"(?:[0-9]{1,10}|[a-z_][a-z0-9_-]{0,31})(?::(?:[0-9]{1,10}|[a-z_][a-z0-9_-]{0,31}))?"
_SIZE = r"([0-9]{1,20})(?:\.([0-9]{1,9}))?(?:([kKmMgGtT])(?:[iI]?[bB])?|[bB])?"
_TIME = r"([0-9]{1,12}(?:\.[0-9]{1,9})?)(ms|s|m|h)?"
_NUMBER = r"[0-9]{1,9}(?:\.[0-9]{1,9})?|\.[0-9]{1,9}"
_WHOLE = r"[0-9]{1,19}"
_BITS = r"([0-9]{1,12})(?:\.([0-9]{1,6}))?([kmg])?(?:bit|bps)"
_SHARE = r"([0-9]{1,3})(?:\.([0-9]{1,4}))?%"
_CPUS = r"[0-9]{1,5}(?:-[0-9]{1,5})?(?:,[0-9]{1,5}(?:-[0-9]{1,5})?)*"

FACTORS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
THOUSANDS = {None: 1, "k": 10**3, "m": 10**6, "g": 10**9}
SECONDS = {None: 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}

# Names of <linux/resource.h>, lower case and without RLIMIT_, as docker writes them.
RLIMITS = (
    "cpu", "fsize", "data", "stack", "core", "rss", "nproc", "nofile", "memlock", "locks",
    "sigpending", "msgqueue", "nice", "rtprio", "rttime",
)  # fmt: skip

NETWORKS = ("none", "bridge", "host")
"""Those that are no names of networks of the user's. `container:NAME` is that of another one."""
BRIDGE = "bridge"
RUNTIMES = ("embedded", "runc", "crun", "runsc", "vm")
MODES = ("fresh", "carry")
OUTPUT_LEVELS = ("text", "safe", "trusted")
"""From the narrowest to the widest."""
AUDIT_OFF, AUDIT_ON, AUDIT_CONTENT = AUDIT_LEVELS = ("off", "on", "content")
SECURITY_OPTIONS = ("no-new-privileges", "seccomp=unconfined")


class Mount(Record):
    """One mount. `policy.allow` makes `source` a resolved path: open it without following links."""

    type: str  # "bind" or "tmpfs"
    source: str  # "" for tmpfs
    target: str  # absolute, normalised
    read_only: bool = False
    size: int | None = None  # tmpfs only, bytes

    def __str__(self) -> str:
        if self.type == "tmpfs":
            return f"tmpfs:{self.target}" + (f":size={self.size}" if self.size else "")
        return f"{self.source}:{self.target}:{'ro' if self.read_only else 'rw'}"


class Ulimit(Record):
    """One resource limit of setrlimit(2); `UNLIMITED` is RLIM_INFINITY."""

    name: str
    soft: int
    hard: int

    def __str__(self) -> str:
        shown = ["unlimited" if n == UNLIMITED else str(n) for n in (self.soft, self.hard)]
        return f"{self.name}={':'.join(shown)}"


class DeviceRate(Record):
    """Bytes per second for one block device. `policy.allow` fills in the device's numbers."""

    device: str
    major: int
    minor: int
    rate: int

    def __str__(self) -> str:
        return f"{self.device}:{self.rate}"


class Published(Record):
    """A port of this machine that leads to one of a container. `port` 0: any that is free."""

    address: str
    port: int
    inside: int

    def __str__(self) -> str:
        port = str(self.port) if self.port else ""
        return f"{self.address}:{port}:{self.inside}"


def size(value: object, option: str, *, least: int = 1) -> int:
    """`256m`, `1.5g`, `1GiB`, or a whole number of bytes. Units are powers of 1024, as docker's."""
    allowed = "a size such as 256m or 1.5g"
    allowed += f", of at least {shown_size(least)}" if least > 1 else ""
    number = _index(value)
    if number is None and isinstance(value, str) and (found := re.fullmatch(_SIZE, value)):
        factor = FACTORS[(found[3] or "").lower()]
        number = int(found[1]) * factor
        if found[2]:
            number += int(found[2]) * factor // 10 ** len(found[2])
    if number is None or not least <= number <= MOST_BYTES:
        _refuse(option, value, allowed)
    return number


def pages(value: object, option: str, *, least: int = PAGE) -> int:
    """A size in whole pages, rounded down: the kernel counts memory so, and reads back so."""
    return size(value, option, least=least) // PAGE * PAGE


def seconds(value: object, option: str, *, zero: bool = False) -> float:
    """`500ms`, `30s`, `2m`, `1h`, or a number of seconds."""
    number: float | None = None
    if isinstance(value, str) and (found := re.fullmatch(_TIME, value)):
        number = float(found[1]) * SECONDS[found[2]]
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        number = float(value) if abs(value) <= MOST_SECONDS else None  # nan compares false
    if number is None or not (0 if zero else 0.001) <= number <= MOST_SECONDS:
        _refuse(option, value, f"a time such as 500ms, 30s, 2m or 1h{'' if zero else ', above 0'}")
    return number


def seconds_or_none(value: object, option: str) -> float | None:
    """A time above zero, or `none` for no limit."""
    return None if value == "none" else seconds(value, option)


def processors(value: object, option: str) -> float:
    """How many processors at once: `0.5`, `2`. The kernel's shortest quota is 0.01."""
    number: float | None = None
    if isinstance(value, str) and re.fullmatch(_NUMBER, value):
        number = float(value)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        number = float(value) if abs(value) <= 8192 else None
    if number is None or not 0.01 <= number <= 8192:
        _refuse(option, value, "a number of processors from 0.01, such as 0.5 or 2")
    return number


def cpuset(value: object, option: str) -> str:
    """Which processors: `0`, `0-2`, `0,3-4`; sorted and joined, as the kernel reads it back."""
    allowed = "processor numbers such as 0, 0-2 or 0,3"
    number = _index(value)
    text = str(number) if number is not None and number >= 0 else value
    if not isinstance(text, str) or len(text) > 4096 or not re.fullmatch(_CPUS, text):
        _refuse(option, value, allowed)
    chosen: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if int(last or first) < int(first) or int(last or first) >= 8192:
            _refuse(option, value, allowed)
        chosen.update(range(int(first), int(last or first) + 1))
    return join_numbers(chosen)


def cpu_numbers(text: str) -> set[int]:
    """The numbers in a list that `cpuset` accepted, or that the kernel wrote."""
    chosen: set[int] = set()
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            chosen.update(range(int(first), int(last or first) + 1))
    return chosen


def join_numbers(numbers: Iterable[int]) -> str:
    """{0, 1, 2, 5} -> `0-2,5`: the kernel's own spelling."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def whole(value: object, option: str, *, least: int, most: int) -> int:
    """A whole number between two bounds."""
    number = _index(value)
    if number is None and isinstance(value, str) and re.fullmatch(_WHOLE, value):
        number = int(value)
    if number is None or not least <= number <= most:
        _refuse(option, value, f"a whole number from {least} to {most}")
    return number


def pids(value: object, option: str) -> int:
    """How many processes and threads at once; the most is the kernel's PID_MAX_LIMIT.

    With fewer than four no program starts: its container's pid 1 and who makes both count too.
    """
    return whole(value, option, least=4, most=4194304)


def shares(value: object, option: str) -> int:
    """Weight against other groups, with the bounds of cgroup v1's cpu.shares."""
    return whole(value, option, least=2, most=262144)


def switch(value: object, option: str) -> bool:
    """true or false; no other number or word is taken for one of them."""
    if isinstance(value, bool):
        return value
    if value not in ("true", "false"):
        _refuse(option, value, "true or false")
    return value == "true"


def name(value: object, option: str) -> str:
    """A container's name, in docker's pattern."""
    if not isinstance(value, str) or not re.fullmatch(NAME, value):
        _refuse(option, value, "1 to 63 letters, digits, `_`, `.` or `-`, not starting with a sign")
    return value


def hostname(value: object, option: str) -> str:
    """One label of RFC 1123."""
    if not isinstance(value, str) or not re.fullmatch(HOSTNAME, value):
        _refuse(option, value, "1 to 63 letters, digits or `-`, with no `-` at either end")
    return value


def user(value: object, option: str) -> str:
    """`uid[:gid]` or names of the image's own /etc/passwd and /etc/group."""
    number = _index(value)
    text = str(number) if number is not None else value
    if not isinstance(text, str) or not re.fullmatch(USER, text):
        _refuse(option, value, "a user number or name, and if you like :group")
    for part in text.split(":"):
        if part.isdigit() and int(part) > 65535:
            _refuse(option, value, "numbers from 0 to 65535: a container has that many")
    return text


BUILT_ON = re.compile(r"@(sha256:[0-9a-f]{64})\Z")
"""The end of a `build:` whose bases are known by digest."""
IMAGES_OF_FILES = ("dir", "oci", "oci-archive", "docker-archive", "build")
IMAGES_OF_PACKAGES = ("packages", "requirements", "pyproject", "conda")
DEFAULT_REGISTRY = "docker.io"


def image(value: object, option: str) -> str:
    """An image reference; all of its grammar is in `image.reference`."""
    if not isinstance(value, str) or not 0 < len(value) <= 4096 or value.startswith("-"):
        allowed = "an image reference such as host, python:3.12, dir:PATH or build:PATH"
        _refuse(option, value, allowed)
    return _printable(value, option)


ENVIRONMENTS = ("packages:", "requirements:", "pyproject:", "conda:")
"""References of Python environments, which may end in ` on BASE`."""


def image_path(reference: str) -> tuple[str, str, str]:
    """`oci:DIR:TAG` -> kind, path, and what follows it; ("", "", reference) when it has no path."""
    kind, colon, rest = reference.partition(":")
    if not colon or kind not in IMAGES_OF_FILES:
        return "", "", reference
    sign = {"dir": "\0", "build": "#"}.get(kind, ":")
    named = BUILT_ON.sub("", rest) if kind == "build" else rest
    path = named.partition(sign)[0]
    return kind, path, rest[len(path) :]


def split_image_name(name: str) -> tuple[str, str]:
    """`HOST[:PORT]` and the rest of a registry's name, by docker's rule for the default one."""
    first, slash, rest = name.partition("/")
    if slash and ({".", ":"} & set(first) or first == "localhost" or first != first.lower()):
        same = first.lower() in ("index.docker.io", "registry-1.docker.io")
        return DEFAULT_REGISTRY if same else first, rest
    return DEFAULT_REGISTRY, name


def image_registry(reference: str) -> str | None:
    """The registry that a reference names; None when it is of another kind."""
    kind, colon, _ = reference.partition(":")
    if reference in ("host", "scratch"):
        return None
    if colon and kind in ("sha256", "sha512", *IMAGES_OF_FILES, *IMAGES_OF_PACKAGES):
        return None
    return split_image_name(reference)[0].lower()


def whole_image_name(reference: str) -> str:
    """`python:3` -> `docker.io/library/python:3`; what is no registry's name is left as it is."""
    if image_registry(reference) is None:
        return reference
    registry, rest = split_image_name(reference)
    library = registry == DEFAULT_REGISTRY and "/" not in rest.partition("@")[0]
    return f"{registry}/{'library/' if library else ''}{rest}"


def word(value: object, option: str) -> str:
    """Any printable text that is not empty."""
    if not isinstance(value, str) or not 0 < len(value) <= 4096:
        _refuse(option, value, "text of 1 to 4096 characters")
    return _printable(value, option)


def path_inside(value: object, option: str) -> str:
    """An absolute path in the container, normalised: no `.`, `..` or doubled `/`."""
    if not isinstance(value, str) or not value.startswith("/") or len(value) > 4095:
        _refuse(option, value, "an absolute path in the container")
    _printable(value, option)
    parts = [part for part in value.split("/") if part not in ("", ".")]
    if ".." in parts:
        _refuse(option, value, "an absolute path in the container without `..`")
    return "/" + "/".join(parts)


def one_of(*words: str) -> Callable[[object, str], str]:
    """The parser of a closed list of words."""

    def parse(value: object, option: str) -> str:
        if not isinstance(value, str) or value not in words:
            _refuse(option, value, f"one of {', '.join(words)}")
        return value

    return parse


def network(value: object, option: str) -> str:
    """none, bridge, host, container:NAME, or the name of a network of the user's."""
    allowed = (
        "none, bridge, host, container:NAME, or a name of 1 to 63 letters, digits, `_`, `.`, `-`"
    )
    if not isinstance(value, str) or not re.fullmatch(rf"(?:container:)?{NAME}", value):
        _refuse(option, value, allowed)
    return value


def private_range(value: object, option: str) -> str:
    """A network of 65536 private addresses (RFC 1918, or 100.64.0.0/10)."""
    allowed = "a /16 of private addresses, such as 10.88.0.0/16"
    read = allowing.entry(value, option) if isinstance(value, str) else None
    private = allowing.networks_of(
        ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")
    )
    host = read.host if read is not None else None
    if not isinstance(host, allowing.Network) or host.bits != 16 or str(host) != value:
        _refuse(option, value, allowed)
    if not any(host.within(network) for network in private):
        _refuse(option, value, allowed)
    return str(host)


def hardware_prefix(value: object, option: str) -> str:
    """Two bytes of a hardware address that was not given by a maker and is of one receiver."""
    allowed = "two bytes such as 02:5b, the first of them with its last bits 10"
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{2}:[0-9a-f]{2}", value.lower()):
        _refuse(option, value, allowed)
    if int(value[:2], 16) & 3 != 2:
        _refuse(option, value, allowed)
    return value.lower()


def bits_per_second(value: object, option: str) -> int:
    """`10mbit`, `1.5gbit`, `500kbit`, or a whole number of bits; units are powers of 1000."""
    number = _index(value)
    if number is None and isinstance(value, str) and (found := re.fullmatch(_BITS, value.lower())):
        factor = THOUSANDS[found[3]]
        number = int(found[1]) * factor
        if found[2]:
            number += int(found[2]) * factor // 10 ** len(found[2])
    if number is None or not 8000 <= number <= 10**12:
        _refuse(option, value, "a rate such as 10mbit or 1.5gbit, from 8kbit to 1000gbit")
    return number


def delay(value: object, option: str) -> float:
    """A time of at most ten seconds, in microseconds, which is as the kernel has it."""
    number = seconds(value, option, zero=True)
    if number > 10:
        _refuse(option, value, "a time from 0 to 10s, such as 50ms")
    return round(number, 6)


def share(value: object, option: str) -> float:
    """`1%`, `0.5%`, or a number from 0 to 1."""
    number: float | None = None
    if isinstance(value, str) and (found := re.fullmatch(_SHARE, value)):
        number = float(f"{found[1]}.{found[2] or 0}") / 100
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        number = float(value)
    if number is None or not 0 <= number <= 1:
        _refuse(option, value, "a part such as 1% or 0.5%")
    return number


def published(value: object, option: str) -> Published:
    """`[[ADDRESS:]PORT:]INSIDE` as docker's --publish, of TCP; on loopback if nothing is said."""
    if isinstance(value, Published):
        value = str(value)
    allowed = "[[ADDRESS:]PORT:]PORT_INSIDE such as 8080:80 or 127.0.0.1:8080:80"
    text = str(_index(value)) if _index(value) is not None else value
    if not isinstance(text, str):
        _refuse(option, value, allowed)
    parts = text.removesuffix("/tcp").split(":")
    address = parts[0] if len(parts) == 3 else "127.0.0.1"
    outside, inside = ("", parts[0]) if len(parts) == 1 else (parts[-2], parts[-1])
    if len(parts) > 3 or allowing.address_number(address) is None:
        _refuse(option, value, f"{allowed}; the address an IPv4 one")
    for port in (outside, inside) if outside else (inside,):
        if not re.fullmatch(r"[0-9]{1,5}", port, re.ASCII) or not 1 <= int(port) <= 65535:
            _refuse(option, value, allowed)
    if len(parts) == 2 and not outside:
        _refuse(option, value, allowed)
    return Published(address, int(outside or 0), int(inside))


def capability(value: object, option: str) -> str:
    """`NET_RAW`, `cap_net_raw` or `ALL` -> the kernel's spelling."""
    text = value.upper() if isinstance(value, str) and value.isascii() else ""
    text = text if text in ("ALL", *capabilities.NAMES) else f"CAP_{text}"
    if text not in ("ALL", *capabilities.NAMES):
        _refuse(option, value, "a capability of capabilities(7) such as CHOWN, or ALL")
    return text


def module(value: object, option: str) -> str:
    """`numpy`, `matplotlib.pyplot`: the dotted name of a module."""
    text = value if isinstance(value, str) else ""
    if len(text) > 200 or not all(part.isidentifier() for part in text.split(".")):
        _refuse(option, value, "the name of a module, such as numpy or matplotlib.pyplot")
    return text


def seccomp(value: object, option: str) -> str:
    """The name of a filter that was learnt."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}", value):
        _refuse(option, value, "the name of a filter that `sandbox-kernel learn-seccomp` saved")
    return value


def security_option(value: object, option: str) -> str:
    """docker's spellings, of those that mean something here."""
    text = "no-new-privileges" if value == "no-new-privileges=true" else value
    if not isinstance(text, str) or text not in SECURITY_OPTIONS:
        _refuse(option, value, f"one of {', '.join(SECURITY_OPTIONS)}")
    return text


def variable(value: object, option: str) -> tuple[str, str | None]:
    """`KEY=VALUE`, or `KEY` alone for the value that it has outside (then the second is None)."""
    key, text = _pair(value, option, "KEY=VALUE")
    if not re.fullmatch(VARIABLE, key):
        _refuse(option, value, "KEY=VALUE, the key in letters, digits and `_`")
    if text is not None and ("\0" in text or len(text) > 131000 or not _encodes(text)):
        _refuse(option, value, "a value of at most 131000 characters with no zero byte")
    return key, text


def label(value: object, option: str) -> tuple[str, str]:
    """`KEY=VALUE` or `KEY`, kept with the container and never used to decide anything."""
    key, text = _pair(value, option, "KEY=VALUE")
    if not re.fullmatch(LABEL, key) or len(text or "") > 4096:
        _refuse(option, value, "KEY=VALUE, the key in letters, digits, `_`, `.`, `/` and `-`")
    return key, _printable(text or "", option)


def ulimit(value: object, option: str) -> Ulimit:
    """`nofile=1024` or `nofile=1024:2048` (soft:hard); `unlimited` is a number too."""
    if isinstance(value, Ulimit):
        value = str(value)
    allowed = f"NAME=SOFT[:HARD], the name one of {', '.join(RLIMITS)}"
    key, text = _pair(value, option, allowed)
    soft, colon, hard = (text or "").partition(":")
    numbers = []
    for part in (soft, hard if colon else soft):
        if part == "unlimited":
            numbers.append(UNLIMITED)
        elif re.fullmatch(_WHOLE, part) and int(part) <= MOST_BYTES:
            numbers.append(int(part))
    if key not in RLIMITS or len(numbers) != 2 or numbers[0] > numbers[1]:
        _refuse(option, value, f"{allowed}, and SOFT not above HARD")
    return Ulimit(key, numbers[0], numbers[1])


def device_rate(value: object, option: str) -> DeviceRate:
    """`/dev/sda:1m`: bytes per second; the numbers of the device are looked up by `policy`."""
    if isinstance(value, DeviceRate):
        return value
    device, colon, rate = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if not colon or not device.startswith("/dev/") or ".." in device.split("/"):
        _refuse(option, value, "DEVICE:RATE such as /dev/sda:1m")
    return DeviceRate(_printable(device, option), 0, 0, size(rate, option))


def mount(value: object, option: str) -> Mount:
    """`SOURCE:TARGET[:ro]` as docker's -v, or `type=bind,source=...,target=...,readonly`."""
    if isinstance(value, Mount):
        value = {
            "type": value.type, "source": value.source, "target": value.target,
            "readonly": value.read_only, "size": value.size,
        }  # fmt: skip
        value = {key: item for key, item in value.items() if item not in ("", None)}
    if isinstance(value, Mapping):
        return _mount_of_fields(dict(value), value, option)
    if not isinstance(value, str) or not value:
        _refuse(option, value, MOUNT_ALLOWED)
    _printable(value, option)
    if re.match(r"(type|source|src|target|dst|destination)=", value):
        return _mount_of_fields(dict(_fields(value, option)), value, option)
    parts = value.split(":")
    flag = parts[2:]
    if len(parts) not in (2, 3) or "" in parts or "," in value or flag not in ([], ["ro"], ["rw"]):
        _refuse(option, value, MOUNT_ALLOWED)
    fields: dict[str, object] = {
        "source": parts[0],
        "target": parts[1],
        "readonly": flag == ["ro"],
    }
    return _mount_of_fields(fields, value, option)


def tmpfs(value: object, option: str) -> Mount:
    """`TARGET[:size=64m]`: an empty memory file system, counted against the memory limit."""
    if not isinstance(value, str):
        _refuse(option, value, "TARGET or TARGET:size=64m")
    target, _, rest = value.partition(":")
    fields: dict[str, object] = {"type": "tmpfs", "target": target}
    if rest:
        key, _, text = rest.partition("=")
        if key not in ("size", "ro", "rw") or (key != "size" and text):
            _refuse(option, value, "TARGET or TARGET:size=64m")
        fields.update({"size": text} if key == "size" else {"readonly": key == "ro"})
    return _mount_of_fields(fields, value, option)


MOUNT_ALLOWED = (
    "SOURCE:TARGET[:ro] or type=bind|tmpfs,source=PATH,target=PATH[,readonly][,size=64m]; "
    "paths with `:` or `,` need the long form, in quotes"
)
_MOUNT_KEYS = {
    "type": "type", "source": "source", "src": "source", "target": "target", "dst": "target",
    "destination": "target", "readonly": "readonly", "ro": "readonly", "read_only": "readonly",
    "size": "size", "tmpfs-size": "size", "tmpfs_size": "size",
}  # fmt: skip


def _fields(text: str, option: str) -> list[tuple[str, object]]:
    """docker reads --mount as one line of CSV: a field with a comma stands in quotes."""
    import csv  # only for this, and seldom: 2 ms

    try:
        row = next(csv.reader([text], strict=True))
    except csv.Error:
        _refuse(option, text, MOUNT_ALLOWED)
    fields: list[tuple[str, object]] = []
    for field in row:
        key, equals, item = field.partition("=")
        if key in [known for known, _ in fields]:
            _refuse(option, text, f"each field once, but `{key}` stands twice")
        fields.append((key, item if equals else True))
    return fields


def _mount_of_fields(given: dict[str, object], value: object, option: str) -> Mount:
    fields: dict[str, object] = {}
    for key, item in given.items():
        known = _MOUNT_KEYS.get(key)
        if known is None or known in fields:
            _refuse(option, value, MOUNT_ALLOWED)
        fields[known] = item
    kind = fields.get("type", "bind")
    source, target = fields.get("source", ""), fields.get("target", "")
    if kind not in ("bind", "tmpfs") or not isinstance(source, str) or not target:
        _refuse(option, value, MOUNT_ALLOWED)
    if (kind == "bind") != bool(source) or (kind == "bind" and "size" in fields):
        _refuse(option, value, MOUNT_ALLOWED)
    _printable(source, option)
    read_only = switch(fields.get("readonly", False), option)
    limit = pages(fields["size"], option) if "size" in fields else None
    return Mount(kind, source, mount_target(target, option), read_only, limit)


def mount_target(value: object, option: str) -> str:
    """Where in the container: never the root, nor what the runtime itself mounts."""
    target = path_inside(value, option)
    if target == "/" or target.split("/")[1] in ("proc", "sys", "dev"):
        _refuse(option, value, "a target that is not `/` and not in /proc, /sys or /dev")
    return target


def shown_size(count: int) -> str:
    """4194304 -> `4 MiB`; four digits, for people."""
    for unit, factor in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= factor:
            return f"{count / factor:.4g} {unit}"
    return f"{count} bytes"


def shown_bits(count: int) -> str:
    """10000000 -> `10 Mbit/s`."""
    for unit, factor in (("Gbit/s", 10**9), ("Mbit/s", 10**6), ("kbit/s", 10**3)):
        if count >= factor:
            return f"{count / factor:.4g} {unit}"
    return f"{count} bit/s"


def shown_share(part: float) -> str:
    """0.015 -> `1.5 %`."""
    return f"{part * 100:.4g} %"


def shown_seconds(count: float) -> str:
    """90.0 -> `90 s`, 0.5 -> `500 ms`."""
    return f"{count * 1000:g} ms" if 0 < count < 1 else f"{count:g} s"


def _index(value: object) -> int | None:
    """The value as an int if it is one (also numpy's), but never a bool."""
    if isinstance(value, (bool, str, float)) or type(value).__name__ in ("bool_", "bool"):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def _pair(value: object, option: str, allowed: str) -> tuple[str, str | None]:
    if isinstance(value, (tuple, list)) and [type(item) for item in value[1:]] in (
        [str],
        [type(None)],
    ):
        value, text = value
        if isinstance(value, str):
            return value, text
    if not isinstance(value, str):
        _refuse(option, value, allowed)
    key, equals, text = value.partition("=")
    return key, text if equals else None


def _encodes(text: str) -> bool:
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def _printable(text: str, option: str) -> str:
    """Refuses control characters: a line feed in a path is an attack or an accident."""
    if any(c < " " or c == "\x7f" for c in text) or not _encodes(text):
        _refuse(option, text, "text without control characters")
    return text


def _refuse(option: str, value: Any, allowed: str) -> NoReturn:
    raise InvalidOption(option, value, allowed)
