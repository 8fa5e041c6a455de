"""From the maker of a container to the caller's program: the last steps, in the only right order.

Two ways lead there: `spawn` in the thread that made the container, `enter` in a fork.

cgroup       while it has one thread and the id that may enter
session      no terminal of the host (CVE-2017-5226)
descriptors  the declared ones move to their numbers, all others are closed (CVE-2024-21626)
rlimits      while the process may still set them (in a fork)
groups, gid  while it may still change them
uid          then the identity
directory    as the user; it must lie in the new root
capabilities those asked for, in all sets, none by default
no_new_privs no program can give any back
seccomp      last: it forbids what the steps above need
exec
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import resource
import signal

from sandbox_kernel.errors import StepFailed
from sandbox_kernel.linux import capabilities, processes, seccomp_install
from sandbox_kernel.runtime import accounts, building, transfer, trying
from sandbox_kernel.runtime.cgroups import files
from sandbox_kernel.runtime.rootfs import step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, NoReturn

ENOENT = 2
NO_CORE = {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}
NOT_FOUND = 127
NOT_EXECUTABLE = 126


def enter(
    process: Mapping[str, Any],
    descriptors: Mapping[int, int],
    entrances: list[int],
    program: bytes | None,
    report: int,
) -> NoReturn:
    """Become the program. Never returns: on failure it writes why to `report` and ends.

    `process` is the OCI process object; `descriptors` maps numbers inside to ours; `entrances`
    lead into the cgroup of the run; `program` is the seccomp filter, None for no filter; `report`
    closes itself when the program was executed.
    """
    try:
        with step("enter", "the cgroup of the run"):
            files.enter(entrances)
        os.setsid()
        report = _arrange(descriptors, report)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for limit in process.get("rlimits", ()):
            _set_rlimit(limit)
        start = _become(process, program)
        if "transfer" in process:
            order = process["transfer"]
            _server(order["do"]).serve(order)
            os._exit(0)
        _execute(os.execve, *start)
        raise AssertionError("execve returned")
    except StepFailed as error:
        message: dict[str, Any] = {
            "step": error.step,
            "subject": error.subject,
            "why": error.why,
            "errno": error.errno,
        }
    except BaseException as error:  # nothing may return into init's own code
        message = {"step": "enter", "subject": "the container", "why": repr(error), "errno": 0}
    os.write(report, json.dumps(message).encode()[:4000])
    os._exit(status_of(message["errno"]))


def _server(do: str) -> Any:
    """Who does it."""
    return next((room for room in (building, trying) if do in room.DOES), transfer)


def status_of(errno: int) -> int:
    """The exit status of a program that could not be started, as docker and shells have it."""
    return NOT_FOUND if errno == ENOENT else NOT_EXECUTABLE


def can_spawn(process: Mapping[str, Any]) -> bool:
    """Whether `spawn` will do: the limits must be such that the maker can live with them too."""
    return "transfer" not in process and all(
        limit == NO_CORE for limit in process.get("rlimits", ())
    )


def spawn(process: Mapping[str, Any], descriptors: Mapping[int, int], program: bytes | None) -> int:
    """Start the program without a fork of the interpreter; returns its pid. Raises StepFailed.

    For a thread that ends afterwards: it becomes what the program shall be, with descriptors,
    directory, identity, capabilities and filter of its own, which are each thread's own on Linux.
    Then it calls posix_spawn(3), which shares the memory until the program is executed (vfork(2)).
    That spares a fork its page tables and the copies of all pages that Python touches, 2 ms of 8.
    """
    for limit in process.get("rlimits", ()):
        _set_rlimit(limit)  # of the whole process: no thread has its own, children inherit it
    processes.unshare(processes.CLONE_FS | processes.CLONE_FILES)
    _arrange(descriptors, None)
    return _execute(_spawn, *_become(process, program))


def _spawn(path: str, arguments: list[str], environment: Mapping[str, str]) -> int:
    # The thread itself keeps SIGCHLD blocked: it would swallow what its process waits for.
    return os.posix_spawn(path, arguments, environment, setsid=True, setsigmask=())


def _become(
    process: Mapping[str, Any], program: bytes | None
) -> tuple[Sequence[str], list[str], Mapping[str, str]]:
    """Take on what the program shall have; returns what to execute: paths, argv, environment."""
    environment = dict(entry.partition("=")[::2] for entry in process.get("env", ()))
    user = process.get("user", {})
    uid, gid, groups, home = _identity(user, needs_home="HOME" not in environment)
    kept = process.get("capabilities", {})
    with step("drop", "capabilities from the bounding set"):
        capabilities.drop_bounding(capabilities.to_mask(kept.get("bounding", ())))
    if uid and process.get("rootOnly"):
        kept = {}
    with step("set identity", f"{uid}:{gid}"):
        if kept.get("permitted") and uid != 0:
            processes.prctl(processes.PR_SET_KEEPCAPS, 1)
        processes.set_identity(uid, gid, groups if may_set_groups() else None)
    _change_directory(process.get("cwd") or "/")
    capabilities.set_sets(
        **{
            name: capabilities.to_mask(kept.get(name, ()))
            for name in ("effective", "permitted", "inheritable", "ambient")
        }
    )
    processes.prctl(processes.PR_SET_NO_NEW_PRIVS, 1)
    environment.setdefault("HOME", home)
    arguments = process["args"]
    candidates = _candidates(arguments[0], environment.get("PATH", ""))
    if program is not None:
        seccomp_install.install(program)
    return candidates, arguments, environment


def _arrange(descriptors: Mapping[int, int], report: int | None) -> int:
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


def _set_rlimit(limit: Mapping[str, Any]) -> None:
    name = limit["type"]
    with step("set rlimit", name):
        number = getattr(resource, name)
        resource.setrlimit(number, (_rlimit(limit["soft"]), _rlimit(limit["hard"])))


def _rlimit(value: int) -> int:
    # RLIM_INFINITY is written as 2**64 - 1 in the runtime specification.
    return resource.RLIM_INFINITY if value < 0 or value >= 1 << 63 else value


@functools.cache
def may_set_groups() -> bool:
    """Whether this user namespace allows setgroups(2): not where one id was mapped for itself.

    A maker asks while it sees itself in /proc; a container's /proc does not show it.
    """
    file = os.open("/proc/self/setgroups", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(file, 64).strip() == b"allow"
    finally:
        os.close(file)


def _identity(user: Mapping[str, Any], *, needs_home: bool) -> tuple[int, int, list[int], str]:
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


def _change_directory(directory: str) -> None:
    with step("enter directory", directory):
        if directory == "/proc" or directory.startswith("/proc/"):
            raise OSError(22, "a working directory below /proc is refused")
        os.chdir(directory)
        # A directory outside the root shows as "(unreachable)..." (CVE-2024-21626).
        if not os.getcwd().startswith("/"):
            raise OSError(2, "the directory lies outside the container")


def _candidates(name: str, search: str) -> Sequence[str]:
    if "/" in name:
        return (name,)
    return [f"{folder}/{name}" for folder in search.split(":") if folder.startswith("/")]


def _execute(
    start: Callable[[str, list[str], Mapping[str, str]], int],
    candidates: Sequence[str],
    arguments: list[str],
    environment: Mapping[str, str],
) -> int:
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
