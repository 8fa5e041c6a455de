"""cgroup v2: one tree, a group for each container, leaves in it for its init and for each run.

Root's groups are `MOUNT/sandbox-kernel/LAUNCHER.CONTAINER`. An ordinary user's are below the group
that he runs in, when that was delegated to him: by `Delegate=yes` of systemd, or by root who made
`MOUNT/sandbox-kernel/user-UID`, gave it to him and put his shell in. As no group may have both
processes and controllers for groups below ("no internal processes", cgroups(7)), who runs in a
delegated group is moved to a leaf `launcher` of it first.

The leaves have no controllers: limits, and the counters but the time on the CPU, are the
container's. `memory.oom.group` ends the whole container when its memory runs out.
"""

from __future__ import annotations

import errno
import os
import select
import time

from sandbox_kernel import errors
from sandbox_kernel.runtime.cgroups import contract, files, mounted, v2_limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from sandbox_kernel.runtime.cgroups.mounted import Mount

CONTROLLERS = ("memory", "pids", "cpu", "cpuset", "io")
INIT = "init"

LACKS_CONTROLLER = (
    "the {controller} controller is not delegated to `{top}`: "
    "as root write `+{controller}` into `cgroup.subtree_control` of the groups above it"
)


def probe(mount: Mount, parent: str | None) -> tuple[Driver | None, str]:
    """The driver, or None and why there is none: one sentence."""
    if mount.read_only:
        return None, (f"the cgroup mount {mount.directory} is read-only: run where it is writable")
    try:
        top = _place(mount, parent)
        if isinstance(top, _Reason):
            return None, str(top)
        return Driver(top, _enable(top)), ""
    except OSError as error:
        return None, (
            f"the cgroup tree {mount.directory} does not take our groups "
            f"({error.filename or ''} {error.strerror}): {contract.HAND_OVER}"
        )


class _Reason(str):
    """Why there is no place, as one sentence."""


def _place(mount: Mount, parent: str | None) -> str | _Reason:
    """The directory that our groups go below, ready for them. OSError."""
    if parent is not None:
        top = parent if parent.startswith("/") else f"{mount.directory}/{parent}"
        if not os.path.isdir(top):
            _make_with_controllers(mount.directory, top)
        _move_to_leaf(top)
        return top
    if os.geteuid() == 0:
        top = f"{mount.directory}/{contract.TOP}"
        _make_with_controllers(mount.directory, top)
        return top
    own = mounted.own_v2(mount)
    if (
        own is not None
        and own.endswith("/" + contract.LAUNCHER)
        and _is_ours(own[: -len(contract.LAUNCHER) - 1])
    ):
        return own[: -len(contract.LAUNCHER) - 1]
    if own is not None and own != mount.directory and _is_ours(own):
        _move_to_leaf(own)
        return own
    return _Reason(
        f"this process runs in the cgroup `{own}`, which is not delegated to this user: start it "
        "by `systemd-run --user --scope -p Delegate=yes ...`, or " + contract.HAND_OVER
    )


def _is_ours(directory: str) -> bool:
    """Whether we may make groups in it and move processes inside it."""
    files_to_write = ("", "/cgroup.procs", "/cgroup.subtree_control")
    return all(os.access(directory + name, os.W_OK) for name in files_to_write)


def _make_with_controllers(mount: str, top: str) -> None:
    """Make each group on the way from the mount down to `top`, controllers handed on. OSError."""
    here = mount
    for part in top[len(mount) :].strip("/").split("/"):
        _enable(here)
        here = f"{here}/{part}"
        files.make(here)


def _enable(directory: str) -> set[str]:
    """Give the groups below a directory all controllers that it has; returns which it has.

    One that the kernel refuses (cpu while real-time processes run, all of them while the group
    has processes of its own) is left out, and the limits that need it are not supported.
    """
    have = set(files.read(f"{directory}/cgroup.controllers").split()).intersection(CONTROLLERS)
    path = f"{directory}/cgroup.subtree_control"
    on = set(files.read(path).split())
    for controller in sorted(have - on):
        try:
            files.write(path, f"+{controller}")
        except OSError:
            continue
        on.add(controller)
    return on.intersection(CONTROLLERS)


