"""The configuration of the OCI runtime specification 1.2, as far as we write it.

Names and nesting are those of `config.json` (config.md and config-linux.md of the specification),
so that a bundle is this dictionary written as JSON. `linux.seccomp` is in `linux/seccomp.py`,
where it is compiled.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict

from sandbox_kernel.linux.seccomp import Profile

VERSION = "1.2.0"


class Root(TypedDict):
    """Where the root file system lies: relative to the bundle."""

    path: str
    readonly: bool


class Mount(TypedDict):
    """One mount, in the order in which they are made."""

    destination: str
    type: str
    source: str
    options: list[str]


class User(TypedDict):
    """Numbers of the container's user namespace.

    `username` is one that only the image's own files can tell; the numbers mean nothing then.
    """

    uid: int
    gid: int
    additionalGids: list[int]
    username: NotRequired[str]


class Rlimit(TypedDict):
    """One limit of setrlimit(2); 2**64 - 1 is RLIM_INFINITY."""

    type: str
    soft: int
    hard: int


class Capabilities(TypedDict):
    """The five sets of capabilities(7)."""

    bounding: list[str]
    effective: list[str]
    permitted: list[str]
    inheritable: list[str]
    ambient: list[str]


class Process(TypedDict):
    """The payload; who enters a held container later starts from this too."""

    terminal: bool
    user: User
    args: list[str]
    env: list[str]
    cwd: str
    capabilities: Capabilities
    rlimits: list[Rlimit]
    noNewPrivileges: bool


class Memory(TypedDict):
    """Bytes. `swap` is memory and swap together."""

    limit: NotRequired[int]
    swap: NotRequired[int]


class Cpu(TypedDict):
    """`quota` microseconds in each `period`; `cpus` is a list such as 0-2,5."""

    shares: NotRequired[int]
    quota: NotRequired[int]
    period: NotRequired[int]
    cpus: NotRequired[str]


class Pids(TypedDict):
    """Processes and threads."""

    limit: int


class ThrottleDevice(TypedDict):
    """Bytes per second of one block device."""

    major: int
    minor: int
    rate: int


class BlockIO(TypedDict):
    """Limits of block devices."""

    throttleReadBpsDevice: NotRequired[list[ThrottleDevice]]
    throttleWriteBpsDevice: NotRequired[list[ThrottleDevice]]


class Resources(TypedDict):
    """What the cgroup gets."""

    memory: NotRequired[Memory]
    cpu: NotRequired[Cpu]
    pids: NotRequired[Pids]
    blockIO: NotRequired[BlockIO]


class Namespace(TypedDict):
    """A namespace to make (no path) or to join."""

    type: str
    path: NotRequired[str]


class IdMapping(TypedDict):
    """One line of uid_map or gid_map."""

    containerID: int
    hostID: int
    size: int


class Linux(TypedDict):
    """What only Linux has. Whoever runs the bundle adds the id mappings and the cgroup's path."""

    namespaces: list[Namespace]
    resources: Resources
    maskedPaths: list[str]
    readonlyPaths: list[str]
    rootfsPropagation: str
    seccomp: NotRequired[Profile]
    uidMappings: NotRequired[list[IdMapping]]
    gidMappings: NotRequired[list[IdMapping]]
    cgroupsPath: NotRequired[str]


class Config(TypedDict):
    """config.json."""

    ociVersion: str
    root: Root
    process: Process
    hostname: str
    mounts: list[Mount]
    annotations: dict[str, str]
    linux: Linux
