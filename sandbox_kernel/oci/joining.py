"""`exec`: one more process in a container that runs."""

from __future__ import annotations

import os
import sys

from sandbox_kernel import plain_json
from sandbox_kernel.linux import messages, processes
from sandbox_kernel.oci import creating, document, payload, state
from sandbox_kernel.oci.faults import StepFailed, doing
from sandbox_kernel.oci.groups import Group
from sandbox_kernel.runtime.cgroups import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Mapping, Sequence
    from typing import Any, NoReturn

ORDER = ("user", "ipc", "uts", "network", "cgroup", "time", "pid", "mount")


def process_of(
    config: Mapping[str, Any],
    file: str | None,
    arguments: Sequence[str],
    changes: Mapping[str, Any],
) -> dict[str, Any]:
    """The process to run: of a file, or the container's own with other words. Raises SandboxError.

    `changes`: cwd, env, user, terminal, capabilities and the like, as options gave them.
    """
    if file is not None:
        with doing("read", file), open(file, "rb") as opened:
            try:
                process: dict[str, Any] = plain_json.read(opened.read())
            except ValueError as error:
                raise StepFailed("read", file, f"it is no JSON: {error}") from error
    else:
        base = config.get("process") or {}
        process = {**base, "args": list(arguments), "terminal": False}
        process.update({key: value for key, value in changes.items() if key in _PLAIN})
        process["env"] = [*(base.get("env") or ()), *changes.get("env", ())]
        if user := changes.get("user"):
            uid, _, gid = str(user).partition(":")
            given = {**(base.get("user") or {}), "uid": int(uid)}
            process["user"] = {**given, "gid": int(gid)} if gid else given
        for name in changes.get("capabilities", ()):
            held = {**(process.get("capabilities") or {})}
            for kind in ("bounding", "effective", "permitted"):
                held[kind] = [*(held.get(kind) or ()), name]
            process["capabilities"] = held
    document.check_process(process)
    return process


_PLAIN = ("cwd", "terminal", "apparmorProfile", "selinuxLabel", "noNewPrivileges")


def start(
    wish: creating.Wish,
    known: Mapping[str, Any],
    config: Mapping[str, Any],
    process: Mapping[str, Any],
) -> int:
    """Start it; returns its pid, of a child of ours. Raises SandboxError."""
    if not state.lives(known):
        raise StepFailed("exec in", wish.name, "the container is not running", 3)
    linux = config.get("linux") or {}
    filter_ = payload.filter_of(linux)
    console = creating.connected(wish.console_socket) if wish.console_socket else None
    opened = _namespaces(known["pid"])
    ours, theirs = messages.bare_pair()
    helper = os.fork()
    if helper == 0:
        _join(wish, ours, theirs, opened, known, linux, process, filter_, console)
    theirs.close()
    for _, descriptor in opened:
        os.close(descriptor)
    pid = 0
    try:
        received = messages.receive(ours)
        os.waitpid(helper, 0)
        if received is None or not received[1]:
            raise _failure(received)
        pid = processes.pid_of(received[1][0])
        os.close(received[1][0])
        shown = creating.spoken(known, "running")
        creating.wait_executed(ours, config, shown, pid)
    except BaseException:
        if pid > 0:
            creating.end(pid)
        raise
    finally:
        ours.close()
    if wish.pid_file:
        creating.write_pid(wish.pid_file, pid)
    return pid


def _failure(received: tuple[dict[str, Any], list[int]] | None) -> StepFailed:
    if received is None:
        return StepFailed("exec in", "the container", "a helper ended")
    told = received[0]
    return StepFailed(told["step"], told["subject"], told["why"], told["errno"])


def _namespaces(pid: int) -> list[tuple[str, int]]:
    """Those of the container that are not ours. Raises StepFailed."""
    found = []
    for kind in ORDER:
        path = f"ns/{processes.FILE_OF_NAMESPACE[kind]}"
        with doing("open", f"its {kind} namespace"):
            try:
                descriptor = os.open(f"/proc/{pid}/{path}", os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # of a kind that this kernel lacks
            if os.path.samestat(os.fstat(descriptor), os.stat(f"/proc/self/{path}")):
                os.close(descriptor)
            else:
                found.append((kind, descriptor))
    return found


def _join(
    wish: creating.Wish,
    outer: socket,
    channel: socket,
    opened: Sequence[tuple[str, int]],
    known: Mapping[str, Any],
    linux: Mapping[str, Any],
    process: Mapping[str, Any],
    filter_: payload.Filter | None,
    console: socket | None,
) -> NoReturn:
    """In a helper: join all, and have a sibling of it become the process."""
    outer.close()
    try:
        entrances = Group(known["groups"]).entrances()
        with doing("enter", "its cgroup"):
            files.enter(entrances)
        payload.set_oom_score(os.getpid(), process)  # who is born of us has the same
        proc = _open_proc(process)
        sys.meta_path.clear()  # an import from here on would run the container's code
        # Else a process inside could open our interpreter by /proc/PID/exe (CVE-2019-5736).
        processes.prctl(processes.PR_SET_DUMPABLE, 0)
        sets_groups = True
        has_user = any(kind == "user" for kind, _ in opened)
        for kind, descriptor in opened:
            with doing("join", f"its {kind} namespace"):
                processes.setns(descriptor, processes.FLAG_OF_NAMESPACE[kind])
            os.close(descriptor)
            if kind == "user":  # and not yet in its mount namespace
                sets_groups = payload.may_set_groups()
        born, told = os.pipe2(os.O_CLOEXEC)
        pid, pidfd = processes.clone_sibling(0)
        if pid:
            messages.send(channel, {}, [pidfd])
            os._exit(0)
        os.close(told)
        os.read(born, 1)  # both have the channel, and what comes first is who was born
        os.close(born)
        os.setsid()
        if has_user:
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            processes.prctl(processes.PR_SET_DUMPABLE, 0)
        if process.get("terminal"):
            os.close(payload.open_terminal(process, console))
        payload.become(
            process, linux, filter_, preserved=wish.preserved, keep=channel.fileno(),
            proc=_better(proc), sets_groups=sets_groups,
        )  # fmt: skip
    except BaseException as error:
        messages.send(channel, {"at": "failed", **creating.told(error)})
    os._exit(1)


def _open_proc(process: Mapping[str, Any]) -> int | None:
    """The machine's proc, while it is here, for who has to write there."""
    if not payload.writes_about_us(process):
        return None
    from sandbox_kernel.linux import procfs

    with doing("open", "/proc"):
        return procfs.of_the_machine()


def _better(proc: int | None) -> int | None:
    """One of the container's pid namespace, which shows nothing of the machine, where it may be."""
    if proc is None:
        return None
    from sandbox_kernel.linux import procfs

    try:
        better = procfs.own()
    except OSError:
        return proc
    os.close(proc)
    return better
