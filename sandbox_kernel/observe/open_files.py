"""What a process has open.

Sources: /proc/PID/fd and /proc/PID/fdinfo (proc_pid_fd(5)).
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass

from sandbox_kernel.observe.fact import Fact, fact, read

MOST = 1000

_MODES = {os.O_RDONLY: "r", os.O_WRONLY: "w", os.O_RDWR: "rw"}


@dataclass(frozen=True, slots=True)
class OpenFile:
    """One descriptor. `path` as its process sees it; `socket:[N]`, `pipe:[N]`, ... for others."""

    descriptor: int
    path: str
    mode: str
    """r, w, rw; "" where it could not be read."""
    position: int | None


def of_process(pid: int | str) -> Fact[tuple[OpenFile, ...]]:
    """What a process has open, in order of the descriptors; the first thousand."""
    folder = f"/proc/{pid}/fd"
    return fact(folder, lambda: _read(pid, folder))


def _read(pid: int | str, folder: str) -> tuple[OpenFile, ...]:
    found = []
    for number in sorted(map(int, os.listdir(folder)))[:MOST]:
        with suppress(FileNotFoundError):  # it was closed meanwhile
            path = os.readlink(f"{folder}/{number}")
            found.append(OpenFile(number, path, *_info(f"/proc/{pid}/fdinfo/{number}")))
    return tuple(found)


def _info(path: str) -> tuple[str, int | None]:
    try:
        lines = dict(line.partition(b":")[::2] for line in read(path).splitlines())
        flags, position = int(lines[b"flags"], 8), int(lines[b"pos"])
    except (OSError, KeyError):
        return "", None
    return _MODES.get(flags & os.O_ACCMODE, ""), position
