"""A first process in the namespaces of a configuration: those to join, then those to make.

Where nothing is to be joined, one clone3(2) makes all of them. Else a helper joins first, since who
makes a pid namespace below another must be in that, and its child is a child of ours
(CLONE_PARENT). The control group namespace is made by the child itself, when it is in its group.
"""

from __future__ import annotations

import _signal as signal  # `signal` is the same with enumerations around it, slow to import
import os

from sandbox_kernel.linux import messages, processes
from sandbox_kernel.oci.faults import StepFailed, doing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, NoReturn

    Map = Mapping[str, int]

HELPERS = ("/usr/bin", "/bin")
# The user namespace first: its root has the rights to join the others that belong to it.
ORDER = ("user", "mount", "pid", "network", "ipc", "uts", "cgroup", "time")
WHOLE = ({"containerID": 0, "hostID": 0, "size": 4294967295},)


def namespaces(config: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """Those to join (kind -> path) and the kinds to make."""
    entries = (config.get("linux") or {}).get("namespaces") or ()
    joined = {e["type"]: e["path"] for e in entries if e.get("path")}
    made = [e["type"] for e in entries if not e.get("path")]
    return joined, made


def has_helper(config: Mapping[str, Any]) -> bool:
    """Whether another process has to join namespaces first, which may not see our groups then."""
    joined, made = namespaces(config)
    return bool(joined) or "time" in made


def born(config: Mapping[str, Any], child: Callable[[], NoReturn], group: int | None) -> int:
    """Have `child` run in a new process in its namespaces; returns its pid. Raises StepFailed.

    It has to wait, before it does what needs that, until it is told that its ids are mapped.
    `group` is for who has no helper: see `processes.clone`.
    """
    joined, made = namespaces(config)
    flags = 0
    for kind in made:
        if not processes.has_namespace(kind):
            raise StepFailed("make", f"a {kind} namespace", "this kernel has none: leave it out")
        if kind not in ("cgroup", "time"):
            flags |= processes.FLAG_OF_NAMESPACE[kind]
    offsets = config["linux"].get("timeOffsets")
    if not has_helper(config):
        with doing("make", "namespaces"):
            pid, pidfd = processes.clone(flags, group)
        if pid == 0:
            child()
        os.close(pidfd)
        return pid
    return _born_by_helper(joined, "time" in made, offsets, flags, child)


def _born_by_helper(
    joined: Mapping[str, str],
    has_time: bool,
    offsets: Mapping[str, Any] | None,
    flags: int,
    child: Callable[[], NoReturn],
) -> int:
    ours, theirs = messages.bare_pair()
    opened = [
        (kind, os.open(joined[kind], os.O_RDONLY | os.O_CLOEXEC))
        for kind in ORDER
        if kind in joined
    ]
    helper = os.fork()
    if helper == 0:
        _join_and_bear(theirs, opened, has_time, offsets, flags, child)
    theirs.close()
    for _, descriptor in opened:
        os.close(descriptor)
    received = messages.receive(ours)
    os.waitpid(helper, 0)
    ours.close()
    if received is None or not received[1]:
        why = received[0].get("why") if received else "a helper ended"
        raise StepFailed("enter", "namespaces", str(why))
    pid = processes.pid_of(received[1][0])
    os.close(received[1][0])
    return pid


def _join_and_bear(
    channel: Any,
    opened: Sequence[tuple[str, int]],
    has_time: bool,
    offsets: Mapping[str, Any] | None,
    flags: int,
    child: Callable[[], NoReturn],
) -> NoReturn:
    try:
        for kind, descriptor in opened:
            with doing("join", f"a {kind} namespace"):
                processes.setns(descriptor, processes.FLAG_OF_NAMESPACE[kind])
            os.close(descriptor)
        if has_time:
            with doing("make", "a time namespace"):
                processes.unshare(processes.CLONE_NEWTIME)
                for clock, offset in (offsets or {}).items():
                    line = f"{clock} {offset.get('secs', 0)} {offset.get('nanosecs', 0)}\n"
                    with open("/proc/self/timens_offsets", "w", encoding="utf-8") as file:
                        file.write(line)
        pid, pidfd = processes.clone_sibling(flags)
        if pid == 0:
            channel.close()
            child()
        messages.send(channel, {}, [pidfd])
    except BaseException as error:
        messages.send(channel, {"why": str(error)})
    os._exit(0)


def write_maps(pid: int, config: Mapping[str, Any]) -> None:
    """Give the new user namespace of a process its ids. Raises StepFailed.

    An ordinary user may map himself alone; for more, newuidmap(1) has the word of /etc/subuid.
    """
    linux = config["linux"]
    for kind, field in (("uid", "uidMappings"), ("gid", "gidMappings")):
        lines = linux.get(field) or ()
        with doing(f"map {kind}s of", "the container"):
            _write_map(pid, kind, lines)


def _write_map(pid: int, kind: str, lines: Sequence[Map]) -> None:
    words = [[line["containerID"], line["hostID"], line["size"]] for line in lines]
    own = os.geteuid() if kind == "uid" else os.getegid()
    if os.geteuid() != 0 and not (len(words) == 1 and words[0][1:] == [own, 1]):
        name = f"new{kind}map"
        path = next((f"{f}/{name}" for f in HELPERS if os.access(f"{f}/{name}", os.X_OK)), None)
        if path is None:
            raise OSError(2, f"there is no {name}: apt-get install uidmap")
        argv = [path, str(pid), *(str(word) for line in words for word in line)]
        helper = os.posix_spawn(path, argv, {})
        if status := os.waitstatus_to_exitcode(os.waitpid(helper, 0)[1]):
            raise OSError(1, f"{name} ended with status {status}")
        return
    if kind == "gid" and os.geteuid() != 0:
        with open(f"/proc/{pid}/setgroups", "w", encoding="utf-8") as file:
            file.write("deny")
    with open(f"/proc/{pid}/{kind}_map", "w", encoding="utf-8") as file:
        file.write("".join("{} {} {}\n".format(*line) for line in words))


def mapped_namespace(uids: Sequence[Map], gids: Sequence[Map]) -> int:
    """A user namespace with these maps, as a descriptor, for an id-mapped mount. Raises OSError."""
    pid, pidfd = processes.clone(processes.CLONE_NEWUSER)
    if pid == 0:
        while True:
            signal.pause()
    shown = processes.pid_of(pidfd)  # /proc may be of another pid namespace than ours
    try:
        _write_map(shown, "uid", uids)
        _write_map(shown, "gid", gids)
        return os.open(f"/proc/{shown}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        processes.send_signal(pidfd, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(pidfd)
