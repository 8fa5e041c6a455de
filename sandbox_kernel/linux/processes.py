"""Processes and namespaces: clone3(2), pidfds, prctl(2), close_range(2), signalfd(2).

Constants: include/uapi/linux/sched.h, include/uapi/linux/prctl.h, include/uapi/linux/close_range.h.
"""

from __future__ import annotations

import _signal as signal  # `signal` is the same with enumerations around it, slow to import
import os
import select

from sandbox_kernel.linux import libc as c
from sandbox_kernel.linux import reading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

CLONE_NEWTIME = 0x00000080
CLONE_FS = 0x00000200
CLONE_FILES = 0x00000400
CLONE_PARENT = 0x00008000
CLONE_PIDFD = 0x00001000
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_INTO_CGROUP = 0x200000000

# The namespace types of the OCI runtime specification.
FLAG_OF_NAMESPACE = {
    "user": CLONE_NEWUSER,
    "mount": CLONE_NEWNS,
    "pid": CLONE_NEWPID,
    "network": CLONE_NEWNET,
    "ipc": CLONE_NEWIPC,
    "uts": CLONE_NEWUTS,
    "cgroup": CLONE_NEWCGROUP,
    "time": CLONE_NEWTIME,
}

# namespaces(7): what /proc/[pid]/ns has for each.
FILE_OF_NAMESPACE = {kind: kind for kind in FLAG_OF_NAMESPACE} | {"mount": "mnt", "network": "net"}

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

SFD_NONBLOCK = os.O_NONBLOCK
SFD_CLOEXEC = os.O_CLOEXEC

_prctl = c.libc.prctl
_prctl.restype = c.c_int
_setns = c.libc.setns
_setns.argtypes = (c.c_int, c.c_int)
_setns.restype = c.c_int
_unshare = c.libc.unshare
_unshare.argtypes = (c.c_int,)
_unshare.restype = c.c_int
_signalfd = c.libc.signalfd
_signalfd.argtypes = (c.c_int, c.c_void_p, c.c_int)
_signalfd.restype = c.c_int
_memmove = c.libc["memmove"]
_memmove.argtypes = (c.c_void_p, c.c_void_p, c.c_ulong)
_memmove.restype = c.c_void_p


class CloneArgs(c.Structure):
    """struct clone_args of include/uapi/linux/sched.h, all members __aligned_u64."""

    _fields_ = tuple(
        (name, c.c_uint64)
        for name in (
            "flags",
            "pidfd",
            "child_tid",
            "parent_tid",
            "exit_signal",
            "stack",
            "stack_size",
            "tls",
            "set_tid",
            "set_tid_size",
            "cgroup",
        )
    )


def clone(flags: int, group: int | None = None) -> tuple[int, int]:
    """Fork into new namespaces. Returns (pid, pidfd) in the parent and (0, -1) in the child.

    `group` is the directory of a control group of v2 that the child is born in (Linux 5.7).

    JUSTIFICATION: `os.fork` knows no flags, and unshare(2) would cost a second fork to become
    pid 1. SAFETY: only for a process with one thread; the child has no new stack, so it goes on
    as after fork(2), and does what single-threaded Python does until it executes a program or
    ends by `os._exit`.
    """
    pidfd = c.c_int(-1)
    arguments = CloneArgs(
        flags=flags | CLONE_PIDFD | (0 if group is None else CLONE_INTO_CGROUP),
        pidfd=c.addressof(pidfd),
        exit_signal=signal.SIGCHLD,
        cgroup=group or 0,
    )
    pid = c.syscall(c.CLONE3, c.byref(arguments), c.sizeof(arguments))
    return (pid, pidfd.value) if pid else (0, -1)


def clone_sibling(flags: int) -> tuple[int, int]:
    """As `clone`, but the child is one of our parent (CLONE_PARENT).

    JUSTIFICATION and SAFETY as there. clone3(2) takes no signal to send with this flag.
    """
    pidfd = c.c_int(-1)
    arguments = CloneArgs(flags=flags | CLONE_PIDFD | CLONE_PARENT, pidfd=c.addressof(pidfd))
    pid = c.syscall(c.CLONE3, c.byref(arguments), c.sizeof(arguments))
    return (pid, pidfd.value) if pid else (0, -1)


def setns(descriptor: int, flag: int) -> None:
    """Join a namespace of one type, setns(2). Raises OSError."""
    c.check(_setns(descriptor, flag))


def has_namespace(kind: str) -> bool:
    """Whether the running kernel knows this type of namespace (its name in the OCI words)."""
    return os.path.exists(f"/proc/self/ns/{FILE_OF_NAMESPACE.get(kind, kind)}")


def unshare(flags: int) -> None:
    """unshare(2). Raises OSError."""
    c.check(_unshare(flags))


