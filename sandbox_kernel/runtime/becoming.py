"""Single steps of becoming a program in a container: descriptors, limits, accounts, exec.

In which order they have to be taken stands in `payload`, and in `oci.payload`.
"""

from __future__ import annotations

import _struct as struct  # without the module around it, which takes longer to import
import fcntl
import os

from sandbox_kernel.errors import StepFailed
from sandbox_kernel.linux import libc as c
from sandbox_kernel.linux import processes
from sandbox_kernel.runtime import accounts
from sandbox_kernel.runtime.steps import step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

ENOENT = 2
# include/uapi/asm-generic/resource.h, in its order
RLIMITS = {
    name: number
    for number, name in enumerate(
        ("RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_DATA", "RLIMIT_STACK", "RLIMIT_CORE", "RLIMIT_RSS",
         "RLIMIT_NPROC", "RLIMIT_NOFILE", "RLIMIT_MEMLOCK", "RLIMIT_AS", "RLIMIT_LOCKS",
         "RLIMIT_SIGPENDING", "RLIMIT_MSGQUEUE", "RLIMIT_NICE", "RLIMIT_RTPRIO", "RLIMIT_RTTIME")
    )
}  # fmt: skip
RLIM_INFINITY = -1
ALL_BITS = (1 << 64) - 1

_setrlimit = c.libc["setrlimit"]
_setrlimit.argtypes = (c.c_int, c.c_void_p)
_setrlimit.restype = c.c_int


def arrange(descriptors: Mapping[int, int], report: int | None) -> int:
    """Move the declared descriptors to their numbers and close all others.

    Returns the new number of `report`, -1 for none. Absent 0, 1 and 2 become /dev/null.
    """
    with step("arrange", "descriptors"):
        wanted = dict(descriptors)
        null = -1
        for standard in (0, 1, 2):
            if standard not in wanted:
                null = os.open("/dev/null", os.O_RDWR) if null < 0 else null
                wanted[standard] = null
        above = max(wanted) + 1
        moved = {number: _above(ours, above) for number, ours in wanted.items()}
        report = -1 if report is None else _above(report, above)
        for number, ours in moved.items():
            os.dup2(ours, number, inheritable=True)
        processes.close_all_but((*wanted, report) if report >= 0 else tuple(wanted))
    return report


def _above(descriptor: int, least: int) -> int:
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, least)


def set_rlimit(limit: Mapping[str, Any]) -> None:
    """One limit of the OCI process object. Raises StepFailed."""
    name = limit["type"]
    if name not in RLIMITS:
        raise StepFailed("set rlimit", name, "there is no such limit", 22)
    # struct rlimit { unsigned long rlim_cur, rlim_max; }
    wanted = struct.pack("@LL", *(rlimit(limit[each]) & ALL_BITS for each in ("soft", "hard")))
    with step("set rlimit", name):
        c.check(_setrlimit(RLIMITS[name], wanted))


def rlimit(value: int) -> int:
    """A limit as setrlimit(2) takes it."""
    # RLIM_INFINITY is written as 2**64 - 1 in the runtime specification.
    return RLIM_INFINITY if value < 0 or value >= 1 << 63 else value


_may_set_groups: list[bool] = []


def may_set_groups() -> bool:
    """Whether this user namespace allows setgroups(2): not where one id was mapped for itself.

    Asked once: a maker asks while it sees itself in /proc; a container's /proc does not show it.
    """
    if not _may_set_groups:
        _may_set_groups.append(_read_setgroups())
    return _may_set_groups[0]


def _read_setgroups() -> bool:
    file = os.open("/proc/self/setgroups", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(file, 64).strip() == b"allow"
    finally:
        os.close(file)


def identity(user: Mapping[str, Any], *, needs_home: bool) -> tuple[int, int, list[int], str]:
    """uid, gid, further groups and home of the OCI user object.

    `username` may be a name or number with an optional group ("1000", "www:www"). It is looked up
    in the container's own files by a strict parser, never by the name service, whose libraries
    belong to the image (CVE-2019-14271).
    """
    name = str(user.get("username", ""))
    if not name:
        uid, gid = int(user.get("uid", 0)), int(user.get("gid", 0))
        known = (
            accounts.find("/etc/passwd", lambda fields: fields[2] == str(uid))
            if needs_home
            else None
        )
        return uid, gid, list(user.get("additionalGids", ())), known[5] if known else "/"
    person, _, group = name.partition(":")
    fields = accounts.find("/etc/passwd", lambda found: person in (found[0], found[2]))
    groups: list[int] = []
    if fields:
        uid, gid, home = int(fields[2]), int(fields[3]), fields[5]
        groups = [] if group else [gid, *accounts.groups_of(fields[0])]
    elif person.isdecimal():
        uid, gid, home = int(person), 0, "/"
    else:
        raise StepFailed("find user", person, "the image's /etc/passwd has no such user", 22)
    if group:
        found = accounts.find("/etc/group", lambda candidate: group in (candidate[0], candidate[2]))
        if found:
            gid = int(found[2])
        elif group.isdecimal():
            gid = int(group)
        else:
            raise StepFailed("find group", group, "the image's /etc/group has no such group", 22)
    return uid, gid, groups, home


def change_directory(directory: str) -> None:
    """Raises StepFailed, also for one that lies outside of the root."""
    with step("enter directory", directory):
        if directory == "/proc" or directory.startswith("/proc/"):
            raise OSError(22, "a working directory below /proc is refused")
        os.chdir(directory)
        # A directory outside the root shows as "(unreachable)..." (CVE-2024-21626).
        if not os.getcwd().startswith("/"):
            raise OSError(2, "the directory lies outside the container")


def paths_of(name: str, search: str) -> Sequence[str]:
    """Where a program may be: its own path, or each folder of PATH that is absolute."""
    if "/" in name:
        return (name,)
    return [f"{folder}/{name}" for folder in search.split(":") if folder.startswith("/")]


def execute(
    start: Callable[[str, list[str], Mapping[str, str]], int],
    candidates: Sequence[str],
    arguments: list[str],
    environment: Mapping[str, str],
) -> int:
    """Start the first of the paths that can be, by execve(2) or a spawn. Raises StepFailed."""
    failure: OSError | None = None
    for candidate in candidates:
        try:
            return start(candidate, arguments, environment)
        except FileNotFoundError as error:
            failure = failure or error
        except OSError as error:
            failure = error
    errno = failure.errno if failure and failure.errno else ENOENT
    raise StepFailed("execute", arguments[0], os.strerror(errno), errno)