def _move_to_leaf(directory: str) -> None:
    """Move the processes of a delegated group to its leaf `launcher`. OSError."""
    if not files.read(f"{directory}/cgroup.procs"):
        return
    leaf = f"{directory}/{contract.LAUNCHER}"
    files.make(leaf)
    while pids := files.read(f"{directory}/cgroup.procs").split():
        for pid in pids:
            try:
                files.write(f"{leaf}/cgroup.procs", pid)
            except ProcessLookupError:
                continue


class Driver(contract.Driver):
    """Makes groups below one directory that has controllers to hand on."""

    name = "v2"

    def __init__(self, top: str, controllers: set[str]) -> None:
        self.top = top
        self._support = {}
        for limit, (controller, name) in v2_limits.FILE_OF_LIMIT.items():
            if controller not in controllers:
                reason = LACKS_CONTROLLER.format(controller=controller, top=top)
            elif not os.path.exists(f"{top}/{name}"):
                reason = f"this kernel has no {name}: use a kernel that was built with it"
            else:
                reason = ""
            self._support[limit] = reason
        self._support["freeze"] = ""
        self._support["usage"] = self._support["memory"]

    def support(self) -> dict[str, str]:
        return dict(self._support)

    def create(self, group_name: str, resources: Mapping[str, Any]) -> Group:
        limits = contract.wanted(resources)
        self.require(limits)
        directory = f"{self.top}/{contract.directory_name(group_name)}"
        os.mkdir(directory, 0o755)
        group = Group(self, directory)
        try:
            os.mkdir(f"{directory}/{INIT}", 0o755)
            if not self._support["memory"]:
                files.write(f"{directory}/memory.oom.group", "1")
            v2_limits.set_new(directory, limits)
        except BaseException:
            group.remove()
            raise
        return group

    def ways_home(self) -> list[int]:
        mount = mounted.read().v2
        own = mounted.own_v2(mount) if mount else None
        if own is None:
            raise errors.StepFailed("find", "the group of this process", "no mount shows it")
        return files.open_all([f"{own}/cgroup.procs"])

    def sweep(self, is_alive: Callable[[str], bool]) -> contract.Swept:
        swept = contract.Swept()
        deadline = time.monotonic() + files.SECONDS_TO_SWEEP
        for directory in files.below(self.top):
            launcher = contract.launcher_of(directory)
            if launcher is not None and (launcher in swept.launchers or not is_alive(launcher)):
                swept.launchers.add(launcher)
                try:
                    kill(directory, deadline)
                    files.remove(directory, deadline)
                except errors.StepFailed as error:
                    swept.left.append(str(error))
        return swept


