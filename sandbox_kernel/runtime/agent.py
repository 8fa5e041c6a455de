"""The agent of a container: forks the runs that come after the first, reaps them, tells of them.

Pid 1 of a container can do nothing but hold it (see `maker`). When somebody wants one more process
in it, the maker of its slot forks an agent that joins its namespaces and its control group. Nothing
in the container sees it: it gives the pid namespace to its children and is not in it itself. It
ends when the launcher lets go of its channel.

Messages to the launcher (`at`): forked, moved, exited, orphan (to one that `adopts`, as in a nest:
who ended was none of its runs). From the launcher (`do`): run, move.
"""

from __future__ import annotations

import errno
import json
import os
import select
import socket

from sandbox_kernel.linux import messages, processes
from sandbox_kernel.runtime import payload
from sandbox_kernel.runtime.rootfs import told
from sandbox_kernel.runtime.steps import step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    Run = tuple[int, int]  # number of the run, report descriptor


def serve(channel: socket.socket, program: bytes | None, *, adopts: bool) -> None:
    """Be the agent until the launcher lets go. `program` is the filter of the runs.

    With `adopts`, who loses its parent is a child of the agent from then on.
    """
    processes.set_name("sandbox-agent")
    processes.set_command_line("sandbox-agent")
    if adopts:
        processes.prctl(processes.PR_SET_CHILD_SUBREAPER, 1)
    runs: dict[int, Run] = {}
    children = processes.child_signal_descriptor()
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    poll.register(children, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in poll.poll()}
        if children in ready:
            os.read(children, 4096)
            _reap(channel, runs, adopts=adopts)
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
            run, process = message["run"], message["process"]
            _start(channel, runs, run, process, numbers, passed[count:], program)


def _start(
    channel: socket.socket,
    runs: dict[int, Run],
    number: int,
    process: Mapping[str, Any],
    descriptors: dict[int, int],
    entrances: list[int],
    program: bytes | None,
) -> None:
    """Start one run, which moves itself into its own cgroup first. Closes its descriptors."""
    report, report_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        with step("fork", process["args"][0]):
            pid = os.fork()
        if pid == 0:
            payload.enter(process, descriptors, entrances, program, report_end)
    except Exception as error:  # what is no process for a run is no reason to end the container
        os.close(report)
        failure = told(error, f"run {number}")
        status = payload.status_of(failure["errno"])
        messages.send(
            channel, {"at": "exited", "run": number, "failure": failure, "status": status}
        )
    else:
        pidfd = processes.pidfd_open(pid)
        runs[pid] = (number, report)
        messages.send(channel, {"at": "forked", "run": number}, (pidfd,))
        os.close(pidfd)
    for descriptor in (*descriptors.values(), *entrances, report_end):
        os.close(descriptor)


def _move(channel: socket.socket, message: Mapping[str, Any], entrances: list[int]) -> None:
    """Put a process of this pid namespace, and of no other, into the control group of a cell.

    The number is that of the writer's own pid namespace, so a child writes it, who is born in it.
    """
    child = os.fork()
    if child == 0:
        failed = 0
        for entrance in entrances:
            try:
                os.write(entrance, str(message["pid"]).encode())
            except OSError as error:
                failed = failed or error.errno or errno.EIO
        os._exit(failed)
    for entrance in entrances:
        os.close(entrance)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    why = "" if status == 0 else os.strerror(status) if status > 0 else "who moves it was ended"
    messages.send(channel, {"at": "moved", "cell": message["cell"], "why": why})


def _reap(channel: socket.socket, runs: dict[int, Run], *, adopts: bool) -> None:
    while True:
        try:
            pid, state = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        if pid in runs:
            number, report = runs.pop(pid)
            said = {"at": "exited", "run": number, **how_it_ended(state, report)}
            messages.send(channel, said)
        elif adopts:  # children of a template, that are inside their containers
            messages.send(channel, {"at": "orphan", "pid": pid, **_ended(state)})


def how_it_ended(state: int, report: int) -> dict[str, Any]:
    """What wait(2) said of a run, and its report, if it wrote why it did not start. Closes that."""
    if report < 0:
        return _ended(state)
    try:
        said = os.read(report, select.PIPE_BUF)
    except BlockingIOError:
        said = b""
    os.close(report)
    return {**({"failure": json.loads(said)} if said else {}), **_ended(state)}


def _ended(state: int) -> dict[str, int]:
    if os.WIFSIGNALED(state):
        return {"signal": os.WTERMSIG(state)}
    return {"status": os.WEXITSTATUS(state)}
