"""Calls that are worth trying in a container, each made there for real, and who refused it.

Who it was is read from the kernel's answer and from three things that are known of the process: the
filter's own program, the capabilities that it holds, and which namespace they count in. Needs of
calls: the manual pages of section 2, and capabilities(7).
"""

from __future__ import annotations

import errno
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sandbox_kernel import errors
from sandbox_kernel.container import Container, looking
from sandbox_kernel.linux import seccomp, seccomp_answers, seccomp_cache
from sandbox_kernel.observe import capabilities, filters
from sandbox_kernel.observe.calls import error_name

FILTER, CAPABILITIES, USER_NAMESPACE = "seccomp filter", "capabilities", "user namespace"
MOUNTS, GROUP, KERNEL, NOBODY = "mounts", "control group", "kernel", "nobody"
LAYERS = (FILTER, CAPABILITIES, USER_NAMESPACE, MOUNTS, GROUP, KERNEL, NOBODY)

_NO_FOLDER = -100  # AT_FDCWD
_WRITE = 1  # O_WRONLY
_BLOCK_DEVICE = 0o060600  # S_IFBLK with 0600
_FIRST_DISK = 8 << 8  # makedev(8, 0)
_ONE_SECOND = (1).to_bytes(8, "little") + bytes(8)


class Trial(NamedTuple):
    """A call with arguments that would do something, if it were let."""

    name: str
    call: str
    arguments: tuple[looking.Argument, ...]
    needs: str | None
    """The capability that the kernel asks for."""
    where: str = "own"
    """`own`: the user namespace of what it acts on. `first`: the machine's, whoever asks."""


TRIALS = (
    Trial("ask for its own number", "getpid", (), None),
    Trial("mount a file system", "mount",
          ({"text": "none"}, {"text": "/mnt"}, {"text": "tmpfs"}, 0, 0), "CAP_SYS_ADMIN"),
    Trial("change the host name", "sethostname", ({"text": "mine"}, 4), "CAP_SYS_ADMIN"),
    Trial("make a user namespace", "unshare", (0x10000000,), None),
    Trial("become another user", "setuid", (1,), "CAP_SETUID"),
    Trial("give a file away", "fchownat",
          (_NO_FOLDER, {"text": "/"}, 1, 1, 0), "CAP_CHOWN"),
    Trial("make a device", "mknodat",
          (_NO_FOLDER, {"text": "/disk"}, _BLOCK_DEVICE, _FIRST_DISK), "CAP_MKNOD", "first"),
    Trial("take another root directory", "chroot", ({"text": "/"},), "CAP_SYS_CHROOT"),
    Trial("send raw packets", "socket", (17, 3, 0), "CAP_NET_RAW"),
    Trial("take a better priority", "setpriority", (0, 0, -5), "CAP_SYS_NICE", "first"),
    Trial("look into another process", "ptrace", (16, 1, 0, 0), "CAP_SYS_PTRACE"),
    Trial("write a setting of the kernel", "openat",
          (_NO_FOLDER, {"text": "/proc/sys/kernel/core_pattern"}, _WRITE), None),
    Trial("load a kernel module", "init_module", (0, 0, {"text": ""}), "CAP_SYS_MODULE", "first"),
    Trial("restart the machine", "reboot",
          (0xFEE1DEAD, 672274793, 0, 0), "CAP_SYS_BOOT", "first"),
    Trial("set the clock", "clock_settime",
          (0, {"room": _ONE_SECOND.hex()}), "CAP_SYS_TIME", "first"),
    Trial("read the kernel's messages", "syslog", (3, {"room": ""}, 100), "CAP_SYSLOG", "first"),
    Trial("load a BPF program", "bpf", (5, {"room": ""}, 48), "CAP_BPF", "first"),
    Trial("measure the machine", "perf_event_open",
          ({"room": ""}, 0, -1, -1, 0), "CAP_PERFMON", "first"),
    Trial("use io_uring", "io_uring_setup", (1, {"room": ""}), None),
    Trial("keep a key in the kernel", "keyctl", (0, -3, 1), None),
)  # fmt: skip
BY_NAME = {trial.name: trial for trial in TRIALS}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened."""

    name: str
    call: str
    result: int | None
    """What it returned; None: it did not succeed."""
    error: str
    """EPERM, ...; SIGSYS and the like where it ended its process; "" when it was let."""
    layer: str
    """One of `LAYERS`: who refused."""
    why: str
    source: str


def attempt(container: Container, name: str) -> Outcome:
    """Make the call of `TRIALS` of this name, or any call by its own name with zeros.

    Raises InvalidOption for a call that this machine does not have, NoSuchContainer, StepFailed.
    """
    trial = BY_NAME.get(name) or Trial(name, name, (0,) * 6, None)
    number = seccomp.number_of(trial.call)
    if number is None:
        raise errors.InvalidOption("call", name, "the name of a system call of this machine")
    answered = looking.call(container, number, trial.arguments)
    if answered.signal is None and answered.errno == 0:
        return Outcome(trial.name, trial.call, answered.result, "", NOBODY, "it was let", "call")
    error = answered.errno if answered.signal is None else 0
    shown = error_name(error) if answered.signal is None else signal.Signals(answered.signal).name
    layer, why, source = _refuser(container, trial, number, error)
    return Outcome(trial.name, trial.call, None, shown, layer, why, source)


def _refuser(container: Container, trial: Trial, number: int, error: int) -> tuple[str, str, str]:
    """The layer, the reason, and where it was read that it was this one."""
    profile = filters.profile_of(container.plan)
    if profile is not None:
        said = _filter_says(profile, trial.arguments, number)
        if said == error:
            why = f"the filter answers {error_name(error)} before the kernel looks at the call"
            return FILTER, why, "the compiled filter"
    if error in (errno.EPERM, errno.EACCES) and trial.needs:
        return _for_want_of(container, trial)
    if error == errno.EROFS:
        return MOUNTS, "what it would write to is mounted read-only", "mountinfo"
    if error in (errno.EAGAIN, errno.ENOMEM):
        return GROUP, "a limit of the container is reached", "cgroup"
    if error in (errno.EPERM, errno.EACCES):
        return USER_NAMESPACE, "it belongs to a user that the container does not have", "uid_map"
    return KERNEL, "the kernel looked at it and says no for another reason", "call"


def _filter_says(
    profile: seccomp.Profile, arguments: Sequence[looking.Argument], number: int
) -> int | None:
    architecture = seccomp_answers.here()
    known = [each if isinstance(each, int) else 1 for each in arguments]
    answers = seccomp_answers.Answers(seccomp_cache.program(profile))
    return answers.refuses(number, known, architecture)


def _for_want_of(container: Container, trial: Trial) -> tuple[str, str, str]:
    """What a process there holds is what the plan gives: no program can get more."""
    held = filters.held(container.plan)
    source = f"/proc/{container.pid}/status"
    meaning = capabilities.MEANS.get(trial.needs or "", "")
    if trial.needs not in held:
        why = f"the kernel asks for {trial.needs} ({meaning}), which is not in its sets"
        return CAPABILITIES, why, source
    why = f"it has {trial.needs}, but over its own user namespace; this belongs to the machine"
    return USER_NAMESPACE, why, source