def kill(directory: str, deadline: float | None = None) -> None:
    """SIGKILL everything in a group and below it, and return when it is empty.

    Source: cgroup.kill (Linux 5.14) and cgroup.events of cgroup-v2.rst. An older kernel gets the
    signal from us, while the group is frozen. Raises StepFailed when somebody is left at the
    deadline (monotonic clock).
    """
    if deadline is None:
        deadline = time.monotonic() + files.SECONDS_TO_EMPTY
    try:
        files.write(f"{directory}/cgroup.kill", "1")
    except FileNotFoundError:
        if not os.path.isdir(directory):
            return
        files.write(f"{directory}/cgroup.freeze", "1")
        files.kill_members([directory], deadline)
        files.write(f"{directory}/cgroup.freeze", "0")
    events = os.open(f"{directory}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    try:
        poll = select.poll()
        poll.register(events, select.POLLPRI)
        while b"populated 1" in os.pread(events, 4096, 0):
            if (left := deadline - time.monotonic()) <= 0:
                raise errors.StepFailed(
                    "kill group",
                    directory,
                    "processes in it did not end: look with `ps` for state D",
                    errno.EBUSY,
                )
            poll.poll(left * 1000)
    finally:
        os.close(events)


class Group(contract.Group):
    """One container's group, with the leaf `init` for its first processes."""

    def __init__(self, driver: Driver, directory: str) -> None:
        self._driver = driver
        self._directory = directory
        self._oom: int | None = None

    def paths(self) -> dict[str, str]:
        return {"": self._directory}

    def entrances(self) -> list[int]:
        return files.open_all([f"{self._directory}/{INIT}/cgroup.procs"])

    def around(self) -> list[int]:
        """It may be passed through as long as no group below it has controllers."""
        return files.open_all([f"{self._directory}/cgroup.procs"])

    def limits(self) -> dict[str, Any]:
        return v2_limits.read(self._directory)

    def update(self, resources: Mapping[str, Any]) -> None:
        limits = contract.wanted(resources)
        self._driver.require(limits)
        v2_limits.change(self._directory, limits)

    def usage(self) -> dict[str, int | float | None]:
        return usage(self._directory)

    def oom_kills(self) -> int:
        counted = files.read_table(f"{self._directory}/memory.events").get("oom_kill", 0)
        if counted and "memory" in files.read(f"{self._directory}/cgroup.subtree_control").split():
            # Cells in groups of their own are counted here too: not those that they alone ended.
            local = files.read_table(f"{self._directory}/memory.events.local")
            return counted if local.get("oom", 0) else 0
        return counted

    def forks_refused(self) -> int:
        return files.read_table(f"{self._directory}/pids.events").get("max", 0)

    def oom_fd(self) -> int | None:
        if self._oom is None and not self._driver.support()["memory"]:
            from sandbox_kernel.linux import inotify

            self._oom = inotify.watch_modified(f"{self._directory}/memory.events")
        return self._oom

    def kill(self, leaving: int | None = None) -> None:
        kill(self._directory)

    def child(self, name: str) -> Run:
        return Run(self, f"{self._directory}/{name}")

    def remove(self) -> None:
        if self._oom is not None:
            os.close(self._oom)
            self._oom = None
        files.remove(self._directory)


def usage(here: str) -> dict[str, int | float | None]:
    """What the processes of the group in this directory used."""
    cpu = files.read_table(f"{here}/cpu.stat")
    time_used, throttled = cpu.get("usage_usec"), cpu.get("throttled_usec")
    moved = _block_bytes(here)
    return {
        "cpu_seconds": None if time_used is None else time_used / 1e6,
        "memory_bytes": files.read_number(f"{here}/memory.current"),
        "memory_peak_bytes": files.read_number(f"{here}/memory.peak"),
        "pids": files.read_number(f"{here}/pids.current"),
        "pids_peak": files.read_number(f"{here}/pids.peak"),
        "throttled_seconds": None if throttled is None else throttled / 1e6,
        "read_bytes": moved.get("rbytes"),
        "written_bytes": moved.get("wbytes"),
        "oom_kills": files.read_table(f"{here}/memory.events").get("oom_kill"),
    }


def _block_bytes(here: str) -> dict[str, int]:
    """Bytes moved by direction, over all devices. Empty without the io controller."""
    try:
        lines = files.read(f"{here}/io.stat").splitlines()
    except FileNotFoundError:
        return {}
    sums = {"rbytes": 0, "wbytes": 0}
    for line in lines:
        for field in line.split(" ")[1:]:
            key, _, count = field.partition("=")
            if key in sums:
                sums[key] += int(count)
    return sums


class Run(contract.Group):
    """The leaf of one run."""

    def __init__(self, container: Group, directory: str) -> None:
        os.mkdir(directory, 0o755)
        self._container = container
        self._directory = directory

    def entrances(self) -> list[int]:
        return files.open_all([f"{self._directory}/cgroup.procs"])

    def limits(self) -> dict[str, Any]:
        return self._container.limits()

    def update(self, resources: Mapping[str, Any]) -> None:
        self._container.update(resources)

    def usage(self) -> dict[str, int | float | None]:
        own = files.read_table(f"{self._directory}/cpu.stat")["usage_usec"] / 1e6
        return {**self._container.usage(), "cpu_seconds": own}

    def oom_kills(self) -> int:
        return self._container.oom_kills()

    def forks_refused(self) -> int:
        return self._container.forks_refused()

    def oom_fd(self) -> int | None:
        return self._container.oom_fd()

    def kill(self, leaving: int | None = None) -> None:
        kill(self._directory)

    def child(self, name: str) -> contract.Group:
        raise errors.StepFailed("make group", name, "a run has no runs below it")

    def paths(self) -> dict[str, str]:
        return {"": self._directory}

    def remove(self) -> None:
        files.remove(self._directory)
