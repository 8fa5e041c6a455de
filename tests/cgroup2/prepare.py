"""Run by `init.sh` inside the machine: loads kernel modules, brings up the loopback interface."""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import socket
import struct
from pathlib import Path

MODULES = Path("/usr/lib/uml/modules")
WANTED = ("overlay", "fuse", "veth", "bridge", "tun", "sch_tbf", "sch_netem")
FINIT_MODULE = {"x86_64": 313}  # arch/x86/entry/syscalls/syscall_64.tbl
SIOCSIFFLAGS, IFF_UP = 0x8914, 1  # include/uapi/linux/sockios.h, include/uapi/linux/if.h


def load(name: str, table: dict[str, list[str]], folder: Path) -> None:
    """Load a module after those that it needs; nothing happens when it is built in."""
    path = next((each for each in table if each.endswith(f"/{name}.ko")), None)
    for each in [*reversed(table[path]), path] if path else ():
        libc = ctypes.CDLL(None, use_errno=True)
        descriptor = os.open(folder / each, os.O_RDONLY)
        failed = libc.syscall(FINIT_MODULE[platform.machine()], descriptor, b"", 0)
        os.close(descriptor)
        if failed and ctypes.get_errno() != 17:  # EEXIST: loaded already
            print(f"module {each}: {os.strerror(ctypes.get_errno())}", flush=True)


def main() -> None:
    """Both jobs."""
    folder = MODULES / os.uname().release
    lines = (folder / "modules.dep").read_text().splitlines()
    table = {path: needs.split() for path, _, needs in (line.partition(":") for line in lines)}
    for name in WANTED:
        load(name, table, folder)
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


main()
