"""cgroup v1: separate hierarchies, each controller where it is mounted. Mounts nothing.

Groups are `MOUNT/sandbox-kernel/LAUNCHER.CONTAINER`, for an ordinary user
`MOUNT/sandbox-kernel/user-UID/...` where root handed that directory over. A group joins freezer,
memory, pids, cpu and cpuacct; cpuset and blkio only when a limit needs them, as they cost time.
A run has a group below in freezer and cpuacct only.

Known bounds of v1: blkio holds back reads and direct writes; what the page cache writes later is
nobody's. There is no group-wide out-of-memory: who waits on `oom_fd` kills the group.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time

from sandbox_kernel import errors
from sandbox_kernel.runtime.cgroups import contract, files, v1_again, v1_limits, v1_usage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from sandbox_kernel.runtime.cgroups.mounted import Mounts

ALWAYS = ("freezer", "memory", "pids", "cpu", "cpuacct")
OF_A_RUN = ("freezer", "cpuacct")
MOST_KEPT = 8
"""Groups that are kept to be used again."""

BOOT_SWITCH = {
    "memory": "start the machine with `cgroup_enable=memory`",
    "memory_swap": "start the machine with `swapaccount=1`",
}


def probe(mounts: Mounts, parent: str | None) -> Driver | None:
    """The driver, when at least one hierarchy takes our groups."""
    tops, lacks = _find(mounts, parent)
    if not tops:
        return None
    # Since Linux 6.9 a block device is counted only where a rule is in force already.
    counters = "/blkio.throttle.io_service_bytes"
    counted = "blkio" in tops and len(files.read_table(mounts.v1["blkio"].directory + counters)) > 1
    return Driver(tops, lacks, (*ALWAYS, "blkio") if counted else ALWAYS)


def reasons(mounts: Mounts, parent: str | None) -> str:
    """Why no hierarchy takes our groups: one sentence."""
    lacks = _find(mounts, parent)[1]
    return next(reason for controller, reason in lacks.items() if controller in mounts.v1)


def _find(mounts: Mounts, parent: str | None) -> tuple[dict[str, str], dict[str, str]]:
    """Controller -> our directory where it can be used; controller -> reason where not."""
    tops: dict[str, str] = {}
    lacks: dict[str, str] = {}
    uid = os.geteuid()
    below = parent or (contract.TOP if uid == 0 else f"{contract.TOP}/user-{uid}")
    for controller in (*ALWAYS, "cpuset", "blkio"):
        mount = mounts.v1.get(controller)
        if mount is None:
            switch = BOOT_SWITCH.get(controller, "mount it")
            lacks[controller] = f"the {controller} controller is not mounted: {switch}"
            continue
        top = f"{mount.directory}/{below}"
        if uid == 0:
            try:
                os.makedirs(top, 0o755, exist_ok=True)
            except OSError as error:
                lacks[controller] = (
                    f"making the group `{top}` failed ({error.strerror}): "
                    f"run where {mount.directory} is writable"
                )
                continue
        elif not _handed_over(top, uid):
            lacks[controller] = (
                f"the {controller} controller is not handed over to this user "
                f"(`{top}` is not a directory of his): {contract.HAND_OVER}"
            )
            continue
        tops[controller] = top
    return tops, lacks


def _handed_over(top: str, uid: int) -> bool:
    try:
        return os.stat(top).st_uid == uid and os.access(f"{top}/cgroup.procs", os.W_OK)
    except OSError:
        return False


class Driver(contract.Driver):
    """Makes groups in each hierarchy that takes them."""

    name = "v1"

    def __init__(
        self, tops: dict[str, str], lacks: dict[str, str], controllers: Iterable[str]
    ) -> None:
        self._tops = tops
        self._support = _support(tops, lacks)
        self.unset: dict[str, Any] = {}
        """What a new group says of a limit that nobody set in it; asked once for each."""
        self._always = [name for name in controllers if name in tops]
        self._kept: list[Group] = []
        self._spares = 0

    def support(self) -> dict[str, str]:
        return dict(self._support)

    def create(self, group_name: str, resources: Mapping[str, Any]) -> Group:
        limits = contract.wanted(resources)
        self.require(limits)
        group = Group(self, contract.directory_name(group_name))
        try:
            for controller in self._always:
                group.join(controller)
            for limit in limits:
                group.join(v1_limits.FILE_OF_LIMIT[limit][0])
            group.set_first(limits)
            group.asked = limits
        except BaseException:
            group.remove()
            raise
        return group

    def create_again(self, group_name: str, resources: Mapping[str, Any]) -> Group:
        limits = contract.wanted(resources)
        for group in [group for group in self._kept if group.asked == limits]:
            new = group.is_new()
            if new is None:
                continue
            self._kept.remove(group)
            if new and group.begin_again(contract.directory_name(group_name)):
                return group
            group.remove()
        return self.create(group_name, resources)

    def keep(self, group: contract.Group) -> bool:
        if not isinstance(group, Group) or len(self._kept) >= MOST_KEPT:
            return False
        self._spares += 1
        if not group.can_wait(self._always) or not group.wait(f"spare-{self._spares}"):
            return False
        self._kept.append(group)
        return True

    def drop_kept(self) -> None:
        while self._kept:
            self._kept.pop().remove()

    def sweep(self, is_alive: Callable[[str], bool]) -> contract.Swept:
        groups: dict[str, dict[str, str]] = {}
        for controller, top in self._tops.items():
            for directory in files.below(top):
                groups.setdefault(os.path.basename(directory), {})[controller] = directory
        swept = contract.Swept()
        deadline = time.monotonic() + files.SECONDS_TO_SWEEP
        for name, directories in groups.items():
            launcher = contract.launcher_of(name)
            if launcher is not None and (launcher in swept.launchers or not is_alive(launcher)):
                swept.launchers.add(launcher)
                try:
                    kill(directories, deadline=deadline)
                    remove(directories.values(), deadline)
                except errors.StepFailed as error:
                    swept.left.append(str(error))
        return swept

    def top(self, controller: str) -> str:
        """Our directory in the hierarchy of a controller."""
        return self._tops[controller]


def _support(tops: dict[str, str], lacks: dict[str, str]) -> dict[str, str]:
    support: dict[str, str] = {}
    for limit, (controller, name) in v1_limits.FILE_OF_LIMIT.items():
        if controller not in tops:
            support[limit] = lacks[controller]
        elif not os.path.exists(f"{tops[controller]}/{name}"):
            switch = BOOT_SWITCH.get(limit, "use a kernel that was built with it")
            support[limit] = f"this kernel has no {name}: {switch}"
        else:
            support[limit] = ""
    support["freeze"] = lacks.get("freezer", "")
    support["usage"] = lacks.get("cpuacct", "") or lacks.get("memory", "")
    return support


def _inherit_cpuset(directory: str) -> None:
    """A new cpuset is empty and takes no process: give it what the one above has. OSError."""
    if not files.read(f"{directory}/cpuset.cpus"):
        above = os.path.dirname(directory)
        _inherit_cpuset(above)
        for name in ("cpuset.mems", "cpuset.cpus"):
            files.write(f"{directory}/{name}", files.read(f"{above}/{name}"))


def kill(
    directories: Mapping[str, str], leaving: int | None = None, deadline: float | None = None
) -> None:
    """SIGKILL everything in these groups of one container and return when they are empty.

    Frozen first, so that nothing forks away between two looks; a frozen process dies when it is
    thawed. Without a freezer the looks go on until one finds nobody. For `leaving` see
    `contract.Group.kill`. Raises StepFailed when somebody is left at the
    deadline (monotonic clock).
    """
    if deadline is None:
        deadline = time.monotonic() + files.SECONDS_TO_EMPTY
    freezer = directories.get("freezer")
    # Who is in any hierarchy is in the freezer, since who comes in begins there.
    places = [freezer] if freezer else list(dict.fromkeys(directories.values()))
    spared = set() if leaving is None else {leaving}
    while left := files.members_of_all(places):
        if left - spared:
            _freeze(freezer, "FROZEN")
            try:
                files.kill_members(places, deadline, spared)
            finally:
                _freeze(freezer, "THAWED")
            left = files.members_of_all(places)
        files.wait_for_end(left - spared, deadline)
        if time.monotonic() > deadline:
            raise errors.StepFailed(
                "kill group",
                places[0],
                "processes in it did not end: look with `ps` for state D",
                errno.EBUSY,
            )


def _freeze(freezer: str | None, state: str) -> None:
    if freezer is not None:
        with contextlib.suppress(FileNotFoundError):
            files.write(f"{freezer}/freezer.state", state)


class Group(contract.Group):
    """One container's groups, one directory for each controller."""

    def __init__(self, driver: Driver, name: str) -> None:
        self._driver = driver
        self._name = name
        self._directories: dict[str, str] = {}
        self._oom: int | None = None
        self._first: dict[str, Any] = {}
        self._has_quota = False
        self.asked: dict[str, Any] = {}
        """The limits that it was made with."""
        self._again: v1_again.Again | None = None
        self._ready: list[int] = []
        """Entrances that are open already."""

    def set_first(self, limits: Mapping[str, Any]) -> None:
        """The limits of a new group. LimitNotEnforceable."""
        self._first = v1_limits.set_new(self._directories, limits)
        self._has_quota = "cpus" in limits

    def join(self, controller: str) -> None:
        """Make this controller's directory, unless the group has it already. OSError."""
        if controller in self._directories:
            return
        top = self._driver.top(controller)
        directory = f"{top}/{self._name}"
        if directory not in self._directories.values():  # else mounted with another controller
            os.mkdir(directory, 0o755)
        self._directories[controller] = directory
        if controller == "cpuset":
            _inherit_cpuset(directory)

    def paths(self) -> dict[str, str]:
        return dict(self._directories)

    def entrances(self) -> list[int]:
        ready, self._ready = self._ready, []
        return ready or entrances(self._directories)

    def can_wait(self, controllers: Iterable[str]) -> bool:
        """Whether it may be as new when all have left it; `controllers` are those of any group."""
        quota = self._has_quota and "cpu" in self._directories  # what was held back stays counted
        usual = [*self._directories] == [*controllers] and {*self._directories} >= v1_again.NEEDED
        if self.touched or quota or not usual or not _is_apart(self._directories):
            return False
        if self._oom is not None:
            try:
                os.eventfd_read(self._oom)
            except BlockingIOError:
                pass
            else:
                return False  # it was at its end of memory
        return True

    def wait(self, name: str) -> bool:
        """Be nobody's for a while, by this name beside the launcher's. False: it can't."""
        if self._again is None:
            in_force = tuple(v1_limits.FILE_OF_LIMIT[limit] for limit in self.asked)
            try:
                self._again = v1_again.Again(self._directories, in_force)
            except (OSError, errors.StepFailed):
                return False
        return self._rename(f"{self._name.partition('.')[0]}.{name}")

    def is_new(self) -> bool | None:
        """See `v1_again.Again`."""
        assert self._again is not None
        return self._again.is_new()

    def begin_again(self, name: str) -> bool:
        """Be the next container's. False: it can't."""
        assert self._again is not None
        if not self._rename(name):
            return False
        ready = self._again.begin()
        self._ready = ready or []
        return ready is not None

    def _rename(self, name: str) -> bool:
        """Give it another name, in each hierarchy or in none. False: in none."""
        assert self._again is not None
        if not self._again.rename(name):
            return False
        self._name = name
        self._directories = {key: f"{self._driver.top(key)}/{name}" for key in self._directories}
        return True

    def limits(self) -> dict[str, Any]:
        return v1_limits.read(self._directories, self._driver.support())

    def first_limits(self) -> dict[str, Any]:
        unset = self._driver.unset
        asked = [limit for limit in contract.LIMITS if limit not in (*self._first, *unset)]
        if asked:
            found = v1_limits.read(self._directories, self._driver.support(), asked)
            unset |= {limit: found[limit] for limit in asked}
        return {**{limit: unset.get(limit) for limit in contract.LIMITS}, **self._first}

    def update(self, resources: Mapping[str, Any]) -> None:
        limits = contract.wanted(resources)
        self.touched = True
        self._driver.require(limits)
        self._has_quota = self._has_quota or "cpus" in limits
        for limit in limits:
            controller = v1_limits.FILE_OF_LIMIT[limit][0]
            if controller not in self._directories:
                self._join_live(controller)
        v1_limits.change(self._directories, limits)

    def _join_live(self, controller: str) -> None:
        """Take the processes that run already into one more hierarchy, none forking away."""
        source = next(iter(self._directories.values()))
        freezer = self._directories.get("freezer")
        self.join(controller)
        _freeze(freezer, "FROZEN")
        try:
            for pid in files.members(source):
                with contextlib.suppress(ProcessLookupError):
                    files.write(f"{self._directories[controller]}/cgroup.procs", str(pid))
        finally:
            _freeze(freezer, "THAWED")

    def usage(self) -> dict[str, int | float | None]:
        held_back = bool(self._has_quota or self._driver.support()["cpus"])  # or never was
        if self._again is None:
            return v1_usage.of(self._directories, held_back=held_back)
        return v1_usage.read(self._again.read_usage(), held_back=held_back)

    def oom_kills(self) -> int:
        return v1_usage.table(self._directories, "memory", "memory.oom_control").get("oom_kill", 0)

    def forks_refused(self) -> int:
        return v1_usage.table(self._directories, "pids", "pids.events").get("max", 0)

    def oom_fd(self) -> int | None:
        directory = self._directories.get("memory")
        if self._oom is None and directory is not None:
            self._oom = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            control = os.open(f"{directory}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
            try:
                files.write(f"{directory}/cgroup.event_control", f"{self._oom} {control}")
            finally:
                os.close(control)
        return self._oom

    def kill(self, leaving: int | None = None) -> None:
        self.touched = True
        kill(self._directories, leaving)

    def thaw(self) -> None:
        if self._again is None:
            _freeze(self._directories.get("freezer"), "THAWED")
        else:
            self._again.thaw()

    def child(self, name: str) -> Run:
        self.touched = True
        return Run(self, name)

    def remove(self) -> None:
        while self._ready:
            os.close(self._ready.pop())
        if self._again is not None:
            self._again.close()
            self._again = None
        if self._oom is not None:
            os.close(self._oom)
            self._oom = None
        remove(self._directories.values())
        self._directories = {}

    def remove_empty(self) -> bool:
        # Who is in any hierarchy is in this one, and groups of runs are below it.
        freezer = self._directories.get("freezer")
        if freezer is None or not files.removed(freezer):
            return False
        self.remove()
        return True


def _is_apart(directories: Mapping[str, str]) -> bool:
    """Whether each controller is mounted by itself: two of a hierarchy have one directory."""
    return len({*directories.values()}) == len(directories)


class Run(contract.Group):
    """The group of one run: below the container's in freezer and cpuacct."""

    def __init__(self, container: Group, name: str) -> None:
        self._container = container
        self._own: dict[str, str] = {}
        paths = container.paths()
        for controller in OF_A_RUN:
            if controller in paths:
                directory = f"{paths[controller]}/{name}"
                if directory not in self._own.values():
                    os.mkdir(directory, 0o755)
                self._own[controller] = directory

    def entrances(self) -> list[int]:
        return entrances({**self._container.paths(), **self._own})

    def limits(self) -> dict[str, Any]:
        return self._container.limits()

    def update(self, resources: Mapping[str, Any]) -> None:
        self._container.update(resources)

    def usage(self) -> dict[str, int | float | None]:
        usage = self._container.usage()
        if "cpuacct" in self._own:
            usage["cpu_seconds"] = int(files.read(f"{self._own['cpuacct']}/cpuacct.usage")) / 1e9
        return usage

    def oom_kills(self) -> int:
        return self._container.oom_kills()

    def forks_refused(self) -> int:
        return self._container.forks_refused()

    def oom_fd(self) -> int | None:
        return self._container.oom_fd()

    def kill(self, leaving: int | None = None) -> None:
        self._container.thaw()  # what is frozen above is frozen here, and would not end
        kill(self._own)

    def thaw(self) -> None:
        self._container.thaw()

    def child(self, name: str) -> contract.Group:
        raise errors.StepFailed("make group", name, "a run has no runs below it")

    def paths(self) -> dict[str, str]:
        return {**self._container.paths(), **self._own}

    def remove(self) -> None:
        remove(self._own.values())
        self._own = {}


def entrances(directories: Mapping[str, str]) -> list[int]:
    """The way into each hierarchy, the freezer first so that `kill` sees who came in. OSError.

    `tasks` moves one thread: only for that does the kernel spare the lock, and pid 1 and a fork
    of it have one.
    """
    return files.open_all(
        [f"{directory}/tasks" for directory in dict.fromkeys(directories.values())]
    )


def remove(directories: Iterable[str], deadline: float | None = None) -> None:
    """Remove the group of each hierarchy. Raises StepFailed, see `files.remove`."""
    if deadline is None:
        deadline = time.monotonic() + files.SECONDS_TO_EMPTY
    for directory in dict.fromkeys(directories):
        files.remove(directory, deadline)
