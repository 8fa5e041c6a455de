"""Starting the confined process and talking to it, from the outside."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sandbox_kernel.errors import HostLacks, ImageError
from sandbox_kernel.image.layers import calls
from sandbox_kernel.linux import messages, user_namespaces

_PARENT = os.path.dirname(
    os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
)
# Packages without what their `__init__` brings for the outside: each layer starts such a process.
_PROGRAM = """
import json, sys, types
places = json.loads(sys.argv.pop(1))
sys.path += places
for name in ("sandbox_kernel", "sandbox_kernel.image", "sandbox_kernel.image.layers"):
    package = types.ModuleType(name)
    package.__path__ = [places[0] + "/" + name.replace(".", "/")]
    sys.modules[name] = package
from sandbox_kernel.image.layers.worker import main
main()
"""


class Worker:
    """One confined process with its one order. `answer` waits for what became of it."""

    def __init__(self, process: subprocess.Popen[bytes], channel: socket.socket) -> None:
        self._process = process
        self._channel = channel

    def answer(self, what: str) -> dict[str, Any]:
        """Raises ImageError and HostLacks as the process says; `what` begins their message."""
        try:
            received = messages.receive(self._channel)
        except ConnectionResetError:
            received = None
        if received is None:
            status = self._process.wait()
            why = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
            raise HostLacks(f"{what}: its confined process ended {why}: try again")
        answer = received[0]
        if "error" in answer:
            kind = ImageError if answer["error"] == "ImageError" else HostLacks
            raise kind(f"{what}: {answer['text']}")
        return answer

    def write_maps(self, first: int) -> None:
        """As root: its id maps, from id `first` of ours on, when it asks for them."""
        received = messages.receive(self._channel)
        if received is None or "maps" not in received[0]:
            return  # it ended, or says what it failed on: `answer` tells
        ids = _extents(first)
        for name, lines in ids.items():
            user_namespaces.write_map(f"/proc/{self._process.pid}/{name}", lines)
        messages.send(self._channel, {"ids": _count(ids["uid_map"])})


def _extents(first: int) -> dict[str, str]:
    """Maps of 0 to 65535 to the same ids of ours and up, as far as we have them ourselves."""
    found = {}
    for name in ("uid_map", "gid_map"):
        lines = []
        with open(f"/proc/self/{name}", encoding="ascii") as extents:
            for line in extents:
                start, _, size = map(int, line.split())
                low = max(start, first)
                high = min(start + size, first + user_namespaces.RANGE)
                if low < high:
                    lines.append(f"{low - first} {low} {high - low}\n")
        found[name] = "".join(lines)
    return found


def _count(lines: str) -> int:
    return sum(int(line.split()[2]) for line in lines.splitlines())


@contextmanager
def start(
    verb: str, order: Mapping[str, Any], descriptors: Sequence[int] = (), *, first: int = 0
) -> Iterator[Worker]:
    """Start one with an order and descriptors, which stay open here. It ends with the block.

    `first`: the id of ours that is root there, when we are root.
    """
    program = calls.program()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    with ours:
        with theirs:
            process = subprocess.Popen(
                [
                    sys.executable,
                    *("-I", "-S", "-c", _PROGRAM, json.dumps([_PARENT, *_libraries()])),
                    str(theirs.fileno()),
                ],
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
            )
        try:
            whole = {**order, "verb": verb, "seccomp": base64.b64encode(program).decode()}
            messages.send(ours, whole, descriptors)
            worker = Worker(process, ours)
            if os.geteuid() == 0:
                worker.write_maps(first)
            yield worker
        finally:
            process.kill()
            process.wait()


def _libraries() -> list[str]:
    """Where the two decompressors lie, which are not of the standard library."""
    import importlib.util

    found = []
    for name in ("isal", "backports.zstd"):
        place = importlib.util.find_spec(name)
        if place is not None and place.origin is not None:
            up = place.origin
            for _ in range(name.count(".") + 2):
                up = os.path.dirname(up)
            if up not in found:
                found.append(up)
    return found
