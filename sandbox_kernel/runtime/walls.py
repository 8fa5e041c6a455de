"""Which walls this machine has beside our own: OCI runtimes of others, at fixed places alone.

A runtime is a program of the machine, so it is taken from folders that only root writes to, never
from PATH. Which ones can be asked for is said in `grammar.RUNTIMES`.
"""

from __future__ import annotations

import os
import stat

from sandbox_kernel.errors import HostLacks, InvalidOption

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox_kernel import policy

FOLDERS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
PACKAGES = {"runc": "runc", "crun": "crun", "runsc": "runsc"}
"""A runtime that is a program, and the package of it."""
OWN_KERNEL = ("runsc",)
"""Those whose processes are none of this machine."""
FEWEST_OF_A_SENTRY = 96
"""Threads of gVisor's kernel and of who serves its files count as processes."""
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def found() -> dict[str, str]:
    """Each runtime that can be asked for: "" when it is here, else why not, in one line."""
    walls = {"embedded": ""}
    for name in PACKAGES:
        try:
            find(name)
        except HostLacks as error:
            walls[name] = str(error)
        else:
            walls[name] = ""
    return walls


def refuse(plan: policy.ContainerPlan) -> None:
    """Raises InvalidOption for what the plan asks of a runtime that can't enforce it."""
    if plan.runtime not in OWN_KERNEL:
        return
    runtime = f"`--runtime {plan.runtime}`"
    if plan.network != "none":
        allowed = f"none with {runtime}, whose kernel has a network of its own"
        raise InvalidOption("--network", plan.network, allowed)
    if plan.pids_limit is not None and plan.pids_limit < FEWEST_OF_A_SENTRY:
        allowed = f"at least {FEWEST_OF_A_SENTRY} with {runtime}, whose own threads count too"
        raise InvalidOption("--pids-limit", plan.pids_limit, allowed)
    if plan.mode == "carry":
        raise InvalidOption("mode", "carry", f"fresh with {runtime}: it can't move a process")


def find(name: str) -> str:
    """The program of a runtime. Raises HostLacks."""
    foreign = ""
    for folder in FOLDERS:
        path = f"{folder}/{name}"
        try:
            seen = os.stat(path)
        except OSError:
            continue
        if seen.st_uid != 0 or seen.st_mode & _WRITABLE_BY_OTHERS:
            foreign = foreign or path
        elif stat.S_ISREG(seen.st_mode) and os.access(path, os.X_OK):
            return path
    if foreign:
        raise HostLacks(
            f"use `--runtime {name}`: `{foreign}` is not root's alone to change: as root, "
            f"chown root:root {foreign} && chmod go-w {foreign}"
        )
    raise HostLacks(
        f"use `--runtime {name}`: there is no `{name}` in {', '.join(FOLDERS)}: as root, "
        f"apt-get install {PACKAGES[name]}"
    )
