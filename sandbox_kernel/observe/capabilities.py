"""Capabilities: the five sets of a process, and what each capability would let it do.

Sources: /proc/PID/status (proc(5)); capabilities(7) for the words.
"""

from __future__ import annotations

from dataclasses import dataclass

from sandbox_kernel.linux import capabilities
from sandbox_kernel.observe.fact import Fact, fact

SETS = ("effective", "permitted", "inheritable", "bounding", "ambient")

MEANS = {
    "CAP_CHOWN": "change the owner of files",
    "CAP_DAC_OVERRIDE": "read, write and execute files whatever their mode",
    "CAP_DAC_READ_SEARCH": "read files and folders whatever their mode",
    "CAP_FOWNER": "act as the owner of any file",
    "CAP_FSETID": "keep setuid bits of files that it changes",
    "CAP_KILL": "send signals to processes of others",
    "CAP_SETGID": "take on other groups",
    "CAP_SETUID": "take on other users",
    "CAP_SETPCAP": "change its own capability sets",
    "CAP_LINUX_IMMUTABLE": "make files immutable",
    "CAP_NET_BIND_SERVICE": "listen on ports below 1024",
    "CAP_NET_BROADCAST": "send broadcasts",
    "CAP_NET_ADMIN": "set up interfaces, routes and rules",
    "CAP_NET_RAW": "send and see raw packets",
    "CAP_IPC_LOCK": "lock memory",
    "CAP_IPC_OWNER": "use any shared memory, semaphore and queue",
    "CAP_SYS_MODULE": "load code into the kernel",
    "CAP_SYS_RAWIO": "reach ports and memory of the machine",
    "CAP_SYS_CHROOT": "take another root directory, enter mount namespaces",
    "CAP_SYS_PTRACE": "look into and change other processes",
    "CAP_SYS_PACCT": "switch on process accounting",
    "CAP_SYS_ADMIN": "mount, set the host name, and much else",
    "CAP_SYS_BOOT": "restart the machine, load another kernel",
    "CAP_SYS_NICE": "give itself or others more of the processors",
    "CAP_SYS_RESOURCE": "go beyond limits of resources",
    "CAP_SYS_TIME": "set the clock",
    "CAP_SYS_TTY_CONFIG": "set up and hang up terminals",
    "CAP_MKNOD": "make devices",
    "CAP_LEASE": "get leases on files",
    "CAP_AUDIT_WRITE": "write to the audit log",
    "CAP_AUDIT_CONTROL": "set up auditing",
    "CAP_SETFCAP": "give capabilities to files",
    "CAP_MAC_OVERRIDE": "override mandatory access control",
    "CAP_MAC_ADMIN": "set up mandatory access control",
    "CAP_SYSLOG": "read the kernel's messages and addresses",
    "CAP_WAKE_ALARM": "wake the machine up",
    "CAP_BLOCK_SUSPEND": "keep the machine awake",
    "CAP_AUDIT_READ": "read the audit log",
    "CAP_PERFMON": "measure the performance of the machine",
    "CAP_BPF": "load programs into the kernel's BPF machine",
    "CAP_CHECKPOINT_RESTORE": "choose process ids, look into mapped files",
}
"""What a process may do with each, over what its user namespace owns; in kernel order."""


@dataclass(frozen=True, slots=True)
class Sets:
    """The five sets, each as names in kernel order."""

    effective: tuple[str, ...]
    permitted: tuple[str, ...]
    inheritable: tuple[str, ...]
    bounding: tuple[str, ...]
    ambient: tuple[str, ...]


def of_process(pid: int | str) -> Fact[Sets]:
    """What a process holds: valid in its own user namespace and in those below it, nowhere else."""
    return fact(f"/proc/{pid}/status", lambda: _read(pid))


def known() -> tuple[str, ...]:
    """The capabilities that the running kernel knows, in its order."""
    return capabilities.to_names((1 << capabilities.last() + 1) - 1)


def _read(pid: int | str) -> Sets:
    found = capabilities.read(pid)
    return Sets(**{name: capabilities.to_names(found[name]) for name in SETS})
