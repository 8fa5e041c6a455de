"""What the checks read of a process or a container: files of the kernel, and nothing else."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Mapping
from typing import NamedTuple

from sandbox_kernel import errors
from sandbox_kernel.container import Container, finding
from sandbox_kernel.course.checking import Fact, Missing, Variables
from sandbox_kernel.course.texts import Text, same
from sandbox_kernel.linux import waiting

NO_LIMIT = 1 << 60
"""cgroup v1 prints about 2**63 where no limit is set: admin-guide/cgroup-v1/memory.rst."""
LISTENS = "0A"
"""TCP_LISTEN of include/net/tcp_states.h."""
NONE = Text("no limit", "没有上限")
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")


class Value(NamedTuple):
    """A number of the kernel, None where it sets no limit, and the file that it stands in."""

    number: float | None
    source: str

    @property
    def shown(self) -> Text:
        """For the table of a check."""
        return NONE if self.number is None else same(plain(self.number))


def plain(number: float) -> str:
    """As the kernel writes it: whole numbers with all of their digits."""
    return str(int(number)) if number == int(number) else str(number)


class Mount(NamedTuple):
    """A line of /proc/PID/mountinfo: proc_pid_mountinfo(5)."""

    point: str
    flags: tuple[str, ...]
    kind: str
    options: tuple[str, ...]


def missing(name: Text, seen: Text, wanted: Text, source: str) -> Missing:
    """The exception for what is not there to be looked at."""
    return Missing(Fact(name, seen, wanted, False, source))


def container(name: str) -> Container:
    """The live container of this name. Raises Missing."""
    try:
        return finding.find(name)
    except errors.NoSuchContainer:
        raise missing(
            Text(f"container `{name}`", f"容器 `{name}`"),
            Text("not there", "不存在"),
            Text("it lives", "正在运行"),
            "sandbox-kernel ps",
        ) from None


def process(variables: Variables, name: str) -> int:
    """The living process whose number is in this variable of the notebook. Raises Missing."""
    pid = variables.get(name)
    label = Text(f"process `{name}`", f"进程 `{name}`")
    if not isinstance(pid, int) or isinstance(pid, bool) or pid < 1:
        raise missing(
            label,
            Text("no number", "不是编号"),
            Text("the number of a process", "一个进程的编号"),
            f"{name}",
        )
    if not os.path.exists(f"/proc/{pid}") or status(pid).get("State", "Z")[0] in "ZX":
        raise missing(
            label, Text("has ended", "已经结束"), Text("it lives", "还活着"), f"/proc/{pid}"
        )
    return pid


def processes(held: Container) -> list[int]:
    """What runs in a container besides its process 1, as the machine numbers it."""
    own = namespaces(held.pid)["pid"]
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != held.pid:
            try:
                inode = os.stat(f"/proc/{name}/ns/pid").st_ino
            except OSError:  # it ended, or is another user's
                continue
            if inode == own:
                found.append(int(name))
    return found


def wait(pid: int, seconds: float) -> None:
    """So many seconds, or until the process ends."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        waiting.readable(descriptor, seconds)
    finally:
        os.close(descriptor)


def read(path: str) -> str:
    """The text of a file of the kernel. Raises Missing."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError as error:
        why = error.strerror or str(error)
        raise missing(
            same(os.path.basename(path)),
            Text(f"not visible to you: {why}", f"你看不到：{why}"),
            Text("readable", "可以读"),
            path,
        ) from error


def status(pid: int) -> dict[str, str]:
    """/proc/PID/status: proc_pid_status(5)."""
    lines = read(f"/proc/{pid}/status").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def namespaces(pid: int) -> dict[str, int]:
    """The inode of each namespace that a process is in: namespaces(7). Raises Missing."""
    found = {}
    for kind in NAMESPACES:
        path = f"/proc/{pid}/ns/{kind}"
        try:
            found[kind] = os.stat(path).st_ino
        except OSError as error:
            why = error.strerror or str(error)
            raise missing(
                same(f"ns/{kind}"),
                Text(f"not visible to you: {why}", f"你看不到：{why}"),
                Text("readable", "可以读"),
                path,
            ) from error
    return found


def mounts(pid: int) -> list[Mount]:
    """All that a process has mounted."""
    found = []
    for line in read(f"/proc/{pid}/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, (kind, _, options) = before.split(" "), after.split(" ", 2)
        found.append(Mount(fields[4], tuple(fields[5].split(",")), kind, tuple(options.split(","))))
    return found


def device(path: str) -> int:
    """The number of the file system that a file is in. Raises Missing."""
    try:
        return os.stat(path).st_dev
    except OSError as error:
        why = error.strerror or str(error)
        raise missing(same(path), same(why), Text("readable", "可以读"), path) from error


# -- networks: the tables of a network namespace, by any process in it ---------------------------


def links(pid: int) -> list[str]:
    """The names of its links: proc_pid_net(5)."""
    lines = read(f"/proc/{pid}/net/dev").splitlines()[2:]
    return [line.partition(":")[0].strip() for line in lines]


def listeners(pid: int) -> list[tuple[str, int]]:
    """Address and port of each TCP socket that listens: networking/proc_net_tcp.rst."""
    found = []
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        path = f"/proc/{pid}/net/{name}"
        if not os.path.exists(path):  # a kernel without IPv6
            continue
        for line in read(path).splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENS:
                address, port = fields[1].split(":")
                words = struct.unpack(f">{len(address) // 8}I", bytes.fromhex(address))
                packed = struct.pack(f"={len(words)}I", *words)  # each word in the machine's order
                found.append((socket.inet_ntop(family, packed), int(port, 16)))
    return found


# -- control groups: admin-guide/cgroup-v2.rst, and cgroup-v1/ beside it --------------------------


def memory_limit(paths: Mapping[str, str]) -> Value:
    """Bytes."""
    return _limit(_file(paths, "memory.max", "memory", "memory.limit_in_bytes"))


def processes_limit(paths: Mapping[str, str]) -> Value:
    """Processes and threads."""
    return _limit(_file(paths, "pids.max", "pids", "pids.max"))


def processor_limit(paths: Mapping[str, str]) -> Value:
    """Processors: the quota in each period, divided by the period."""
    if "" in paths:
        path = f"{paths['']}/cpu.max"
        quota, period = read(path).split()
        return Value(None if quota == "max" else int(quota) / int(period), path)
    path = _file(paths, "", "cpu", "cpu.cfs_quota_us")
    given = int(read(path))
    length = int(read(_file(paths, "", "cpu", "cpu.cfs_period_us")))
    return Value(None if given < 0 else given / length, path)


def throttled(paths: Mapping[str, str]) -> Value:
    """In how many periods the group had used up its quota and had to wait."""
    path = _file(paths, "cpu.stat", "cpu", "cpu.stat")
    table = dict(line.split() for line in read(path).splitlines())
    return Value(int(table.get("nr_throttled", 0)), path)


def _file(paths: Mapping[str, str], v2: str, controller: str, v1: str) -> str:
    """The file of a group, whichever version it is. Raises Missing."""
    if "" in paths:
        return f"{paths['']}/{v2}"
    if controller in paths:
        return f"{paths[controller]}/{v1}"
    raise missing(
        Text(f"control group of `{controller}`", f"控制器 `{controller}` 的控制组"),
        Text("none", "没有"),
        Text("one with a limit", "有上限的控制组"),
        "sandbox-kernel doctor",
    )


def _limit(path: str) -> Value:
    text = read(path).strip()
    number = None if text == "max" else int(text)
    return Value(None if number is None or number >= NO_LIMIT else number, path)
