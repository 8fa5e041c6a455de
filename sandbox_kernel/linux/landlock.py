"""Landlock: what a process may never do again, nor its children. Light: runs just before exec.

A *domain* is what landlock_restrict_self(2) puts a thread into. Only who is in the same domain, or
in one around it, may look into the memory of a process or trace it; so each run has one of its own.
Sources: include/uapi/linux/landlock.h, Documentation/userspace-api/landlock.rst.
"""

from __future__ import annotations

import functools
import os
import struct

from sandbox_kernel.errors import HostLacks, StepFailed
from sandbox_kernel.linux import libc as c

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

# include/uapi/asm-generic/unistd.h
LANDLOCK_CREATE_RULESET = 444
LANDLOCK_ADD_RULE = 445
LANDLOCK_RESTRICT_SELF = 446
CREATE_RULESET_VERSION = 1
RULE_PATH_BENEATH = 1

ACCESS_FS_MAKE_CHAR = 1 << 6
ACCESS_FS_MAKE_BLOCK = 1 << 11
ACCESS_NET_BIND_TCP = 1 << 0
ACCESS_NET_CONNECT_TCP = 1 << 1
SCOPE_ABSTRACT_UNIX_SOCKET = 1 << 0
SCOPE_SIGNAL = 1 << 1

# How many rights of files each version knows: execute to make_sym, refer, truncate, ioctl_dev.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_NET, _SCOPES = 4, 6
"""Versions from which there are rights of TCP, and scopes."""

# struct landlock_ruleset_attr { __u64 handled_access_fs, handled_access_net, scoped; }
_RULESET = struct.Struct("=QQQ")
# struct landlock_path_beneath_attr { __u64 allowed_access; __s32 parent_fd; } packed
_PATH_BENEATH = struct.Struct("=Qi")


@functools.cache
def version() -> int:
    """The version of the interface; 0: this kernel has none."""
    try:
        return c.syscall(LANDLOCK_CREATE_RULESET, None, 0, CREATE_RULESET_VERSION)
    except OSError:
        return 0


def need() -> int:
    """The version of the interface. Raises HostLacks when there is none."""
    if found := version():
        return found
    raise HostLacks(
        "use `--strict`: this kernel has no Landlock: boot Linux 5.13 or later with "
        "CONFIG_SECURITY_LANDLOCK and `landlock` in its `lsm=`, or leave `--strict` away"
    )


def domain(known: int, *, tcp: bool) -> dict[str, Any]:
    """A domain of this version, as messages have it.

    What lies below the root of who enters it can be used, but for making devices, and nothing
    outside of it can, whichever descriptor or path leads there. Without `tcp` no port is bound or
    connected to (version 4). Signals and abstract sockets reach nobody outside of it (version 6).
    """
    rights = (1 << _FILE_RIGHTS.get(known, max(_FILE_RIGHTS.values()))) - 1
    net = ACCESS_NET_BIND_TCP | ACCESS_NET_CONNECT_TCP if known >= _NET and not tcp else 0
    scopes = SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL if known >= _SCOPES else 0
    size = 24 if known >= _SCOPES else 16 if known >= _NET else 8
    return {
        "ruleset": _RULESET.pack(rights, net, scopes)[:size].hex(),
        "below_root": rights & ~(ACCESS_FS_MAKE_CHAR | ACCESS_FS_MAKE_BLOCK),
    }


def enter(wanted: Mapping[str, Any]) -> None:
    """Put this thread, which has no_new_privs, into a new domain. Raises StepFailed.

    JUSTIFICATION: a second wall around files, and one between the runs of a container. SAFETY: both
    structures are bytes that live until their call is over; sizes are those of the structures.
    """
    ruleset = root = -1
    try:
        attributes = bytes.fromhex(wanted["ruleset"])
        ruleset = c.syscall(LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0)
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        rule = _PATH_BENEATH.pack(wanted["below_root"], root)
        c.syscall(LANDLOCK_ADD_RULE, ruleset, RULE_PATH_BENEATH, rule, 0)
        c.syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0)
    except OSError as error:
        raise StepFailed(
            "enter", "a Landlock domain", str(error.strerror), error.errno or 0
        ) from error
    finally:
        for descriptor in (ruleset, root):
            if descriptor >= 0:
                os.close(descriptor)
