"""The control group of a container: `linux.cgroupsPath` and `linux.resources`.

Tables of files on cgroup v1 and v2. Sources: Documentation/admin-guide/cgroup-v1/ and
cgroup-v2.rst, and config-linux.md of the specification for what each field means.
"""

from __future__ import annotations

import os
import time

from sandbox_kernel.linux.mounts import unescape
from sandbox_kernel.oci.faults import StepFailed, doing, wrong
from sandbox_kernel.runtime.cgroups import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

OURS = "sandbox-kernel-oci"
"""The top of what has no absolute `cgroupsPath`, or the beginning of its name if it has none."""
SECONDS_TO_END = 10.0

# Field of `resources` -> file. Those that must be written in an order are written in this one.
V1 = {
    "memory": (
        ("limit", "memory.limit_in_bytes"), ("swap", "memory.memsw.limit_in_bytes"),
        ("reservation", "memory.soft_limit_in_bytes"), ("kernel", "memory.kmem.limit_in_bytes"),
        ("kernelTCP", "memory.kmem.tcp.limit_in_bytes"), ("swappiness", "memory.swappiness"),
        ("disableOOMKiller", "memory.oom_control"),
    ),
    "cpu": (
        ("shares", "cpu.shares"), ("period", "cpu.cfs_period_us"), ("quota", "cpu.cfs_quota_us"),
        ("burst", "cpu.cfs_burst_us"), ("realtimePeriod", "cpu.rt_period_us"),
        ("realtimeRuntime", "cpu.rt_runtime_us"), ("idle", "cpu.idle"),
    ),
    "cpuset": (("cpus", "cpuset.cpus"), ("mems", "cpuset.mems")),
    "pids": (("limit", "pids.max"),),
    "network": (("classID", "net_cls.classid"),),
}  # fmt: skip
CONTROLLER_V1 = {"network": "net_cls", "blockIO": "blkio"}
THROTTLES = {
    "throttleReadBpsDevice": ("blkio.throttle.read_bps_device", "rbps"),
    "throttleWriteBpsDevice": ("blkio.throttle.write_bps_device", "wbps"),
    "throttleReadIOPSDevice": ("blkio.throttle.read_iops_device", "riops"),
    "throttleWriteIOPSDevice": ("blkio.throttle.write_iops_device", "wiops"),
}
ONLY_V1 = (
    ("memory", "swappiness"), ("memory", "disableOOMKiller"), ("cpu", "realtimeRuntime"),
    ("cpu", "realtimePeriod"), ("network", "classID"), ("network", "priorities"),
)  # fmt: skip
KINDS = {"a": "a", "b": "b", "c": "c", "u": "c", "": "a", None: "a"}
# What each container may use, whatever the list of devices says (config-linux.md).
ALWAYS = ("c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm", "c 1:9 rwm", "c 5:0 rwm",
          "c 5:1 rwm", "c 5:2 rwm", "c 136:* rwm", "c *:* m", "b *:* m")  # fmt: skip


def hierarchies() -> tuple[dict[str, str], str | None]:
    """Where they are mounted: v1 by controller or `name=...`, and v2."""
    v1: dict[str, str] = {}
    v2 = None
    known = _controllers()
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            if " - cgroup" not in line:
                continue
            before, _, after = line.rstrip("\n").partition(" - ")
            kind = after.split(" ", 1)[0]
            if kind == "cgroup2":
                v2 = unescape(before.split(" ")[4])
            elif kind == "cgroup":
                place = unescape(before.split(" ")[4])
                words = after.rpartition(" ")[2].split(",")
                named = [word for word in words if word.startswith("name=")]
                for word in [*named, *(word for word in words if word in known)]:
                    v1[word] = place
    return v1, v2


def _controllers() -> set[str]:
    with open("/proc/cgroups", encoding="utf-8") as lines:
        return {line.split("\t", 1)[0] for line in lines if not line.startswith("#")}


