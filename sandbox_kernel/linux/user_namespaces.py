"""User namespaces: writing id maps, and entering one of one's own as an ordinary user.

Sources: user_namespaces(7), subuid(5), newuidmap(1). Light: the launcher imports it.
"""

from __future__ import annotations

import os
import pwd

from sandbox_kernel.errors import HostLacks
from sandbox_kernel.linux import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

RANGE = 65536
"""As many ids as a container has at most: 0 to 65535."""
HELPER_FOLDERS = ("/usr/bin", "/bin", "/usr/local/bin")
_DIGITS_OF_MAP = "{} {} {}\n"


def write_maps(pid: int, firsts: Sequence[int] | None, count: int) -> None:
    """Map the ids of a new user namespace, `count` for each of `firsts`, which are ids of ours.

    None: `count` ids, each to the same one.
    """
    for name in ("uid_map", "gid_map"):
        text = _same(name, count) if firsts is None else ""
        for index, first in enumerate(firsts or ()):
            text += _DIGITS_OF_MAP.format(index * count, first, count)
        write_map(f"/proc/{pid}/{name}", text)


def _same(name: str, count: int) -> str:
    """A line for each extent of our own map: one line over two of them is refused with EPERM."""
    text = ""
    with open(f"/proc/self/{name}", encoding="ascii") as lines:
        for line in lines:
            ours, _, size = map(int, line.split())
            if ours < count:
                text += _DIGITS_OF_MAP.format(ours, ours, min(size, count - ours))
    return text


def become_root_of_own_namespace() -> int:
    """Enter a user and mount namespace of the launcher's own, as an ordinary user.

    Returns how many ids it has (1 when the user has no ranges). Raises HostLacks where user
    namespaces are switched off, with the switch to turn.
    """
    uid, gid = os.getuid(), os.getgid()
    name, helpers, granted = _granted()
    if not granted:
        _unshare()
        # The kernel's rule for a map written without privilege.
        write_map("/proc/self/setgroups", "deny")
        write_map("/proc/self/uid_map", _DIGITS_OF_MAP.format(0, uid, 1))
        write_map("/proc/self/gid_map", _DIGITS_OF_MAP.format(0, gid, 1))
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


def join(pid: int, alive: Callable[[], bool]) -> int | None:
    """Enter the user namespace of a process of this user, which is root there, and a new mount one.

    Returns how many ids it has; None where that can't be done, or where a new one would have
    others. `alive` says whether the process is still that one: asked when its files are open.
    """
    _, _, granted = _granted()
    try:
        with open(f"/proc/{pid}/uid_map", encoding="ascii") as lines:
            extents = [tuple(map(int, line.split())) for line in lines]
        namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    try:
        ours = os.stat("/proc/self/ns/user")
        wanted = [(0, os.getuid(), 1), *((1, first, count) for first, count in granted[:1])]
        if not alive() or extents != wanted or os.path.samestat(os.fstat(namespace), ours):
            return None
        try:
            processes.setns(namespace, processes.CLONE_NEWUSER)
        except OSError:
            return None
    finally:
        os.close(namespace)
    processes.unshare(processes.CLONE_NEWNS)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    return 1 + min((count for _, count in granted), default=0)


def _granted() -> tuple[str, list[str], list[tuple[int, int]]]:
    """The user's name, the helpers, and the ranges of user and group ids; none: one id only."""
    uid = os.getuid()
    name = pwd.getpwuid(uid).pw_name if _known(uid) else str(uid)
    ranges = [_ranges(f"/etc/{kind}", name, uid) for kind in ("subuid", "subgid")]
    helpers = [_helper(program) for program in ("newuidmap", "newgidmap")]
    granted = [found for found in ranges if found is not None]
    whole = len(granted) == len(ranges) and all(helpers)
    return name, helpers, granted if whole else []


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
        raise refused(error) from error


def refused(error: OSError) -> HostLacks:
    """Why no user namespace was made, and what to do about it."""
    return HostLacks(f"make a user namespace: {os.strerror(error.errno or 0)}: {_switch()}")


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


def write_map(path: str, text: str) -> None:
    """Write a map (or a switch) of a namespace by one write(2). Raises OSError."""
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)