def pidfd_open(pid: int) -> int:
    """A descriptor of a process that is not reaped yet; it is readable when the process ended."""
    return c.syscall(c.PIDFD_OPEN, pid, 0)


def send_signal(pidfd: int, number: int) -> None:
    """Signal the process behind a pidfd, which can be no other by then. Raises OSError."""
    signal.pidfd_send_signal(pidfd, number)


def wait_ended(pidfd: int) -> None:
    """Wait until a process that need not be a child of ours has ended."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.poll()


def reap(pidfd: int) -> None:
    """Take what is left of a process that ended, if it is a child of ours that nobody reaped."""
    try:
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        pass


def reap_all() -> None:
    """The same for every child of ours."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def pid_of(pidfd: int) -> int:
    """The process behind a pidfd as numbered in our own pid namespace, -1 when it is gone.

    Source: /proc/self/fdinfo/N, line "Pid:" (pidfd_open(2), NOTES).
    """
    for line in reading.whole(f"/proc/self/fdinfo/{pidfd}").splitlines():
        if line.startswith(b"Pid:"):
            return int(line[4:])
    return -1


def inner_pid_of(pidfd: int) -> int | None:
    """The process behind a pidfd as its own pid namespace numbers it; None: gone, or in ours.

    Source: /proc/self/fdinfo/N, line "NSpid:" (pidfd_open(2), NOTES): from our namespace down.
    """
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("NSpid:"):
                numbers = [int(word) for word in line[6:].split()]
                return numbers[-1] if len(numbers) > 1 and numbers[-1] > 1 else None
    return None


def prctl(option: int, value: int) -> None:
    """prctl(2) with one argument. Raises OSError."""
    c.check(
        _prctl(
            c.c_int(option),
            c.c_ulong(value),
            c.c_ulong(0),
            c.c_ulong(0),
            c.c_ulong(0),
        )
    )


def set_identity(uid: int, gid: int, groups: Sequence[int] | None) -> None:
    """Take on all four ids and the groups, in this thread alone; None leaves the groups.

    JUSTIFICATION: the C library's functions change every thread of the process (nptl(7)), the
    system calls only the one that makes them. SAFETY: the array lives until the call is over.
    """
    if groups is not None:
        array = (c.c_uint32 * len(groups))(*groups)
        c.syscall(c.number("setgroups"), len(groups), c.byref(array))
    c.syscall(c.number("setresgid"), gid, gid, gid)
    c.syscall(c.number("setresuid"), uid, uid, uid)


def end_with_parent() -> None:
    """Get SIGKILL when the parent ends. Must be said again after each change of identity."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def set_name(name: str) -> None:
    """The name that `ps` shows, 15 bytes at most (PR_SET_NAME)."""
    c.check(_prctl(c.c_int(PR_SET_NAME), name.encode()[:15], 0, 0, 0))


def close_all_but(keep: tuple[int, ...]) -> None:
    """Close every descriptor that is not named. Raises OSError."""
    start = 0
    for descriptor in sorted(set(keep)):
        if descriptor > start:
            c.syscall(c.CLOSE_RANGE, start, descriptor - 1, 0)
        start = descriptor + 1
    c.syscall(c.CLOSE_RANGE, start, 0xFFFFFFFF, 0)


def child_signal_descriptor() -> int:
    """Block SIGCHLD and return a descriptor that is readable when a child ended."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGCHLD,))
    # sigset_t of the C library: 1024 bits, signal n is bit n - 1.
    mask = (c.c_ubyte * 128)()
    mask[(signal.SIGCHLD - 1) // 8] = 1 << ((signal.SIGCHLD - 1) % 8)
    return c.check(_signalfd(-1, mask, SFD_NONBLOCK | SFD_CLOEXEC))


_area: list[tuple[int, int]] = []


def argument_area() -> tuple[int, int]:
    """Return the first address of this process's arguments and the one after them, (0, 0): unknown.

    Asked once: a fork has them where its parent had.
    """
    if not _area:
        _area.append(_read_area())
    return _area[0]


def _read_area() -> tuple[int, int]:
    """Fields arg_start and arg_end of /proc/PID/stat, proc(5)."""
    try:
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b") ")[2].split()
    except FileNotFoundError:
        return 0, 0  # no /proc, so nothing is shown
    return int(fields[45]), int(fields[46])


def set_command_line(text: str) -> None:
    """Write over the arguments that /proc/PID/cmdline shows.

    JUSTIFICATION: PR_SET_MM_ARG_START needs CAP_SYS_RESOURCE on the host. SAFETY: the kernel's own
    word on where they lie; Python copied them.
    """
    start, end = argument_area()
    if start:
        _memmove(start, text.encode().ljust(end - start, b"\0")[: end - start], end - start)
