"""What every cgroup driver offers: `Driver` and `Group`. And the reading of OCI resources.

Resources come as the OCI runtime specification has them (`linux.resources`). Limits are named as
the fields of a plan. Every limit that is written is read back; what the kernel does not confirm
is refused with `LimitNotEnforceable`, and nothing of the group is left.
"""

from __future__ import annotations

import errno

from sandbox_kernel import errors
from sandbox_kernel.runtime.cgroups import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, NoReturn

TOP = "sandbox-kernel"
LAUNCHER = "launcher"
"""On v2, the leaf of a delegated group for the processes that were in it."""
PAGE = 4096

LIMITS = (
    "memory",
    "memory_swap",
    "cpus",
    "cpu_shares",
    "cpuset_cpus",
    "pids_limit",
    "device_read_bps",
    "device_write_bps",
)

USAGE = (
    "cpu_seconds",
    "memory_bytes",
    "memory_peak_bytes",
    "pids",
    "pids_peak",
    "throttled_seconds",
    "read_bytes",
    "written_bytes",
    "oom_kills",
)

# OCI runtime specification, config-linux.md: section and key of `linux.resources`.
LIMIT_OF_RESOURCE = {
    ("memory", "limit"): "memory",
    ("memory", "swap"): "memory_swap",
    ("cpu", "quota"): "cpus",
    ("cpu", "period"): "cpus",
    ("cpu", "shares"): "cpu_shares",
    ("cpu", "cpus"): "cpuset_cpus",
    ("pids", "limit"): "pids_limit",
    ("blockIO", "throttleReadBpsDevice"): "device_read_bps",
    ("blockIO", "throttleWriteBpsDevice"): "device_write_bps",
}
# Device access is decided by the container's /dev and its user namespace, not by a cgroup.
NOT_OURS = ("devices",)

HAND_OVER = "as root run what `sandbox-kernel doctor` prints for handing over a subtree"

DEFAULT_PERIOD = 100_000  # microseconds, kernel/sched/fair.c: default_cfs_period


class Group:
    """One control group (a container, or one run in it). Paths, limits, usage, and its end."""

    touched = False
    """Whether more was done to it than to let processes in: then it is no other container's."""

    def entrances(self) -> list[int]:
        """Descriptors, the caller's, to which a process writes `0` to come in itself; all of them.

        It must have one thread and still our user id: v1 lets nobody else in. That a process
        moves itself is no matter of taste: to move another one the kernel stops all forks of the
        machine and waits for a grace period of RCU, 5 to 12 ms (kernel/cgroup/cgroup.c,
        cgroup_procs_write_start).
        """
        raise NotImplementedError

    def around(self) -> list[int]:
        """Entrances, the caller's, of a group around that of `entrances`; mostly there is none.

        Who makes the container comes through it, and makes the namespace of groups there, so that
        all groups of the container are seen below its root.
        """
        return []

    def limits(self) -> dict[str, Any]:
        """The limits in force, read from the kernel. None: no limit."""
        raise NotImplementedError

    def first_limits(self) -> dict[str, Any]:
        """The same of a group that was just made, in which each limit was read when it was set."""
        return self.limits()

    def update(self, resources: Mapping[str, Any]) -> None:
        """Change limits of the live group; all of them, or none and LimitNotEnforceable."""
        raise NotImplementedError

    def usage(self) -> dict[str, int | float | None]:
        """What was used. A figure with no counter here is None.

        A group of one run has its own time on the CPU; its other figures are the container's.
        """
        raise NotImplementedError

    def oom_kills(self) -> int:
        """How many processes the out-of-memory killer ended in this container."""
        raise NotImplementedError

    def forks_refused(self) -> int:
        """How many times a process or thread was refused at the limit of processes."""
        raise NotImplementedError

    def oom_fd(self) -> int | None:
        """A descriptor that is readable when memory may have run out; the group closes it.

        Read it empty (`os.read(fd, 4096)`), then ask `oom_kills`. None: no such notice here.
        """
        raise NotImplementedError

    def kill(self, leaving: int | None = None) -> None:
        """SIGKILL every process in it, daemonised ones too. Returns when it is empty.

        `leaving`: a process of ours, of which a thread was in it that is just ending: it is waited
        for, and not ended, as it would be if its thread was taken for it.
        """
        raise NotImplementedError

    def thaw(self) -> None:
        """What was killed in it may end, whoever froze it. v2 ends also what is frozen."""

    def child(self, name: str) -> Group:
        """A group for one run: own kill, own CPU time; the limits are the container's."""
        raise NotImplementedError

    def paths(self) -> dict[str, str]:
        """Controller -> directory; one entry with the key "" on v2."""
        raise NotImplementedError

    def remove(self) -> None:
        """Remove it. Waits for processes that are dying; does nothing when it is gone."""
        raise NotImplementedError

    def remove_empty(self) -> bool:
        """Remove it if it can be seen at once that nobody is in it. False: nothing was done."""
        return False


class Swept:
    """What a sweep found: launchers that are gone, by id, and what of theirs did not end."""

    __slots__ = ("launchers", "left")

    def __init__(self) -> None:
        self.launchers: set[str] = set()
        self.left: list[str] = []


