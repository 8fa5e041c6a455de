"""Pid 1 of a container: lays the container out, then forks what it is told to, reaps, and holds.

It is a fork of the launcher and executes no program of its own. Nothing in the container can
look into it: it is not dumpable, so /proc/1/{mem,root,exe,fd} are closed to the same user id, and
signals from inside do not reach a pid 1 that has no handler for them (pid_namespaces(7)). It ends
when the launcher ends, by two independent ways: the parent-death signal, and the end of its
channel; with it ends every process of the pid namespace.

Messages to the launcher (`at`): ready (with `run`: forked, too), failed, forked, moved, exited,
orphan (in a nest, see `templates`: who ended was none of its runs). From the launcher: first all
that the container consists of, then runs and cells (`do`: run, move).
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import sys

from sandbox_kernel.errors import SandboxError, StepFailed
from sandbox_kernel.linux import capabilities, interfaces, messages, processes
from sandbox_kernel.runtime import payload, rootfs
from sandbox_kernel.runtime.cgroups import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any, NoReturn

    Run = tuple[int, int]  # number of the run, report descriptor


# What Python and the launcher gave handlers to, or ignore.
HANDLED = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ)


def be_init(channel: socket.socket, order: Mapping[str, Any]) -> NoReturn:
    """Be pid 1 until the launcher lets go. Never returns.

    Of the descriptors of the launcher only the channel is kept.
    """
    status = 1
    gc.disable()
    sys.meta_path.clear()  # from here on an import would run the image's code
    try:
        processes.end_with_parent()
        processes.close_all_but((channel.fileno(),))
        for number in HANDLED:
            signal.signal(number, signal.SIG_DFL)
        # What needs no identity is done while the launcher makes the rest.
        _name_and_drop(order)
        trees, entrances, descriptors = _receive_all(channel)
        with rootfs.step("enter", "the cgroup"):
            files.enter(entrances)
        writable = _make_container(order, trees)
        _hold(channel, order, descriptors, writable)
        status = 0
    except SandboxError as error:
        _say_failed(channel, error)
    except BaseException as error:  # a fork must never run on into the launcher's loop
        _say_failed(channel, StepFailed("make", "the container", repr(error)))
    os._exit(status)


def _name_and_drop(order: Mapping[str, Any]) -> None:
    with rootfs.step("set hostname", order["hostname"]):
        socket.sethostname(order["hostname"])
    if order["network_namespace"]:
        with rootfs.step("bring up", "lo"):
            interfaces.switch_on_loopback()
    with rootfs.step("drop", "capabilities from the bounding set"):
        capabilities.drop_bounding(order["bounding"])


def _receive_all(channel: socket.socket) -> tuple[dict[str, int], list[int], dict[int, int]]:
    """Waits until the launcher lets go: trees, entrances of the cgroup, and descriptors."""
    said = messages.receive(channel)
    if said is None:
        os._exit(1)
    message, given = said
    names, count = message["trees"], len(message["trees"])
    trees = dict(zip(names, given, strict=False))
    entrances = given[count : count + message["entrances"]]
    rest = given[count + message["entrances"] :]
    return trees, entrances, dict(zip(message["numbers"], rest, strict=True))


def _say_failed(channel: socket.socket, error: SandboxError) -> None:
    message: dict[str, Any] = {"at": "failed", "step": "make", "subject": "", "why": str(error)}
    if isinstance(error, StepFailed):
        message.update(step=error.step, subject=error.subject, why=error.why, errno=error.errno)
    try:
        messages.send(channel, message)
    except OSError:
        pass  # nobody is left to hear it; the end of this process says the rest


def _make_container(order: Mapping[str, Any], trees: dict[str, int]) -> int:
    """Become its root and lay it out. Returns a descriptor of the writable layer."""
    with rootfs.step("become", "root of the user namespace"):
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    # A change of identity clears the parent-death signal and may set dumpable again.
    processes.end_with_parent()
    processes.prctl(processes.PR_SET_DUMPABLE, 0)
    if order["cgroup_namespace"]:
        with rootfs.step("unshare", "the cgroup namespace"):
            # Only now, inside its own group, so that this group is the root that is seen.
            processes.unshare(processes.CLONE_NEWCGROUP)
    writable = rootfs.lay_out(order, trees)
    for tree in ("null", "empty"):
        os.close(trees[tree])
    processes.set_name("sandbox-init")
    processes.set_command_line("sandbox-init")  # the launcher's, which it was, has a host's path
    return writable


def _hold(
    channel: socket.socket, order: Mapping[str, Any], descriptors: dict[int, int], writable: int
) -> None:
    runs: dict[int, Run] = {}
    program: bytes | None = order["program"]
    children = processes.child_signal_descriptor()
    # That it is ready and that its process runs is one message: each wakes two others up.
    ready_message: dict[str, Any] = {"at": "ready"}
    namespaces = _own_namespaces(order["kinds"]) if order.get("wants_namespaces") else {}
    ready_message["namespaces"] = list(namespaces)
    given = (writable, *namespaces.values())
    if order.get("process"):
        _start(channel, runs, 0, order["process"], descriptors, [], program, ready_message, given)
    else:
        messages.send(channel, ready_message, given)
    for descriptor in given:
        os.close(descriptor)
    _serve(channel, runs, children, program, tells_orphans=bool(order.get("nest")))


def be_agent(channel: socket.socket, program: bytes | None) -> None:
    """Fork and reap runs for a pid 1 that can't, until the launcher lets go (see `maker`)."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _serve(channel, {}, processes.child_signal_descriptor(), program, tells_orphans=False)


