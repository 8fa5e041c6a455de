"""User and group ids: which ids of the host a container's ids are.

    as root           each container has its own range of 65536 ids, leased from a reserve
    ordinary user     the launcher enters a user namespace of its own once: the user is root there,
                      and 1.. are the ranges of /etc/subuid, written by newuidmap(1). Each
                      container's user namespace is a child of it, with the same ids.
    no ranges         the same, with the one id that may always be mapped

So a container never has an id of the host that is of use there, and making one needs no helper
program. Sources: user_namespaces(7), subuid(5), newuidmap(1).
"""

from __future__ import annotations

import fcntl
import os
import pwd
import signal

from sandbox_kernel.errors import HostLacks
from sandbox_kernel.linux import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

RANGE = 65536
# Above the ranges that /etc/subuid and systemd-nspawn hand out (systemd, UIDS-GIDS.md: 524288 to
# 1879048191), below 2**31, where old programs start to see negative numbers.
FIRST = 0x70000000
RANGES_IN_BLOCK = 16
BLOCKS = 255
HELPER_FOLDERS = ("/usr/bin", "/bin", "/usr/local/bin")
DIGITS_OF_MAP = "{} {} {}\n"


class Reserve:
    """The ranges of ids that root's containers get, leased in blocks by file locks.

    A block belongs to the process that holds the lock of its file; the kernel gives the lock back
    when that process ends, however it ends.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._locks: list[int] = []
        self._free: list[int] = []

    def take(self) -> int:
        """The first host id of a free range. Raises HostLacks when all are in use."""
        if not self._free:
            self._lease_block()
        return self._free.pop()

    def give_back(self, first: int) -> None:
        """The last process of that container is gone: its range may be used again."""
        self._free.append(first)

    def _lease_block(self) -> None:
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        start = os.getpid() % BLOCKS
        for step in range(BLOCKS):
            block = (start + step) % BLOCKS
            lock = os.open(f"{self._folder}/{block}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                continue
            self._locks.append(lock)
            first = FIRST + block * RANGES_IN_BLOCK * RANGE
            self._free.extend(first + index * RANGE for index in range(RANGES_IN_BLOCK))
            return
        raise HostLacks(
            f"lease ids for a container: all {BLOCKS * RANGES_IN_BLOCK} ranges are in use: "
            "end some containers (`sandbox-kernel ps`)"
        )


def write_maps(pid: int, firsts: Sequence[int] | None, count: int) -> None:
    """Map the ids of a new user namespace, `count` for each of `firsts`, which are ids of ours.

    None: `count` ids, each to the same one.
    """
    for name in ("uid_map", "gid_map"):
        text = _same(name, count) if firsts is None else ""
        for index, first in enumerate(firsts or ()):
            text += DIGITS_OF_MAP.format(index * count, first, count)
        _write(f"/proc/{pid}/{name}", text)


def _same(name: str, count: int) -> str:
    """A line for each extent of our own map: one line over two of them is refused with EPERM."""
    text = ""
    with open(f"/proc/self/{name}", encoding="ascii") as lines:
        for line in lines:
            ours, _, size = map(int, line.split())
            if ours < count:
                text += DIGITS_OF_MAP.format(ours, ours, min(size, count - ours))
    return text


def user_namespace(firsts: Sequence[int] | None, count: int) -> int:
    """A new user namespace, a child of ours, with maps as `write_maps` has them: a descriptor.

    The process that makes it ends at once. Raises OSError.
    """
    return _made(lambda pid: write_maps(pid, firsts, count))


def namespace_of(extent: tuple[int, int, int], groups: tuple[int, int, int]) -> int:
    """A user namespace with one id map, as a descriptor, for an id-mapped mount.

    Each extent is (id on disk, id shown, count). The process that makes it ends at once.
    """

    def write(pid: int) -> None:
        _write(f"/proc/{pid}/uid_map", DIGITS_OF_MAP.format(*extent))
        _write(f"/proc/{pid}/gid_map", DIGITS_OF_MAP.format(*groups))

    return _made(write)


def _made(write: Callable[[int], None]) -> int:
    pid, pidfd = processes.clone(processes.CLONE_NEWUSER)
    if pid == 0:
        while True:
            signal.pause()
    try:
        write(pid)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        processes.send_signal(pidfd, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(pidfd)


def become_root_of_own_namespace() -> int:
    """Enter a user and mount namespace of the launcher's own, as an ordinary user.

    Returns how many ids it has (1 when the user has no ranges). Raises HostLacks where user
    namespaces are switched off, with the switch to turn.
    """
    uid, gid = os.getuid(), os.getgid()
    name = pwd.getpwuid(uid).pw_name if _known(uid) else str(uid)
    ranges = [_ranges(f"/etc/{kind}", name, uid) for kind in ("subuid", "subgid")]
    helpers = [_helper(program) for program in ("newuidmap", "newgidmap")]
    granted = [found for found in ranges if found is not None]
    if len(granted) < len(ranges) or not all(helpers):
        _unshare()
        # The kernel's rule for a map written without privilege.
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", DIGITS_OF_MAP.format(0, uid, 1))
        _write("/proc/self/gid_map", DIGITS_OF_MAP.format(0, gid, 1))
        return 1
    launcher = os.getpid()
    ready, go = os.pipe2(os.O_CLOEXEC)
    children = []
    for helper, own, (first, count) in zip(helpers, (uid, gid), granted, strict=True):
        child = os.fork()
        if child == 0:
            os.close(go)
            os.read(ready, 1)
            try:
                os.execve(
                    helper,
                    [helper, str(launcher), "0", str(own), "1", "1", str(first), str(count)],
                    {"PATH": "/usr/bin:/bin"},
                )
            finally:
                os._exit(126)
        children.append((helper, child))
    os.close(ready)
    _unshare()
    os.close(go)
    for helper, child in children:
        _, state = os.waitpid(child, 0)
        if state:
            raise HostLacks(
                f"map ids by `{helper}`: it refused the ranges of `{name}` in /etc/subuid and "
                f"/etc/subgid: give new ones, as root: usermod --add-subuids 100000-165535 "
                f"--add-subgids 100000-165535 {name}"
            )
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    return 1 + min(count for _, count in granted)


def _known(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _unshare() -> None:
    try:
        processes.unshare(processes.CLONE_NEWUSER | processes.CLONE_NEWNS)
    except OSError as error:
        raise HostLacks(
            f"make a user namespace: {os.strerror(error.errno or 0)}: {_switch()}"
        ) from error


# Sysctls that forbid user namespaces to ordinary users, the value that does, and the way out.
_SWITCHES = (
    ("/proc/sys/user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=15000"),
    (
        "/proc/sys/kernel/unprivileged_userns_clone",
        "0",
        "sysctl -w kernel.unprivileged_userns_clone=1",
    ),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
    ),
)


def _switch() -> str:
    for path, forbids, remedy in _SWITCHES:
        try:
            with open(path, encoding="ascii") as file:
                value = file.read().strip()
        except OSError:
            continue
        if value == forbids:
            return f"{path} is {value}: as root: {remedy}"
    return "a filter around this process may forbid it: run it outside that container or service"


def _helper(program: str) -> str:
    """The absolute path of a setuid helper from a fixed list of folders, "" if there is none."""
    for folder in HELPER_FOLDERS:
        path = f"{folder}/{program}"
        if os.access(path, os.X_OK):
            return path
    return ""


def _ranges(path: str, name: str, uid: int) -> tuple[int, int] | None:
    """The largest range of ids that an account may map (subuid(5)): (first, count)."""
    best: tuple[int, int] | None = None
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read(1 << 20).splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split(":")
        if len(fields) == 3 and fields[0] in (name, str(uid)):
            try:
                first, count = int(fields[1]), int(fields[2])
            except ValueError:
                continue
            if best is None or count > best[1]:
                best = (first, min(count, RANGE - 1))
    return best


def _write(path: str, text: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)