class Group:
    """The directories of one container's group: controller to directory; {"": ...} on v2."""

    def __init__(self, directories: Mapping[str, str]) -> None:
        self.directories = dict(directories)

    @classmethod
    def make(cls, path: str | None, name: str, resources: Mapping[str, Any]) -> Group:
        """Make it, with limits in force before a process is in it. Raises StepFailed.

        Who may not make groups at all and asked for no limit has none.
        """
        wanted = path or f"/{OURS}-{name}"  # one group less to make in each hierarchy
        if ".." in wanted.split("/") or ":" in wanted:
            raise wrong("linux.cgroupsPath", wanted, "a path, without `..` and with no slice")
        below = wanted.strip("/") if wanted.startswith("/") else f"{OURS}/{wanted}"
        v1, v2 = hierarchies()
        tops = v1 or ({"": v2} if v2 else {})
        made = cls({controller: f"{top}/{below}" for controller, top in tops.items()})
        try:
            for directory in dict.fromkeys(made.directories.values()):
                _make_all(directory, unified=not v1, cpuset=directory == made.cpuset)
        except OSError as error:
            made.remove()
            if error.errno in (1, 2, 13, 30) and os.geteuid() != 0 and not _asks(resources):
                return cls({})
            why = os.strerror(error.errno or 0)
            raise StepFailed("make cgroup", str(error.filename), why, error.errno or 0) from error
        try:
            made.update(resources)
        except BaseException:
            made.remove()
            raise
        return made

    @property
    def cpuset(self) -> str | None:
        """Where v1 has the processors that it may use."""
        return self.directories.get("cpuset")

    @property
    def unified(self) -> bool:
        """Whether it is on v2."""
        return "" in self.directories

    def update(self, resources: Mapping[str, Any]) -> None:
        """Put limits in force. Raises StepFailed."""
        for directory, name, text in self._files(resources):
            with doing(f"write `{text}` to", f"{directory}/{name}"):
                files.write(f"{directory}/{name}", text)

    def _files(self, resources: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
        if self.unified:
            for name, text in _files_v2(resources):
                yield self.directories[""], name, text
            return
        cpu = resources.get("cpu") or {}
        parts = {**resources, "cpuset": cpu}
        for kind, table in V1.items():
            given = parts.get(kind) or {}
            wanted = [(file, given[field]) for field, file in table if given.get(field) is not None]
            if kind == "memory" and len(wanted) > 1 and self._grows(given):
                wanted[:2] = wanted[1::-1]
            for file, value in wanted:
                text = str(int(value)) if not isinstance(value, str) else value
                text = "max" if file == "pids.max" and int(text) <= 0 else text
                if file != "memory.oom_control" or value:
                    yield self._directory(CONTROLLER_V1.get(kind, kind)), file, text
        yield from self._lists_v1(resources)

    def _lists_v1(self, resources: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
        """What is said of one device, page size or interface at a time."""
        for index, rule in enumerate(resources.get("devices") or ()):
            yield from self._device(index, rule)
        block = resources.get("blockIO") or {}
        if block.get("weight"):
            yield self._directory("blkio"), self._weight_file(), str(block["weight"])
        for each in block.get("weightDevice") or ():
            text = f"{each['major']}:{each['minor']} {_weight(each)}"
            yield self._directory("blkio"), f"{self._weight_file()}_device", text
        for name, text in _rdma(resources):
            yield self._directory("rdma"), name, text
        for field, (file, _) in THROTTLES.items():
            for each in block.get(field) or ():
                text = f"{each['major']}:{each['minor']} {each['rate']}"
                yield self._directory("blkio"), file, text
        for each in resources.get("hugepageLimits") or ():
            file = f"hugetlb.{each['pageSize']}.limit_in_bytes"
            yield self._directory("hugetlb"), file, str(each["limit"])
        for each in (resources.get("network") or {}).get("priorities") or ():
            text = f"{each['name']} {each['priority']}"
            yield self._directory("net_prio"), "net_prio.ifpriomap", text
        if resources.get("unified"):
            raise wrong("linux.resources.unified", "given", "nothing: this machine has cgroup v1")

    def _weight_file(self) -> str:
        there = os.path.exists(f"{self._directory('blkio')}/blkio.bfq.weight")
        return "blkio.bfq.weight" if there else "blkio.weight"

    def _grows(self, given: Mapping[str, Any]) -> bool:
        """Memory and swap together has to be raised first, as it can't be below memory alone."""
        now = files.read_number(f"{self._directory('memory')}/memory.memsw.limit_in_bytes")
        limit, both = given.get("limit") or 0, given.get("swap") or 0
        return now is not None and bool(both) and limit > 0 and (limit > now or limit < 0)

    def _device(self, index: int, rule: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
        directory = self._directory("devices")
        kind = KINDS.get(rule.get("type"), "a")
        numbers = [
            "*" if rule.get(part) in (None, -1) else str(rule[part]) for part in ("major", "minor")
        ]
        text = f"{kind} {':'.join(numbers)} {rule.get('access') or 'rwm'}"
        everything = kind == "a" and numbers == ["*", "*"]
        if everything:
            text = "a"
        yield directory, f"devices.{'allow' if rule.get('allow') else 'deny'}", text
        if everything and not rule.get("allow") and index == 0:
            for each in ALWAYS:
                yield directory, "devices.allow", each

    def _directory(self, controller: str) -> str:
        if not self.directories:
            raise StepFailed(
                "use", controller, "it has no control group: have one handed over to this user"
            )
        if controller not in self.directories:
            raise StepFailed(
                "limit", controller, "this machine has no such controller mounted: leave it out"
            )
        return self.directories[controller]

    def entrances(self) -> list[int]:
        """Descriptors to which a process writes `0` to come in, `files.enter`. Raises StepFailed.

        It has one thread. That it moves itself spares it some milliseconds: `cgroups.contract`.
        """
        file = "cgroup.procs" if self.unified else "tasks"
        directories = dict.fromkeys(self.directories.values())
        with doing("open entrances of cgroup", next(iter(directories), "")):
            return files.open_all([f"{directory}/{file}" for directory in directories])

    def place(self) -> int:
        """Of v2 the descriptor of its directory, for a process to be born in. Raises StepFailed."""
        with doing("open cgroup", self.directories[""]):
            return os.open(self.directories[""], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def members(self) -> list[int]:
        """The processes in it, as our pid namespace numbers them."""
        first = next(iter(self.directories.values()), None)
        return sorted(files.members(first)) if first else []

    def can_freeze(self) -> bool:
        """Whether it can be paused."""
        return self.unified or "freezer" in self.directories

    def freeze(self, wanted: bool) -> None:
        """Pause or go on, and wait until that is so. Raises StepFailed."""
        if self.unified:
            directory = self.directories[""]
            with doing("write", f"{directory}/cgroup.freeze"):
                files.write(f"{directory}/cgroup.freeze", "1" if wanted else "0")
            reached = self.is_frozen
        else:
            directory = self._directory("freezer")
            with doing("write", f"{directory}/freezer.state"):
                files.write(f"{directory}/freezer.state", "FROZEN" if wanted else "THAWED")
            reached = self.is_frozen
        deadline = time.monotonic() + SECONDS_TO_END
        while reached() != wanted:
            if time.monotonic() > deadline:
                raise StepFailed("freeze", directory, "the kernel has not done it in time")
            os.sched_yield()

    def is_frozen(self) -> bool:
        """Whether it is paused."""
        if self.unified:
            return files.read_table(f"{self.directories['']}/cgroup.events").get("frozen") == 1
        if "freezer" not in self.directories:
            return False
        try:
            return files.read(f"{self.directories['freezer']}/freezer.state") == "FROZEN"
        except FileNotFoundError:
            return False

    def kill(self) -> None:
        """SIGKILL to all in it; a paused one goes on, so that they can end."""
        directories = list(dict.fromkeys(self.directories.values()))
        files.kill_members(directories[:1], time.monotonic() + SECONDS_TO_END)
        if self.is_frozen():
            self.freeze(False)

    def remove(self) -> None:
        """Remove what is empty of it. Raises StepFailed when a process does not end."""
        for directory in dict.fromkeys(self.directories.values()):
            files.remove(directory)
            parent = os.path.dirname(directory)
            if os.path.basename(parent) == OURS:
                try:
                    os.rmdir(parent)
                except OSError:
                    continue  # another container is in it


def _weight(given: Mapping[str, Any]) -> int:
    """Of one device. A leaf's weight is of a scheduler that Linux 5.0 took away."""
    if given.get("leafWeight") or not given.get("weight"):
        raise wrong("linux.resources.blockIO.weightDevice", given, "a device and its `weight`")
    return int(given["weight"])


def _rdma(resources: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The same on v1 and v2: Documentation/admin-guide/cgroup-v2.rst, RDMA."""
    for device, limits in (resources.get("rdma") or {}).items():
        words = (("hca_handle", "hcaHandles"), ("hca_object", "hcaObjects"))
        given = [f"{key}={limits[field]}" for key, field in words if limits.get(field) is not None]
        yield "rdma.max", " ".join((device, *given))


def _asks(resources: Mapping[str, Any]) -> bool:
    """Whether a limit is asked for; a list of devices is none to who can make no device."""
    return any(part for name, part in resources.items() if name != "devices")


def _make_all(directory: str, *, unified: bool, cpuset: bool) -> None:
    """A group and those above it that are missing; with what it needs of them to hold processes."""
    if os.path.isdir(directory):
        return
    parent = os.path.dirname(directory)
    _make_all(parent, unified=unified, cpuset=cpuset)
    if unified:
        _delegate(parent)
    files.make(directory)
    for name in ("cpuset.cpus", "cpuset.mems") if cpuset else ():
        path = f"{directory}/{name}"  # of v1: empty in a new group, which then takes nobody
        if not files.read(path):
            files.write(path, files.read(f"{parent}/{name}"))


def _delegate(directory: str) -> None:
    for controller in files.read(f"{directory}/cgroup.controllers").split():
        try:
            files.write(f"{directory}/cgroup.subtree_control", f"+{controller}")
        except OSError:
            continue  # a limit that needs it fails by name


def _files_v2(resources: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The same limits in the words of v2. Raises InvalidOption for one that it has no word for."""
    for part, field in ONLY_V1:
        if (resources.get(part) or {}).get(field):
            raise wrong(f"linux.resources.{part}.{field}", "given", "nothing: cgroup v2 has none")
    yield from _memory_v2(resources.get("memory") or {})
    yield from _cpu_v2(resources.get("cpu") or {})
    if (resources.get("pids") or {}).get("limit") is not None:
        yield "pids.max", _most(resources["pids"]["limit"])
    block = resources.get("blockIO") or {}
    if block.get("weight"):
        yield "io.bfq.weight", str(block["weight"])
    for each in block.get("weightDevice") or ():
        yield "io.bfq.weight", f"{each['major']}:{each['minor']} {_weight(each)}"
    yield from _rdma(resources)
    for field, (_, key) in THROTTLES.items():
        for each in block.get(field) or ():
            yield "io.max", f"{each['major']}:{each['minor']} {key}={each['rate']}"
    for each in resources.get("hugepageLimits") or ():
        yield f"hugetlb.{each['pageSize']}.max", str(each["limit"])
    for name, text in (resources.get("unified") or {}).items():
        if "/" in name or name.startswith("cgroup."):
            raise wrong("linux.resources.unified", name, "the name of a file of a controller")
        yield name, text


def _memory_v2(memory: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if memory.get("limit") is not None:
        yield "memory.max", _most(memory["limit"])
    if memory.get("swap") is not None:
        both, limit = memory["swap"], memory.get("limit")
        if both > 0 and (limit is None or both < limit):
            raise wrong("linux.resources.memory.swap", both, "at least `limit`: it counts both")
        yield "memory.swap.max", "max" if both < 0 else str(both - limit)
    if memory.get("reservation") is not None:
        yield "memory.low", _most(memory["reservation"])


def _cpu_v2(cpu: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if cpu.get("shares"):
        yield "cpu.weight", str(1 + (max(2, min(cpu["shares"], 262144)) - 2) * 9999 // 262142)
    if cpu.get("idle") is not None:
        yield "cpu.idle", str(cpu["idle"])
    if cpu.get("quota") is not None or cpu.get("period"):
        yield "cpu.max", f"{_most(cpu.get('quota') or -1)} {cpu.get('period') or 100000}"
    if cpu.get("burst") is not None:
        yield "cpu.max.burst", str(cpu["burst"])
    for field in ("cpus", "mems"):
        if cpu.get(field):
            yield f"cpuset.{field}", cpu[field]


def _most(value: int) -> str:
    return "max" if value <= 0 else str(value)
