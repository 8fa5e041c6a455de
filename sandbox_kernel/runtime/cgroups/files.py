"""Reading and writing the files of a control group, and waiting until its processes are gone."""

from __future__ import annotations

import _signal as signal  # `signal` is the same with enumerations around it, slow to import
import errno
import os
import select
import time

from sandbox_kernel import errors
from sandbox_kernel.linux import reading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from sandbox_kernel.linux.multicall import Calls, Cell

SECONDS_TO_EMPTY = 10.0
SECONDS_TO_SWEEP = 2.0
"""For all groups together: who starts a launcher waits for it."""


def read(path: str) -> str:
    """The whole text of a small file, without the newline at its end. Raises OSError."""
    return reading.whole(path).decode("ascii").rstrip("\n")


def read_number(path: str) -> int | None:
    """The number in a file; None when the file is not there, or says "max"."""
    try:
        text = read(path)
    except FileNotFoundError:
        return None
    return None if text == "max" else int(text)


def read_table(path: str) -> dict[str, int]:
    """Lines "key number" as a mapping; empty when the file is not there."""
    try:
        return parsed(read(path))
    except FileNotFoundError:
        return {}


def parsed(text: str) -> dict[str, int]:
    """Such lines as a mapping."""
    table = {}
    for line in text.splitlines():
        key, _, value = line.rpartition(" ")
        table[key] = int(value)
    return table


def write(path: str, text: str) -> None:
    """Write a file of the kernel in one call. Raises OSError with the kernel's errno."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode("ascii"))
    finally:
        os.close(descriptor)


def open_all(paths: list[str]) -> list[int]:
    """Every file open for writing, or none and OSError."""
    opened: list[int] = []
    try:
        for path in paths:
            opened.append(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
    except BaseException:
        for descriptor in opened:
            os.close(descriptor)
        raise
    return opened


def enter(entrances: list[int]) -> None:
    """Move this process into a group by its entrances, which are closed here. OSError."""
    for descriptor in entrances:
        os.write(descriptor, b"0")
        os.close(descriptor)


def enter_by(calls: Calls, entrances: list[Cell]) -> None:
    """`enter` as a list of calls."""
    for entrance in entrances:
        calls.call("write", entrance, b"0", 1)
        calls.close(entrance)


def write_and_read(path: str, text: str) -> str:
    """Write a file and give back what the kernel says is in force now. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode("ascii"))
        return os.pread(descriptor, 65536, 0).decode("ascii").rstrip("\n")
    finally:
        os.close(descriptor)


def make(path: str) -> None:
    """Make a group that may be there already. Raises OSError."""
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        pass


def below(directory: str) -> list[str]:
    """The groups directly below a group; none when it is gone."""
    try:
        with os.scandir(directory) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def members(directory: str) -> set[int]:
    """The processes of a group and of all below it, as far as our pid namespace shows them."""
    found: set[int] = set()
    try:
        found.update(int(line) for line in read(directory + "/cgroup.procs").split())
    except OSError as error:
        # ENODEV: the group was removed after we opened its file.
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            raise
    for child in below(directory):
        found |= members(child)
    return found - {0}


def members_of_all(directories: Iterable[str]) -> set[int]:
    """The same of several groups together."""
    return set().union(*map(members, directories))


def remove(directory: str, deadline: float | None = None) -> None:
    """Remove a group with all groups below it; processes in it must be dying.

    Raises StepFailed when one of them still lives at the deadline (monotonic clock).
    """
    if removed(directory):
        return
    if deadline is None:
        deadline = time.monotonic() + SECONDS_TO_EMPTY
    for child in below(directory):
        remove(child, deadline)
    while not removed(directory):
        remaining = members(directory)
        if time.monotonic() > deadline:
            shown = ", ".join(map(str, sorted(remaining)[:10])) or "none listed"
            raise errors.StepFailed(
                "remove group",
                directory,
                f"it is still busy (processes: {shown}): end them, then start again to clean up",
                errno.EBUSY,
            )
        wait_for_end(remaining, deadline)


def removed(directory: str) -> bool:
    """Remove one group. False: processes or groups are in it. Raises OSError."""
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.ENOTEMPTY):
            return False
        raise
    return True


def wait_for_end(pids: set[int], deadline: float) -> None:
    """Wait until each of these processes has ended, or until the deadline."""
    descriptors: list[int] = []
    try:
        for pid in pids:
            try:
                descriptors.append(os.pidfd_open(pid))
            except ProcessLookupError:
                continue
        poll_until_ended(descriptors, deadline)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    # An ended process leaves its group when the kernel has switched away from it for the last
    # time, which no descriptor tells: let it run.
    os.sched_yield()


def poll_until_ended(pidfds: list[int], deadline: float) -> None:
    """Wait until each pidfd is readable, or until the deadline."""
    poll = select.poll()
    for descriptor in pidfds:
        poll.register(descriptor, select.POLLIN)
    waiting = len(pidfds)
    while waiting and (left := deadline - time.monotonic()) > 0:
        for descriptor, _ in poll.poll(left * 1000):
            poll.unregister(descriptor)
            waiting -= 1


def kill_by_descriptor(pidfds: list[int], deadline: float) -> None:
    """SIGKILL the processes behind pidfds and wait for their end."""
    for descriptor in pidfds:
        try:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        except ProcessLookupError:
            continue
    poll_until_ended(pidfds, deadline)


def kill_members(
    directories: list[str], deadline: float, spared: Collection[int] = frozenset()
) -> bool:
    """SIGKILL every process of these groups and of those below. True when one was there.

    Does not wait. Where forking goes on meanwhile (no freezer), call it until it says False.
    """
    seen = set(spared)
    while True:
        new = members_of_all(directories) - seen
        for pid in new:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        seen |= new
        if not new or time.monotonic() > deadline:
            return len(seen) > len(spared)
