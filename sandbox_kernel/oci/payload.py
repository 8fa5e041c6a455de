"""The last steps of a process in a container, by the `process` object, in the only right order.

As `runtime.payload`, for all that the specification has: five different sets of capabilities, a
terminal, a scheduler, an I/O priority, labels of security modules, a personality.
"""

from __future__ import annotations

import _signal as signal  # `signal` is the same with enumerations around it, slow to import
import _socket as socket  # all that is needed here of `socket`, which is slow to import
import _struct as struct  # all that is needed here of `struct`, which takes longer to import
import fcntl
import os

from sandbox_kernel.linux import capabilities, processes, seccomp_install
from sandbox_kernel.linux import libc as c
from sandbox_kernel.oci.faults import StepFailed, doing, wrong
from sandbox_kernel.runtime import becoming
from sandbox_kernel.runtime.cgroups import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, NoReturn

# include/uapi/linux/sched.h, include/uapi/linux/ioprio.h, include/uapi/linux/personality.h
POLICIES = {
    "SCHED_OTHER": 0, "SCHED_FIFO": 1, "SCHED_RR": 2, "SCHED_BATCH": 3, "SCHED_ISO": 4,
    "SCHED_IDLE": 5, "SCHED_DEADLINE": 6,
}  # fmt: skip
SCHED_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01, "SCHED_FLAG_RECLAIM": 0x02, "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08, "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20, "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}  # fmt: skip
MULTIPLEXER = (5, 2)
"""Of terminals, Documentation/admin-guide/devices.txt."""
IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
TAKEN = b"taken"
"""What a process hears when its listener is with who answers; before, it executes nothing."""
PERSONALITIES = {"LINUX": 0x0000, "LINUX32": 0x0008}
_NUMBERS = {
    "x86_64": {"sched_setattr": 314, "ioprio_set": 251},
    "aarch64": {"sched_setattr": 274, "ioprio_set": 30},
}


class Filter:
    """A program of rules for system calls, and the flags of seccomp(2) to install it with."""

    __slots__ = ("flags", "program")

    def __init__(self, program: bytes, flags: int) -> None:
        self.program = program
        self.flags = flags

    def install(self, channel: int, *, no_new_privs: bool) -> None:
        """Put it on this process; if it asks somebody, its listener is sent over `channel`, and
        `TAKEN` is waited for.

        Raises StepFailed.
        """
        flags, quiet = self.flags, no_new_privs
        if not flags & seccomp_install.SECCOMP_FILTER_FLAG_NEW_LISTENER:
            seccomp_install.install(self.program, no_new_privs=quiet, flags=flags)
            return
        from sandbox_kernel.linux import seccomp_notify  # `filter_of` imported it outside

        text = b'{"at":"asks"}'
        seccomp_notify.install(self.program, channel, text, no_new_privs=quiet, flags=flags)
        subject = "the listener of system calls"
        with doing("wait for who takes", subject):
            taken = os.read(channel, len(TAKEN))
        if taken != TAKEN:
            raise StepFailed("hand over", subject, "nobody took it")


def filter_of(linux: Mapping[str, Any]) -> Filter | None:
    """What `linux.seccomp` says. Raises InvalidOption, StepFailed, HostLacks."""
    profile = linux.get("seccomp")
    if not profile:
        return None
    from sandbox_kernel.linux import seccomp_cache

    flags = 0
    if any(profile.get(name) for name in ("flags", "listenerPath", "listenerMetadata")) or any(
        rule.get("action") == "SCMP_ACT_NOTIFY"
        for rule in (*(profile.get("syscalls") or ()), {"action": profile.get("defaultAction")})
    ):
        from sandbox_kernel.linux import seccomp_notify  # noqa: F401 - for who has no imports then
        from sandbox_kernel.oci import listeners

        flags = listeners.flags(profile)
    return Filter(seccomp_cache.program(profile), flags)


