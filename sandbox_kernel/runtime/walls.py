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
PACKAGES = {"runc": "runc", "crun": "crun", "runsc": "runsc", "vm": "user-mode-linux"}
"""A runtime, and the package of its program."""
PROGRAMS = {"vm": "linux.uml"}
"""The program of a runtime that has another name."""
OWN_KERNEL = ("runsc", "vm")
"""Those whose processes are none of this machine."""
LEAST_OF_A_MACHINE = 128 << 20
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


def refuse(plan: policy.ContainerPlan, interpreter: str | None) -> None:
    """Raises InvalidOption for what the plan asks of a runtime that can't enforce it."""
    if plan.runtime not in OWN_KERNEL:
        return
    runtime = f"`--runtime {plan.runtime}`"
    if plan.runtime == "vm":
        if interpreter is None:
            allowed = f"an image with a Python: with {runtime} that starts the program"
            raise InvalidOption("--image", plan.image, allowed)
        if plan.memory is not None and plan.memory < LEAST_OF_A_MACHINE:
            allowed = f"at least 128m with {runtime}, whose kernel has a part of it"
            raise InvalidOption("--memory", plan.memory, allowed)
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
    program, foreign = PROGRAMS.get(name, name), ""
    for folder in FOLDERS:
        path = f"{folder}/{program}"
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
        f"use `--runtime {name}`: there is no `{program}` in {', '.join(FOLDERS)}: as root, "
        f"apt-get install {PACKAGES[name]}"
    )
