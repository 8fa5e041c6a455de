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
Landlock     with `strict`: as root of the container was found, and before the filter
seccomp      last: it forbids what the steps above need; then who is to hear of each call
exec
"""

from __future__ import annotations

import json
import os
import select
import signal

from sandbox_kernel.errors import StepFailed
from sandbox_kernel.linux import capabilities, landlock, processes, seccomp_install, seccomp_notify
from sandbox_kernel.runtime import becoming, building, transfer, trying
from sandbox_kernel.runtime.cgroups import files
from sandbox_kernel.runtime.steps import step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
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
        report = becoming.arrange(descriptors, report)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for limit in process.get("rlimits", ()):
            becoming.set_rlimit(limit)
        start = _become(process, program)
        if "transfer" in process:
            order = process["transfer"]
            _server(order["do"]).serve(order)
            os._exit(0)
        becoming.execute(os.execve, *start)
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
    os.write(report, _in_one_write(message))
    os._exit(status_of(message["errno"]))


def _in_one_write(message: Mapping[str, Any]) -> bytes:
    """As JSON that a pipe takes whole (pipe(7)): a long path or reason is cut, and nothing else."""
    most = select.PIPE_BUF
    while len(text := json.dumps(message).encode()) > select.PIPE_BUF:
        most //= 2
        message = {key: value[:most] if isinstance(value, str) else value
                   for key, value in message.items()}  # fmt: skip
    return text


def _server(do: str) -> Any:
    """Who does it."""
    return next((room for room in (building, trying) if do in room.DOES), transfer)


def status_of(errno: int) -> int:
    """The exit status of a program that could not be started, as docker and shells have it."""
    return NOT_FOUND if errno == ENOENT else NOT_EXECUTABLE


def can_spawn(process: Mapping[str, Any]) -> bool:
    """Whether `spawn` will do: the limits must be such that the maker can live with them too."""
    return not {"transfer", "recorder"} & process.keys() and all(
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
        becoming.set_rlimit(
            limit
        )  # of the whole process: no thread has its own, children inherit it
    processes.unshare(processes.CLONE_FS | processes.CLONE_FILES)
    becoming.arrange(descriptors, None)
    return becoming.execute(_spawn, *_become(process, program))


def _spawn(path: str, arguments: list[str], environment: Mapping[str, str]) -> int:
    # The thread itself keeps SIGCHLD blocked: it would swallow what its process waits for.
    return os.posix_spawn(path, arguments, environment, setsid=True, setsigmask=())


def _become(
    process: Mapping[str, Any], program: bytes | None
) -> tuple[Sequence[str], list[str], Mapping[str, str]]:
    """Take on what the program shall have; returns what to execute: paths, argv, environment."""
    environment = dict(entry.partition("=")[::2] for entry in process.get("env", ()))
    user = process.get("user", {})
    uid, gid, groups, home = becoming.identity(user, needs_home="HOME" not in environment)
    kept = process.get("capabilities", {})
    with step("drop", "capabilities from the bounding set"):
        capabilities.drop_bounding(capabilities.to_mask(kept.get("bounding", ())))
    if uid and process.get("rootOnly"):
        kept = {}
    with step("set identity", f"{uid}:{gid}"):
        if kept.get("permitted") and uid != 0:
            processes.prctl(processes.PR_SET_KEEPCAPS, 1)
        processes.set_identity(uid, gid, groups if becoming.may_set_groups() else None)
    becoming.change_directory(process.get("cwd") or "/")
    capabilities.set_sets(
        **{
            name: capabilities.to_mask(kept.get(name, ()))
            for name in ("effective", "permitted", "inheritable", "ambient")
        }
    )
    with step("set", "no_new_privs"):
        processes.prctl(processes.PR_SET_NO_NEW_PRIVS, 1)
    environment.setdefault("HOME", home)
    arguments = process["args"]
    found = becoming.paths_of(arguments[0], environment.get("PATH", ""))
    # What we do in a container ourselves also goes by descriptors that lead out of its root.
    if "landlock" in process and "transfer" not in process:
        landlock.enter(process["landlock"])
    if program is not None:
        seccomp_install.install(program)
    if "recorder" in process:
        seccomp_notify.report_to(process["recorder"])
    return found, arguments, environment