class Driver:
    """Makes groups on this machine."""

    name = ""

    def support(self) -> dict[str, str]:
        """Limit name (and "freeze", "usage") -> "", or why not and what to do about it."""
        raise NotImplementedError

    def require(self, limits: Mapping[str, Any]) -> None:
        """Refuse limits that this host can't enforce. LimitNotEnforceable."""
        support = self.support()
        for limit, value in limits.items():
            if support[limit]:
                host, _, remedy = support[limit].partition(": ")
                raise refused(limit, value, host, remedy)

    def create(self, group_name: str, resources: Mapping[str, Any]) -> Group:
        """A new group `LAUNCHER/CONTAINER` with these limits in force. LimitNotEnforceable."""
        raise NotImplementedError

    def create_again(self, group_name: str, resources: Mapping[str, Any]) -> Group:
        """As `create`; the group may be one that was kept, and has these limits in force."""
        return self.create(group_name, resources)

    def keep(self, group: Group) -> bool:
        """Keep the group of a container that is over for `create_again`.

        False: it is in no way as new, or there are enough, and is the caller's to remove.
        """
        return False

    def drop_kept(self) -> None:
        """Remove what is kept. Raises StepFailed."""

    def ways_home(self) -> list[int]:
        """Entrances of the groups that this process is in, for one that leaves them for a while.

        None where a thread can leave by itself. Raises OSError.
        """
        return []

    def sweep(self, is_alive: Callable[[str], bool]) -> Swept:
        """Kill and remove the groups of launchers that are gone.

        A process that does not end, since a disk or a debugger holds it, has its SIGKILL and runs
        no code any more: that it is still there is told, and keeps nobody from going on.
        """
        raise NotImplementedError


def option(limit: str) -> str:
    """The option of a limit as the user types it."""
    return "--" + limit.replace("_", "-")


def wanted(resources: Mapping[str, Any]) -> dict[str, Any]:
    """OCI resources as limits. `cpus` is a pair (quota, period) of microseconds.

    What no driver sets is refused, so that nobody believes in a limit that is not there.
    """
    limits: dict[str, Any] = {}
    for section, settings in resources.items():
        if section in NOT_OURS or not settings:
            continue
        if not isinstance(settings, dict):
            _refuse(section, settings)
        for key, value in settings.items():
            if value is None:
                continue
            limit = LIMIT_OF_RESOURCE.get((section, key))
            if limit is None:
                _refuse(f"{section}.{key}", value)
            if limit != "cpus":
                limits[limit] = value
    cpu = resources.get("cpu") or {}
    if cpu.get("quota") is not None or cpu.get("period") is not None:
        limits["cpus"] = (cpu.get("quota") or -1, cpu.get("period") or DEFAULT_PERIOD)
    return limits


def directory_name(group_name: str) -> str:
    """The one directory of a group `LAUNCHER/CONTAINER`: no level between costs time or stays."""
    launcher, _, container = group_name.partition("/")
    return f"{launcher}.{container}"


def launcher_of(directory: str) -> str | None:
    """The launcher id in a directory's name; None: it is no container's group."""
    launcher, dot, _ = directory.rpartition("/")[2].partition(".")
    return launcher if dot else None


def _refuse(name: str, value: object) -> NoReturn:
    raise errors.LimitNotEnforceable(
        name, value, "no cgroup driver of this package sets it", "leave it out"
    )


def refused(limit: str, asked: object, host: str, remedy: str) -> errors.LimitNotEnforceable:
    """The error for a limit, in the user's words and units."""
    if limit == "cpus" and isinstance(asked, tuple):
        asked = f"{asked[0] / asked[1]:g}" if asked[0] > 0 else "no limit"
    elif limit.startswith("device_") and isinstance(asked, list | tuple):
        asked = ", ".join(device_rule(rule) for rule in asked)
    return errors.LimitNotEnforceable(option(limit), asked, host, remedy)


def altered(limit: str, asked: object, shown: object) -> errors.LimitNotEnforceable:
    """The error for a limit that did not read back as it was asked for."""
    return refused(limit, asked, f"the kernel made `{shown}` of it", "ask for what it can hold")


def why(error: OSError, limit: str) -> tuple[str, str]:
    """What the kernel's errno means for a limit, and the remedy."""
    if limit == "cpuset_cpus" and error.errno != errno.ENOENT:
        online = files.read("/sys/devices/system/cpu/online")
        return f"this machine has the CPUs {online}", "name some of these"
    if error.errno == errno.ENODEV:
        return "there is no such block device", "name a whole disk, as `lsblk` shows it"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "the file of this limit is not writable for this user", HAND_OVER
    if error.errno in (errno.EINVAL, errno.ERANGE):
        return f"the kernel refused the value ({error.strerror})", "ask for another value"
    return f"writing failed: {error.strerror}", "look at the messages of the kernel (`dmesg`)"


def device_rule(rule: Mapping[str, int]) -> str:
    """One rate of a block device as the kernel writes it: "major:minor rate"."""
    return f"{rule['major']}:{rule['minor']} {rule['rate']}"


def same_size(asked: int, shown: int | None) -> bool:
    """Whether the kernel holds the size that was asked for; it may round down to a page."""
    return shown is not None and asked - PAGE < shown <= asked


def cpu_set(text: str) -> set[int]:
    """The numbers in a list such as "0-2,5". Raises ValueError."""
    numbers: set[int] = set()
    for part in text.split(",") if text else []:
        first, _, last = part.partition("-")
        numbers.update(range(int(first), int(last or first) + 1))
    return numbers