def _serve(
    channel: socket.socket,
    runs: dict[int, Run],
    children: int,
    program: bytes | None,
    *,
    tells_orphans: bool,
) -> None:
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    poll.register(children, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in poll.poll()}
        if children in ready:
            os.read(children, 4096)
            _reap(channel, runs, tells_orphans=tells_orphans)
        if channel.fileno() in ready:
            received = messages.receive(channel)
            if received is None:
                return
            message, passed = received
            if message["do"] == "move":
                _move(channel, message, passed)
                continue
            count = len(message["numbers"])
            numbers = dict(zip(message["numbers"], passed[:count], strict=True))
            entrances = passed[count:]
            run, process = message["run"], message["process"]
            _start(channel, runs, run, process, numbers, entrances, program)


def _start(
    channel: socket.socket,
    runs: dict[int, Run],
    number: int,
    process: Mapping[str, Any],
    descriptors: dict[int, int],
    entrances: list[int],
    program: bytes | None,
    first: Mapping[str, Any] | None = None,
    given: tuple[int, ...] = (),
) -> None:
    """Start one run, which moves itself into its own cgroup first. Closes its descriptors.

    With the message about it goes what `first` says, and what is `given` with that.
    """
    report, report_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not entrances and payload.can_spawn(process):
            pid = payload.spawn(process, descriptors, program)
        else:
            with rootfs.step("fork", process["args"][0]):
                pid = os.fork()
            if pid == 0:
                payload.enter(process, descriptors, entrances, program, report_end)
    except StepFailed as error:
        os.close(report)
        if first:
            messages.send(channel, dict(first), given)
        messages.send(
            channel,
            {
                "at": "exited",
                "run": number,
                "failure": {
                    "step": error.step,
                    "subject": error.subject,
                    "why": error.why,
                    "errno": error.errno,
                },
                "status": payload.status_of(error.errno),
            },
        )
    else:
        pidfd = processes.pidfd_open(pid)
        runs[pid] = (number, report)
        message = {"at": "forked", "run": number, **(first or {})}
        messages.send(channel, message, (*given, pidfd))
        os.close(pidfd)
    for descriptor in (*descriptors.values(), *entrances, report_end):
        os.close(descriptor)
    descriptors.clear()


def _move(channel: socket.socket, message: Mapping[str, Any], entrances: list[int]) -> None:
    """Put a process of this pid namespace, and of no other, into the control group of a cell."""
    why = ""
    for entrance in entrances:
        try:
            os.write(entrance, str(message["pid"]).encode())
        except OSError as error:
            why = why or os.strerror(error.errno or 0)
        os.close(entrance)
    messages.send(channel, {"at": "moved", "cell": message["cell"], "why": why})


def _reap(channel: socket.socket, runs: dict[int, Run], *, tells_orphans: bool) -> None:
    while True:
        try:
            pid, state = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        if pid not in runs:
            if tells_orphans:  # children of a template, that are inside their containers
                messages.send(channel, {"at": "orphan", "pid": pid, **_ended(state)})
            continue  # an orphan of some run
        number, report = runs.pop(pid)
        message: dict[str, Any] = {"at": "exited", "run": number}
        try:
            said = os.read(report, 4096)
        except BlockingIOError:
            said = b""
        os.close(report)
        if said:
            message["failure"] = json.loads(said)
        messages.send(channel, {**message, **_ended(state)})


def _ended(state: int) -> dict[str, int]:
    """What wait(2) said."""
    if os.WIFSIGNALED(state):
        return {"signal": os.WTERMSIG(state)}
    return {"status": os.WEXITSTATUS(state)}


def _own_namespaces(kinds: Iterable[str]) -> dict[str, int]:
    """Descriptors of the namespaces that this process is in. Nobody else may open them."""
    return {kind: processes.own_namespace(kind) for kind in kinds}
