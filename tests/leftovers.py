"""What the machine holds now that tests may leave behind: processes, mounts, groups, links, files.

A process that loses its parent would be handed to pid 1 and could no longer be told from other
people's. So the whole run stands below a *keeper*: pytest forks once at its start, the parent
stays as the keeper, asks to be given the orphans (PR_SET_CHILD_SUBREAPER), reaps them, and when
pytest has ended looks at what is left. Nothing else on a shared machine is counted.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sandbox_kernel.runtime import state
from sandbox_kernel.runtime.cgroups import files

PR_SET_CHILD_SUBREAPER = 36
PF_KTHREAD = 0x00200000
"""include/linux/sched.h, of the flags in /proc/PID/stat."""
LAUNCHER = re.compile(r"sandbox_kernel\.runtime\.launcher import main.* ([0-9a-f]{12,16})\b")
BROWSER = "/usr/lib/chromium/chromium"
RUNTIME_FOLDER = "/run/sandbox-kernel"
CHAOS = "chaos-"
KEEPER = "SANDBOX_KERNEL_TESTS_KEEPER"
SECONDS_TO_SETTLE = 10.0
STATUS_LEFT = 20
"""What a run exits with that left something; pytest itself has 0 to 5."""


class RunningProcess(NamedTuple):
    """One process; the start time makes a used-again number another process."""

    pid: int
    started: int
    command: str
    parent: int

    def is_same(self, other: RunningProcess) -> bool:
        """Parents change when they die, commands at execve(2)."""
        return (self.pid, self.started) == (other.pid, other.started)


class Snapshot(NamedTuple):
    """What is there now, as far as it is ours."""

    processes: frozenset[RunningProcess]
    mounts: frozenset[str]
    groups: frozenset[str]
    interfaces: frozenset[str]
    files: frozenset[str]

    def left_since(self, before: Snapshot) -> list[str]:
        """What is here that was not there before, one line each.

        A browser that was there before may start a part of itself at any time; it ends with it.
        """
        browsers = {other.pid for other in before.processes if BROWSER in other.command}
        lines = [
            f"process {process.pid}: {process.command}"
            for process in sorted(self.processes)
            if not any(process.is_same(other) for other in before.processes)
            and not (BROWSER in process.command and process.parent in browsers)
        ]
        for kind in ("mounts", "groups", "interfaces", "files"):
            new = getattr(self, kind) - getattr(before, kind)
            lines += [f"{kind[:-1]}: {name}" for name in sorted(new)]
        return lines


def take(root: int, *, program: int | None = None) -> Snapshot:
    """The snapshot of everything below the process `root`, and of the machine's own tables.

    The launcher of `program` itself is left out with its folder: it lives as long as the program.
    """
    running = list(_all_processes())
    ours = list(_below(root, running))
    others = _launchers(running) - _launchers(ours)
    own = [p for p in ours if p.parent == program and LAUNCHER.search(p.command)]
    return Snapshot(
        processes=frozenset(ours).difference(own),
        mounts=frozenset(_mounts()),
        groups=frozenset(name for name in _groups() if not _has_one_of(others, name)),
        interfaces=frozenset(os.listdir("/sys/class/net")),
        files=frozenset(
            name for name in _files() if not _has_one_of(others | _launchers(own), name)
        ),
    )


def settled(root: int, before: Snapshot, *, program: int | None = None) -> list[str]:
    """What is left since `before` when ending processes had their time to end."""
    deadline = time.monotonic() + SECONDS_TO_SETTLE
    while True:
        left = take(root, program=program).left_since(before)
        if not left or time.monotonic() > deadline:
            return left
        # Groups and mounts can't be waited for by a descriptor.
        time.sleep(0.05)


def _launchers(processes: list[RunningProcess]) -> set[str]:
    """Names of the launchers among these processes: their groups and folders bear them."""
    found = (LAUNCHER.search(process.command) for process in processes)
    return {match[1] for match in found if match}


def _has_one_of(launchers: set[str], name: str) -> bool:
    """Whether a group or file belongs to a launcher that somebody else runs just now."""
    return any(launcher in name for launcher in launchers)


def keeper_pid() -> int:
    """The process below which everything of this run is found."""
    return int(os.environ[KEEPER])


def keep() -> None:
    """Fork: the child goes on as pytest, the parent becomes the keeper and never returns."""
    before = take(os.getpid())
    os.environ[KEEPER] = str(os.getpid())
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl PR_SET_CHILD_SUBREAPER")
    child = os.fork()
    if child == 0:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to pytest as well
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, lambda received, _: os.kill(child, received))
    status = _reap_until_gone(child)
    left = settled(os.getpid(), before)
    if left:
        print("\nLeft on the machine by this run of the tests:", file=sys.stderr)
        print("\n".join(f"  {line}" for line in left), file=sys.stderr, flush=True)
        for process in _below(os.getpid(), list(_all_processes())):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
    os._exit(STATUS_LEFT if left else status)


def _reap_until_gone(child: int) -> int:
    """Reap orphans until pytest itself ends; its exit status."""
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            break
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # orphans that end from now on reap themselves
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                break
        except ChildProcessError:
            break
    return code if code >= 0 else 128 - code


def _all_processes() -> Iterator[RunningProcess]:
    """Every living process of the machine, threads of the kernel left out."""
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            stat = _read(f"/proc/{entry}/stat")
            name, _, rest = stat[stat.index("(") + 1 :].rpartition(") ")
            fields = rest.split(maxsplit=20)
            if fields[0] in "ZX" or int(fields[6]) & PF_KTHREAD:
                continue
            command = _read(f"/proc/{entry}/cmdline")
        except (FileNotFoundError, ProcessLookupError):
            continue
        shown = command.replace("\0", " ").strip()[:300] or f"[{name}]"
        yield RunningProcess(int(entry), int(fields[19]), shown, int(fields[1]))


def _read(path: str) -> str:
    """The beginning of a file. Hundreds are read for each test, and `open` takes much longer."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096).decode(errors="replace")
    finally:
        os.close(descriptor)


