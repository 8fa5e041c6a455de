"""What machines are called in images: Go's names, and which one this machine is."""

from __future__ import annotations

import os

# uname(2) of a machine to Go's GOARCH.
ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "i686": "386",
    "ppc64le": "ppc64le",
    "riscv64": "riscv64",
    "s390x": "s390x",
}


def own_architecture() -> str:
    """This machine, as images name it."""
    machine = os.uname().machine
    return ARCHITECTURES.get(machine, machine)
