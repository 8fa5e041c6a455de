"""What a fork is asked that became a process of the container: how it looks there, and calls.

It has the container's root, identity, capabilities and filter, and executes nothing of the image.
So what it sees is what a program there sees, and a call that it makes is answered as one of theirs.
"""

from __future__ import annotations

import ctypes
import json
import os

from sandbox_kernel.linux import libc as c
from sandbox_kernel.linux import writing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

DOES = ("look", "call")
MOST = 500
LONGEST = 200
_ROOM = 1 << 16


def serve(order: Mapping[str, Any]) -> None:
    """Do what `order["do"]` says, and write the answer as JSON to descriptor 1.

    `call`: `number`, `arguments`; each an integer, `{"text": ...}`, or `{"room": bytes}` for memory
    that the call may read and write. The answer has `result` and `errno`.
    """
    answer = _call(order) if order["do"] == "call" else look()
    writing.whole(1, json.dumps(answer).encode())


def look() -> dict[str, Any]:
    """What a process here sees of the machine that it believes to be on."""
    return {
        "hostname": os.uname().nodename,
        "uid": os.getuid(),
        "gid": os.getgid(),
        "pid": os.getpid(),
        "processes": _processes(),
        "mounts": _mounts(),
        "links": _links(),
        "users": _users(),
        "files": _names("/"),
    }


def _processes() -> list[list[Any]]:
    found: list[list[Any]] = []
    try:
        numbers = sorted(int(name) for name in os.listdir("/proc") if name.isdecimal())
    except OSError:
        return found
    for number in numbers[:MOST]:
        if number != os.getpid():
            name = _read(f"/proc/{number}/comm").rstrip("\n")
            found.append([number, name[:LONGEST]])
    return found


def _mounts() -> list[list[str]]:
    found = []
    for line in _read("/proc/self/mounts").splitlines()[:MOST]:
        fields = line.split(" ")
        if len(fields) > 3:
            found.append([fields[1][:LONGEST], fields[2], fields[3].partition(",")[0]])
    return found


def _links() -> list[str]:
    lines = _read("/proc/self/net/dev").splitlines()[2:]
    return [line.rpartition(":")[0].strip() for line in lines[:MOST]]


def _users() -> list[list[Any]]:
    found = []
    for line in _read("/etc/passwd").splitlines()[:MOST]:
        fields = line.split(":")
        if len(fields) > 2 and fields[2].isdecimal():
            found.append([fields[0][:LONGEST], int(fields[2])])
    return found


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))[:MOST]
    except OSError:
        return []


def _read(path: str) -> str:
    """A file's beginning as text; nothing where it can't be read, or is no plain file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        pieces = []
        size = 0
        while size < _ROOM:
            piece = os.read(descriptor, _ROOM)
            if not piece:
                break
            pieces.append(piece)
            size += len(piece)
    except OSError:
        return ""
    finally:
        os.close(descriptor)
    return b"".join(pieces)[:_ROOM].decode("utf-8", "replace")


def _call(order: Mapping[str, Any]) -> dict[str, Any]:
    """JUSTIFICATION: the caller chose a call to see what stops it. SAFETY: this process has what
    any program of the container has, and ends after it; pointers lead to memory of its own.
    """
    keep: list[Any] = []
    arguments = [_argument(each, keep) for each in order["arguments"]]
    try:
        return {"result": c.syscall(int(order["number"]), *arguments), "errno": 0}
    except OSError as error:
        return {"result": -1, "errno": error.errno}


def _argument(given: Any, keep: list[Any]) -> int:
    """A number, or the address of what stands in `keep`."""
    if isinstance(given, int):
        return given
    if "text" in given:
        keep.append(ctypes.create_string_buffer(given["text"].encode()))
    else:
        keep.append(ctypes.create_string_buffer(bytes.fromhex(given["room"]), _ROOM))
    return ctypes.addressof(keep[-1])
