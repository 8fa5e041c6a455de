"""Which exercises are done: an empty file for each, in the user's state folder.

A file is there whole or not at all, so nothing can be half-written. Where the folder is: root
/var/lib/sandbox-kernel/course, others $XDG_STATE_HOME/sandbox-kernel/course (XDG base directory
specification; by default ~/.local/state), or what SANDBOX_KERNEL_COURSE names.
"""

from __future__ import annotations

import os

from sandbox_kernel.course import contents
from sandbox_kernel.errors import HostLacks

VARIABLE = "SANDBOX_KERNEL_COURSE"
OF_ROOT = "/var/lib/sandbox-kernel/course"


def folder() -> str:
    """The folder of this user. Raises HostLacks where there is no place for it."""
    given = os.environ.get(VARIABLE, "")
    if not given and os.geteuid() == 0:
        return OF_ROOT
    base = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(base):
        base = os.path.expanduser("~/.local/state")
    path = given or os.path.join(base, "sandbox-kernel", "course")
    if not os.path.isabs(path):
        raise HostLacks(
            f"keep the progress in `{path}`: it is no absolute path: name a folder by `{VARIABLE}`"
        )
    return path


def done() -> frozenset[str]:
    """The exercises whose check was passed once. Raises HostLacks."""
    path = folder()
    try:
        return frozenset(os.listdir(path)) & frozenset(contents.exercises())
    except FileNotFoundError:
        return frozenset()
    except OSError as error:
        raise _unusable(path, error) from error


def mark(exercise: str) -> None:
    """This exercise is done. Raises HostLacks where that can't be kept."""
    path = folder()
    try:
        os.makedirs(path, 0o700, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        os.close(os.open(f"{path}/{exercise}", flags, 0o600))
    except OSError as error:
        raise _unusable(path, error) from error


def _unusable(path: str, error: OSError) -> HostLacks:
    return HostLacks(
        f"keep the progress in `{path}`: {error.strerror}: make it a folder that you may write to, "
        f"or name another by `{VARIABLE}`"
    )