def _below(root: int, processes: list[RunningProcess]) -> Iterator[RunningProcess]:
    """Those of `processes` that descend from `root`."""
    children: dict[int, list[RunningProcess]] = {}
    for process in processes:
        children.setdefault(process.parent, []).append(process)
    waiting = [root]
    while waiting:
        for process in children.get(waiting.pop(), ()):
            yield process
            waiting.append(process.pid)


def _mounts() -> Iterator[str]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        yield f"{before.split()[4]} ({after})"


def _groups() -> Iterator[str]:
    """Control groups below our top-level directories, in every hierarchy."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if not after.startswith("cgroup"):
            continue
        top = f"{before.split()[4]}/sandbox-kernel"
        for group in files.below(top):
            name = os.path.basename(group)
            # What root handed over to a user is taken back by who handed it over, whoever it was.
            # What bears the mark of another runtime folder is swept by those who have that one.
            if _is_elsewhere(name):
                continue
            if not name.startswith("user-"):
                yield group
            yield from _groups_below(group)


def _groups_below(group: str) -> Iterator[str]:
    for inner in files.below(group):
        yield inner
        yield from _groups_below(inner)


def _is_elsewhere(group: str) -> bool:
    """Whether it is of others: of another runtime folder, or around a run of `chaos`."""
    if group.startswith(CHAOS):
        return True
    launcher, dot, _ = group.partition(".")
    known = os.path.isdir(RUNTIME_FOLDER) and dot != ""
    return known and not state.is_named_here(RUNTIME_FOLDER, launcher)


def _files() -> Iterator[str]:
    """Folders and files that live only as long as a launcher. Locks of id ranges stay."""
    folders = [Path(RUNTIME_FOLDER), *Path("/run/user").glob("*/sandbox-kernel")]
    folders += Path("/tmp").glob("sandbox-kernel-*")
    for folder in folders:
        yield from (str(path) for path in folder.glob("launchers/*"))
