"""What is known of each container between two calls: one folder below `--root`, with a lock.

    ROOT/ID/                0700
        state.json          written once, under another name and renamed, so whole or not there
        creating            while the container is being made, by `run` until its program runs
        lock                flock(2) of whoever is changing the container
        start.sock          the first process listens here until it is started

A process is known by its number and the time that it started at, so a number that another process
has by now is never taken for it.
"""

from __future__ import annotations

import fcntl
import os

from sandbox_kernel import plain_json
from sandbox_kernel.oci.faults import StepFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

ALLOWED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.")
LONGEST_NAME = 1024
SOCKET = "start.sock"
CREATING = "creating"


def default_root() -> str:
    """Where containers are kept when nobody says: of root in /run, of others in their own."""
    if os.geteuid() == 0:
        return "/run/sandbox-kernel-oci"
    base = os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/sandbox-kernel-{os.geteuid()}"  # noqa: S108
    return f"{base}/sandbox-kernel-oci"


class Folder:
    """The folder of one container, locked until `close`."""

    def __init__(self, root: str, name: str) -> None:
        self.path = f"{root}/{name}"
        self.name = name
        self._lock = -1

    @classmethod
    def make(cls, root: str, name: str) -> Folder:
        """A new one. Raises StepFailed when there is a container of this name."""
        if not name or len(name) > LONGEST_NAME or set(name) - ALLOWED or name in (".", ".."):
            why = "its name may have letters, digits and `_+-.` only"
            raise StepFailed("create", name, why, 22)
        os.makedirs(root, mode=0o700, exist_ok=True)
        made = cls(root, name)
        try:
            os.mkdir(made.path, 0o700)
        except FileExistsError:
            raise StepFailed("create", name, "a container of this name exists", 17) from None
        made.lock()
        os.close(os.open(f"{made.path}/{CREATING}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        return made

    @classmethod
    def find(cls, root: str, name: str, *, locked: bool = True) -> Folder:
        """One that is there; who only looks need not have the lock. Raises StepFailed."""
        found = cls(root, name)
        if set(name) - ALLOWED or name in ("", ".", "..") or not os.path.isdir(found.path):
            raise StepFailed("find", name, "container does not exist", 2)
        if locked:
            found.lock()
        return found

    def lock(self) -> None:
        """Wait until nobody else changes the container."""
        self._lock = os.open(f"{self.path}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def close(self) -> None:
        """Let others change it."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def write(self, known: Mapping[str, Any]) -> None:
        """Keep what is known of it."""
        temporary = f"{self.path}/state.json.new"
        with open(temporary, "wb") as file:
            file.write(plain_json.written(known).encode())
        os.rename(temporary, f"{self.path}/state.json")

    def finish(self) -> None:
        """It is made."""
        os.unlink(f"{self.path}/{CREATING}")

    def read(self) -> dict[str, Any]:
        """What is known of it. Raises StepFailed while nothing is, or when it can't be read."""
        try:
            with open(f"{self.path}/state.json", "rb") as file:
                known: dict[str, Any] = plain_json.read(file.read())
        except (OSError, ValueError, RecursionError) as error:
            raise StepFailed("find", self.name, "it was not made to the end", 2) from error
        if not isinstance(known, dict):
            raise StepFailed("find", self.name, "what was written of it is damaged", 2)
        return known

    def remove(self) -> None:
        """Nothing of it stays."""
        for name in ("state.json", "state.json.new", CREATING, SOCKET, "lock"):
            try:
                os.unlink(f"{self.path}/{name}")
            except FileNotFoundError:
                pass
        os.rmdir(self.path)
        self.close()


def names(root: str) -> list[str]:
    """All containers."""
    try:
        return sorted(name for name in os.listdir(root) if not set(name) - ALLOWED)
    except FileNotFoundError:
        return []


def started(pid: int) -> int:
    """When a process began, in ticks since the machine did; 0: it is gone, or a zombie.

    Fields 3 and 22 of /proc/PID/stat, proc_pid_stat(5).
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def lives(known: Mapping[str, Any]) -> bool:
    """Whether its first process is there."""
    return bool(known.get("pid")) and started(known["pid"]) == known["started"]


def status(folder: Folder, known: Mapping[str, Any], *, paused: bool) -> str:
    """In the words of the specification: creating, created, running, stopped; and paused."""
    if not lives(known):
        return "stopped"
    if os.path.exists(f"{folder.path}/{CREATING}"):
        return "creating"
    if os.path.exists(f"{folder.path}/{SOCKET}"):
        return "created"
    return "paused" if paused else "running"