def open_terminal(process: Mapping[str, Any], console: socket.socket | None) -> int:
    """A new terminal, its master end sent over the caller's socket; returns the other end.

    It becomes the controlling terminal and the three standard streams. In the new root, where
    /dev/pts is the container's own. Raises StepFailed.
    """
    with doing("open a terminal of", "/dev/ptmx"):
        master = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        number = os.fstat(master).st_rdev
        if (os.major(number), os.minor(number)) != MULTIPLEXER:  # the image's, if it has its own
            raise StepFailed("open a terminal of", "/dev/ptmx", "it is not the device of that name")
        os.set_blocking(master, True)
        fcntl.ioctl(master, 0x40045431, struct.pack("i", 0))  # TIOCSPTLCK
        slave = fcntl.ioctl(master, 0x5441, os.O_RDWR | os.O_NOCTTY)  # TIOCGPTPEER
        size = process.get("consoleSize") or {}
        if size:
            rows, columns = size.get("height", 24), size.get("width", 80)
            fcntl.ioctl(slave, 0x5414, struct.pack("HHHH", rows, columns, 0, 0))  # TIOCSWINSZ
        fcntl.ioctl(slave, 0x540E, 0)  # TIOCSCTTY
    if console is not None:
        with doing("send the terminal to", "the console socket"):
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", master))
            console.sendmsg([b"/dev/ptmx"], [rights])
            console.close()
    for number in (0, 1, 2):
        os.dup2(slave, number)
    os.close(master)
    return slave


def check(process: Mapping[str, Any]) -> None:
    """Raises StepFailed, in the container's root, if its program can't be executed."""
    environment = dict(entry.partition("=")[::2] for entry in process.get("env") or ())
    name = process["args"][0]
    found = becoming.paths_of(name, environment.get("PATH", ""))
    for path in found:
        if os.access(path, os.X_OK) and not os.path.isdir(path):
            return
    there = any(os.path.exists(path) for path in found)
    why = "permission denied" if there else "executable file not found"
    raise StepFailed("execute", name, why, 13 if there else 2)


def set_oom_score(pid: int, process: Mapping[str, Any]) -> None:
    """By who is outside still: in a user namespace nobody may change his own. Raises StepFailed."""
    if process.get("oomScoreAdj") is None:
        return
    path, text = f"/proc/{pid}/oom_score_adj", str(process["oomScoreAdj"])
    with doing(f"write `{text}` to", path):
        files.write(path, text)


def become(
    process: Mapping[str, Any],
    linux: Mapping[str, Any],
    filter_: Filter | None,
    *,
    preserved: int,
    keep: int,
    proc: int | None,
    sets_groups: bool,
) -> NoReturn:
    """Take on all that the process shall have and execute it. `keep` closes itself then.

    `proc` is the top of a proc that is not the container's, for who `writes_about_us`;
    `sets_groups` what `may_set_groups` said outside. Raises StepFailed, InvalidOption.
    """
    environment = dict(entry.partition("=")[::2] for entry in process.get("env") or ())
    user = process.get("user") or {}
    uid, gid, groups, home = becoming.identity(user, needs_home="HOME" not in environment)
    for limit in process.get("rlimits") or ():
        becoming.set_rlimit(limit)
    _set_scheduler(process.get("scheduler"))
    _set_io_priority(process.get("ioPriority"))
    _set_personality(linux.get("personality"))
    held = process.get("capabilities") or {}
    masks = {name: capabilities.to_mask(held.get(name) or ()) for name in _SETS}
    # The kernel lets no others be ambient; buildah lists those that it permits.
    masks["ambient"] &= masks["permitted"] & masks["inheritable"]
    with doing("drop", "capabilities from the bounding set"):
        capabilities.drop_bounding(masks.pop("bounding"))
    os.umask(user.get("umask", 0o022))
    with doing("set identity", f"{uid}:{gid}"):
        if masks["permitted"] and uid != 0:
            processes.prctl(processes.PR_SET_KEEPCAPS, 1)
        processes.set_identity(uid, gid, groups if sets_groups else None)
    becoming.change_directory(process.get("cwd") or "/")
    if profile := process.get("apparmorProfile"):
        _write_about_us(proc, "attr/apparmor/exec", f"exec {profile}")
    if label := process.get("selinuxLabel"):
        _write_about_us(proc, "attr/exec", label)
    # Without no_new_privs a filter needs CAP_SYS_ADMIN, which the next step may take.
    quiet = bool(process.get("noNewPrivileges"))
    if filter_ is not None and not quiet:
        filter_.install(keep, no_new_privs=False)
    capabilities.set_sets(**masks)
    if quiet:
        with doing("set", "no_new_privs"):
            processes.prctl(processes.PR_SET_NO_NEW_PRIVS, 1)
    environment.setdefault("HOME", home)
    arguments = process["args"]
    found = becoming.paths_of(arguments[0], environment.get("PATH", ""))
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in range(3, 3 + preserved):
        _keep_open(number)
    processes.close_all_but((*range(3 + preserved), keep))
    if filter_ is not None and quiet:
        filter_.install(keep, no_new_privs=True)
    becoming.execute(os.execve, found, arguments, environment)
    raise AssertionError("execve returned")


_SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")


def _keep_open(number: int) -> None:
    with doing("keep open descriptor", str(number)):
        os.set_inheritable(number, True)


def may_set_groups() -> bool:
    """Whether this user namespace allows setgroups(2), asked before a container is entered."""
    with open("/proc/self/setgroups", "rb") as file:
        return file.read().strip() == b"allow"


def writes_about_us(process: Mapping[str, Any]) -> bool:
    """Whether `become` has to write files of /proc."""
    return bool(process.get("apparmorProfile") or process.get("selinuxLabel"))


def _write_about_us(proc: int | None, name: str, text: str) -> None:
    from sandbox_kernel.linux import procfs  # whoever opened `proc` has it imported

    with doing(f"write `{text}` to", f"/proc/self/{name}"):
        if proc is None:
            raise StepFailed("write", f"/proc/self/{name}", "no proc was opened")
        procfs.write_about_us(proc, name, text)


def _number(name: str) -> int:
    if c.MACHINE not in _NUMBERS:
        raise StepFailed("call", name, f"its number on {c.MACHINE} is not known")
    return _NUMBERS[c.MACHINE][name]


def _set_scheduler(wanted: Mapping[str, Any] | None) -> None:
    if not wanted:
        return
    policy = POLICIES.get(str(wanted.get("policy")))
    if policy is None:
        raise wrong("process.scheduler.policy", wanted.get("policy"), ", ".join(POLICIES))
    flags = 0
    for flag in wanted.get("flags") or ():
        if flag not in SCHED_FLAGS:
            raise wrong("process.scheduler.flags", flag, ", ".join(SCHED_FLAGS))
        flags |= SCHED_FLAGS[flag]
    # struct sched_attr { u32 size, policy; u64 flags; s32 nice; u32 priority;
    #                     u64 runtime, deadline, period; }
    attributes = struct.pack(
        "=IIQiIQQQ", 48, policy, flags, wanted.get("nice", 0), wanted.get("priority", 0),
        wanted.get("runtime", 0), wanted.get("deadline", 0), wanted.get("period", 0),
    )  # fmt: skip
    buffer = (c.c_char * len(attributes)).from_buffer_copy(attributes)
    with doing("set scheduler", str(wanted["policy"])):
        c.syscall(_number("sched_setattr"), 0, c.byref(buffer), 0)


def _set_io_priority(wanted: Mapping[str, Any] | None) -> None:
    if not wanted:
        return
    kind = IO_CLASSES.get(str(wanted.get("class")))
    if kind is None:
        raise wrong("process.ioPriority.class", wanted.get("class"), ", ".join(IO_CLASSES))
    with doing("set I/O priority", str(wanted["class"])):
        c.syscall(_number("ioprio_set"), 1, 0, kind << 13 | int(wanted.get("priority", 0)))


def _set_personality(wanted: Mapping[str, Any] | None) -> None:
    if not wanted:
        return
    value = PERSONALITIES.get(str(wanted.get("domain")))
    if value is None:
        raise wrong("linux.personality.domain", wanted.get("domain"), ", ".join(PERSONALITIES))
    if wanted.get("flags"):
        raise wrong("linux.personality.flags", wanted["flags"], "nothing: none is defined")
    with doing("set personality", str(wanted["domain"])):
        c.check(c.libc.personality(c.c_ulong(value)))
