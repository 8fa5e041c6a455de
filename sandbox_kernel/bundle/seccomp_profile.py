"""Which system calls a container may make: the tables, and the profile made of them.

An allow-list: what no table names answers ENOSYS, as a kernel that is too old would, so programs
fall back. What is known and refused answers EPERM, so that the reader of an error learns that it
was refused. How a profile becomes a program is in `linux/seccomp.py`.

The kernel passes arguments as 64 bits, and for many calls uses the low 32 only: a filter that
compares all 64 lets `TIOCSTI | 1 << 32` through. Every comparison here is masked to 32 bits.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from sandbox_kernel.linux.seccomp import Argument, Profile, Rule


class Group(NamedTuple):
    """Calls that stand or fall together."""

    name: str
    why: str
    calls: tuple[str, ...]


def _group(name: str, why: str, calls: str) -> Group:
    return Group(name, why, tuple(calls.split()))


ALLOWED = (
    _group(
        "files",
        "open, read, write and close; the mounts and the user namespace say which files",
        "access close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 "
        "fadvise64 fallocate fcntl fdatasync flock fstat fsync ftruncate getdents getdents64 "
        "lseek lstat newfstatat open openat openat2 pread64 preadv preadv2 pwrite64 pwritev "
        "pwritev2 read readahead readlink readlinkat readv sendfile splice stat statfs fstatfs "
        "statx sync sync_file_range syncfs tee truncate vmsplice write writev cachestat",
    ),
    _group(
        "names and attributes",
        "directories, links, owners, modes, times, extended attributes",
        "chdir chmod chown fchdir fchmod fchmodat fchmodat2 fchown fchownat fgetxattr flistxattr "
        "fremovexattr fsetxattr futimesat getcwd getxattr getxattrat lchown lgetxattr link linkat "
        "listxattr listxattrat llistxattr lremovexattr lsetxattr mkdir mkdirat mknod mknodat "
        "name_to_handle_at removexattr removexattrat rename renameat renameat2 rmdir setxattr "
        "setxattrat symlink symlinkat umask unlink unlinkat utime utimensat utimes",
    ),
    _group(
        "memory",
        "mappings, protection, locking within RLIMIT_MEMLOCK, shadow stacks",
        "brk madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 "
        "mlockall mmap mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free "
        "pkey_mprotect remap_file_pages",
    ),
    _group(
        "processes and threads",
        "start, wait, end; identity within the user namespace; own attributes",
        "arch_prctl capget capset execve execveat exit exit_group fork get_robust_list "
        "get_thread_area getcpu getegid geteuid getgid getgroups getpgid getpgrp getpid getppid "
        "getpriority getresgid getresuid getrlimit getrusage getsid gettid getuid ioprio_get "
        "ioprio_set kill pidfd_open pidfd_send_signal prctl prlimit64 process_mrelease "
        "restart_syscall riscv_flush_icache riscv_hwprobe rseq seccomp set_robust_list "
        "set_thread_area set_tid_address setfsgid setfsuid setgid setgroups setpgid setpriority "
        "setregid setresgid setresuid setreuid setrlimit setsid setuid sysinfo tgkill times tkill "
        "uname vfork wait4 waitid",
    ),
    _group(
        "own sandboxes",
        "a process may take rights away from itself: Landlock and further filters",
        "landlock_add_rule landlock_create_ruleset landlock_restrict_self lsm_get_self_attr "
        "lsm_list_modules",
    ),
    _group(
        "signals",
        "handlers, masks, queues, alternate stacks, and pausing",
        "pause rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn "
        "rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sigaltstack signalfd signalfd4",
    ),
    _group(
        "scheduling",
        "priorities and processors; the cgroup has the last word",
        "sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr "
        "sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr "
        "sched_setparam sched_setscheduler sched_yield",
    ),
    _group(
        "time",
        "clocks, sleeping, timers; setting a clock needs a capability that nobody here has",
        "adjtimex alarm clock_adjtime clock_getres clock_gettime clock_nanosleep getitimer "
        "gettimeofday nanosleep setitimer time timer_create timer_delete timer_getoverrun "
        "timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime",
    ),
    _group(
        "waiting",
        "polling, event descriptors, file watches, futexes, pipes",
        "epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd "
        "eventfd2 futex futex_requeue futex_wait futex_waitv futex_wake inotify_add_watch "
        "inotify_init inotify_init1 inotify_rm_watch pipe pipe2 poll ppoll pselect6 select",
    ),
    _group(
        "asynchronous input and output",
        "the old kind; io_uring is refused, see below",
        "io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit",
    ),
    _group(
        "sockets",
        "all but their making, which has conditions below",
        "accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg "
        "recvmsg sendmmsg sendmsg sendto setsockopt shutdown",
    ),
    _group(
        "System V and POSIX queues, semaphores, shared memory",
        "in an IPC namespace of the container's own",
        "mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget "
        "msgrcv msgsnd semctl semget semop semtimedop shmat shmctl shmdt shmget",
    ),
    _group("randomness", "seeds of every program", "getrandom"),
)

REFUSED = (
    _group(
        "mounts",
        "the container's tree is made once, outside",
        "fsconfig fsmount fsopen fspick mount mount_setattr move_mount open_tree open_tree_attr "
        "pivot_root umount2 umount",
    ),
    _group("another root", "the way out of a careless root", "chroot"),
    _group(
        "namespaces",
        "a namespace of one's own opens most of the kernel to a caller with no rights",
        "setns unshare",
    ),
    _group(
        "other processes",
        "memory and descriptors of other processes",
        "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace",
    ),
    _group(
        "memory placement",
        "moves pages of the machine's nodes, also those of other processes",
        "get_mempolicy mbind migrate_pages move_pages set_mempolicy set_mempolicy_home_node",
    ),
    _group("host name", "set outside, by the plan", "setdomainname sethostname"),
    _group("kernel log", "belongs to the host", "syslog"),
    _group("terminal hang-up", "belongs to the host", "vhangup"),
    _group(
        "keys",
        "keyrings know no namespace: what one user keeps there another container sees",
        "add_key keyctl request_key",
    ),
    _group(
        "programs and probes in the kernel",
        "bpf, perf and userfaultfd have been the tools of most kernel exploits",
        "bpf perf_event_open userfaultfd",
    ),
    _group(
        "io_uring",
        "runs operations out of the filter's sight",
        "io_uring_enter io_uring_register io_uring_setup",
    ),
    _group("file handles", "opens files past every mount (shocker)", "open_by_handle_at"),
    _group(
        "whole file systems",
        "watches or limits all of one",
        "fanotify_init fanotify_mark quotactl quotactl_fd",
    ),
    _group(
        "kernel modules",
        "code for the kernel",
        "create_module delete_module finit_module get_kernel_syms init_module query_module",
    ),
    _group(
        "another kernel",
        "replaces or stops the running one",
        "kexec_file_load kexec_load reboot",
    ),
    _group("swap and accounting", "settings of the machine", "acct swapoff swapon"),
    _group("clocks", "settings of the machine", "clock_settime settimeofday"),
    _group("ports of the hardware", "below every other wall", "ioperm iopl"),
    _group("segments", "only 16-bit programs need it; several flaws in the past", "modify_ldt"),
    _group(
        "old and odd",
        "no program of this century needs them",
        "_sysctl bdflush lookup_dcookie nfsservctl sysfs uselib ustat",
    ),
)

# What a capability adds. It holds in the container's own user namespace only. Calls on the machine
# as a whole stay refused whatever is added, as the kernel would refuse them there anyway.
BY_CAPABILITY = {
    "CAP_SYS_ADMIN": "fsconfig fsmount fsopen fspick mount mount_setattr move_mount open_tree "
    "open_tree_attr pivot_root setdomainname sethostname setns umount2 umount",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_PTRACE": "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace",
    "CAP_SYS_NICE": "get_mempolicy mbind migrate_pages move_pages set_mempolicy "
    "set_mempolicy_home_node",
}

# include/uapi/asm-generic/ioctls.h
TIOCSTI = 0x5412  # types into the terminal
TIOCLINUX = 0x541C  # pastes into the console
TIOCSETD = 0x5423  # loads a line discipline, kernel code for modems with a bad record
REFUSED_REQUESTS = (TIOCSTI, TIOCLINUX, TIOCSETD)

# include/uapi/linux/sched.h. CLONE_NEWTIME shares its bit with the exit signal, clone can't use it.
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
NAMESPACE_FLAGS = (
    CLONE_NEWNS
    | CLONE_NEWCGROUP
    | CLONE_NEWUTS
    | CLONE_NEWIPC
    | CLONE_NEWUSER
    | CLONE_NEWPID
    | CLONE_NEWNET
)

# include/linux/socket.h and include/uapi/linux/netlink.h
AF_UNIX = 1
AF_INET = 2
AF_INET6 = 10
AF_NETLINK = 16
AF_PACKET = 17
FAMILIES = (AF_UNIX, AF_INET, AF_INET6, AF_NETLINK)
NETLINK_ROUTE = 0  # the C library asks it for interfaces and addresses
NETLINK_NETFILTER = 12
NETLINK_GENERIC = 16

# include/uapi/linux/personality.h: what is, Linux, UNAME26, both, and the question "which?".
PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)

# include/uapi/asm-generic/mman-common.h and include/uapi/linux/shm.h
PROT_WRITE = 0x2
PROT_EXEC = 0x4
MAP_ANONYMOUS = 0x20
SHM_EXEC = 0x8000

STRICT = _group(
    "memory files",
    "memory that could be mapped to be executed",
    "memfd_create memfd_secret",
)
"""What a container with `strict` is refused beyond what has conditions."""

OURS = _group(
    "our own runners",
    "what a cell, a kernel and the start of a program call, in all spellings that libraries have",
    "accept accept4 access arch_prctl bind brk chdir chmod clock_gettime clock_nanosleep clone "
    "close close_range connect dup dup2 dup3 epoll_create1 epoll_ctl epoll_pwait epoll_wait "
    "eventfd2 execve execveat exit exit_group faccessat faccessat2 fchmod fchown fcntl "
    "fdatasync fork fstat fstatfs fsync ftruncate futex getcwd getdents64 getegid geteuid "
    "getgid getpeername getpgid getpgrp getpid getppid getrandom getrusage getsockname "
    "getsockopt gettid getuid ioctl kill link linkat listen lseek lstat madvise mkdir mkdirat "
    "mmap mprotect mremap munmap newfstatat open openat pipe pipe2 poll ppoll prctl pread64 "
    "prlimit64 pselect6 pwrite64 read readlink readlinkat readv recvfrom recvmsg rename "
    "renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigprocmask rt_sigreturn "
    "rt_sigtimedwait sched_getaffinity sched_getparam sched_getscheduler sched_setscheduler "
    "sched_yield select sendfile sendmsg sendto set_robust_list set_tid_address setsid "
    "setsockopt shutdown sigaltstack socket socketpair stat statfs statx sysinfo tgkill umask "
    "uname unlink unlinkat vfork wait4 waitid write writev",
)
"""What a filter that was learnt allows always, so that it can be used for cells and kernels too."""
_ON_CONDITIONS = ("ioctl", "clone", "socket", "socketpair", "personality")

_ALL = 0xFFFFFFFF
_Condition = tuple[int, int]  # mask and value: (argument & mask) == value


def profile(
    capabilities: Collection[str] = (),
    also: Collection[str] = (),
    *,
    families: Collection[int] = FAMILIES,
    strict: bool = False,
    learnt: Collection[str] | None = None,
) -> Profile:
    """The `linux.seccomp` object for a container that holds these capabilities.

    `also`: calls that are refused to others, for a process of ours (see `runtime.templates`).
    `families`: of sockets. `strict`: no memory is executed that no file is behind. `learnt`: of
    what is allowed only these calls, and what our own runners need.
    """
    added = {call for name in capabilities for call in BY_CAPABILITY.get(name, "").split()}
    added |= set(also)
    conditional = {call for call, _ in _EXECUTABLE} if strict else set()
    closed = {*STRICT.calls} if strict else set()
    allowed = sorted(
        ({call for group in ALLOWED for call in group.calls} | added) - conditional - closed
    )
    refused = {call for group in REFUSED for call in group.calls} - added - {"unshare"} | closed
    if learnt is not None:
        kept = {*learnt, *OURS.calls, *also}
        refused |= {call for call in allowed if call not in kept}
        allowed = [call for call in allowed if call in kept]
        shut = {call for call in (*_ON_CONDITIONS, *conditional) if call not in kept}
        refused |= shut
    rules: list[Rule] = [
        {"names": allowed, "action": "SCMP_ACT_ALLOW"},
        _refuse(sorted(refused), errno.EPERM),
        # Its flags lie in memory, where a filter can't look. The C library falls back to clone.
        _refuse(["clone3"], errno.ENOSYS),
        *_ioctl(),
        *_clone("CAP_SYS_ADMIN" in capabilities),
        *_sockets(capabilities, families),
        *(_executable() if strict else ()),
        *_one_of("personality", 0, PERSONALITIES, errno.EPERM),
    ]
    if learnt is not None:
        rules = [*rules[:3], *_without(shut, rules[3:])]
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": errno.ENOSYS,
        "syscalls": rules,
    }


def closing(also: Collection[str]) -> Profile:
    """What takes away from a process with `profile(also=also)` that which others do not have.

    Both together answer as `profile()` does. The kernel compiles a filter each time that one is
    installed, and this one is short.
    """
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [_refuse(sorted(also), errno.EPERM)],
    }


def _without(closed: Collection[str], rules: Iterable[Rule]) -> Iterator[Rule]:
    """Rules with conditions, but for calls that are refused whatever their arguments are."""
    for rule in rules:
        if names := [name for name in rule["names"] if name not in closed]:
            yield {**rule, "names": names}


def _ioctl() -> Iterator[Rule]:
    for request in REFUSED_REQUESTS:
        yield _refuse(["ioctl"], errno.EPERM, {1: (_ALL, request)})
    for condition in all_but(REFUSED_REQUESTS):
        yield _allow(["ioctl"], {1: condition})


def _clone(administrator: bool) -> Iterator[Rule]:
    """No new namespaces; with CAP_SYS_ADMIN all but a new user namespace."""
    forbidden = CLONE_NEWUSER if administrator else NAMESPACE_FLAGS
    calls = ["clone", "unshare"] if administrator else ["clone"]
    yield _allow(calls, {0: (forbidden, 0)})
    if not administrator:
        yield _refuse(["unshare"], errno.EPERM)
    lower = 0
    for bit in (1 << n for n in range(32) if forbidden >> n & 1):
        yield _refuse(calls, errno.EPERM, {0: (lower | bit, bit)})
        lower |= bit


_EXECUTABLE: tuple[tuple[str, tuple[dict[int, _Condition], ...]], ...] = (
    (
        "mmap",
        (
            {2: (PROT_EXEC | PROT_WRITE, PROT_EXEC | PROT_WRITE)},
            {2: (PROT_EXEC | PROT_WRITE, PROT_EXEC), 3: (MAP_ANONYMOUS, MAP_ANONYMOUS)},
        ),
    ),
    ("mprotect", ({2: (PROT_EXEC, PROT_EXEC)},)),
    ("pkey_mprotect", ({2: (PROT_EXEC, PROT_EXEC)},)),
    ("shmat", ({2: (SHM_EXEC, SHM_EXEC)},)),
)
"""Calls that make memory executable, and when they are refused then. What the loader of programs
does is left: a file, mapped to be read and executed. The answer is the one of SELinux, upon which
libffi looks for another way."""


def _executable() -> Iterator[Rule]:
    for call, conditions in _EXECUTABLE:
        for condition in conditions:
            yield _refuse([call], errno.EACCES, condition)
    yield _allow(["mmap"], {2: (PROT_EXEC, 0)})
    yield _allow(["mmap"], {2: (PROT_EXEC | PROT_WRITE, PROT_EXEC), 3: (MAP_ANONYMOUS, 0)})
    yield _allow(["mprotect", "pkey_mprotect"], {2: (PROT_EXEC, 0)})
    yield _allow(["shmat"], {2: (SHM_EXEC, 0)})


def _sockets(capabilities: Collection[str], known: Collection[int]) -> Iterator[Rule]:
    """Netlink has conditions of its own; the rest of the families is as it is listed."""
    families = [family for family in known if family != AF_NETLINK]
    families += [AF_PACKET] if "CAP_NET_RAW" in capabilities else []
    if AF_NETLINK not in known:
        for family in families:
            yield _allow(["socket", "socketpair"], {0: (_ALL, family)})
        for condition in all_but(families):
            yield _refuse(["socket", "socketpair"], errno.EAFNOSUPPORT, {0: condition})
        return
    protocols = [NETLINK_ROUTE]
    if "CAP_NET_ADMIN" in capabilities:
        protocols += [NETLINK_NETFILTER, NETLINK_GENERIC]
    calls = ["socket", "socketpair"]
    for family in families:
        yield _allow(calls, {0: (_ALL, family)})
    for condition in all_but([*families, AF_NETLINK]):
        yield _refuse(calls, errno.EAFNOSUPPORT, {0: condition})
    for protocol in protocols:
        yield _allow(calls, {0: (_ALL, AF_NETLINK), 2: (_ALL, protocol)})
    for condition in all_but(protocols):
        yield _refuse(calls, errno.EPROTONOSUPPORT, {0: (_ALL, AF_NETLINK), 2: condition})


def _one_of(call: str, index: int, values: Iterable[int], number: int) -> Iterator[Rule]:
    values = tuple(values)
    for value in values:
        yield _allow([call], {index: (_ALL, value)})
    for condition in all_but(values):
        yield _refuse([call], number, {index: condition})


def all_but(values: Iterable[int]) -> list[_Condition]:
    """Conditions of which exactly one holds for each 32-bit number that is not in `values`.

    libseccomp compares either 64 bits for inequality, or a masked part for equality, and we need
    inequality of 32 bits. So take the binary tree of all numbers and name every subtree that
    holds none of the values: a mask of leading bits, and what they are.
    """
    conditions: list[_Condition] = []

    def walk(prefix: int, bits: int, inside: list[int]) -> None:
        if not inside:
            mask = _ALL << (32 - bits) & _ALL
            conditions.append((mask, prefix))
        elif bits < 32:
            half = 1 << (31 - bits)
            walk(prefix, bits + 1, [v for v in inside if not v & half])
            walk(prefix | half, bits + 1, [v for v in inside if v & half])

    walk(0, 0, list(values))
    return conditions


def _arguments(conditions: dict[int, _Condition]) -> list[Argument]:
    return [
        {"index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}
        for index, (mask, value) in conditions.items()
    ]


def _allow(names: list[str], conditions: dict[int, _Condition] | None = None) -> Rule:
    rule: Rule = {"names": names, "action": "SCMP_ACT_ALLOW"}
    if conditions:
        rule["args"] = _arguments(conditions)
    return rule


def _refuse(names: list[str], number: int, conditions: dict[int, _Condition] | None = None) -> Rule:
    rule: Rule = {"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": number}
    if conditions:
        rule["args"] = _arguments(conditions)
    return rule


def markdown() -> str:
    """The tables as the page docs/reference/seccomp.md."""
    lines = [
        "# System calls",
        "",
        "Made from the tables in `sandbox_kernel/bundle/seccomp_profile.py`.",
        "",
        "Every container gets this filter. What no table names answers `ENOSYS`, as an older",
        "kernel would. Arguments are compared on their low 32 bits. Calls by a foreign entry of",
        "the kernel (32-bit calls on a 64-bit machine, x32) end the process with `SIGSYS`.",
        "",
        "## Allowed",
        "",
        *_table(ALLOWED),
        "",
        "## Allowed on conditions",
        "",
        "| call | passes | else |",
        "|---|---|---|",
        "| `ioctl` | every request but "
        + ", ".join(f"`{name}`" for name in ("TIOCSTI", "TIOCLINUX", "TIOCSETD"))
        + " | `EPERM` |",
        "| `clone` | with no flag for a new namespace | `EPERM` |",
        "| `clone3` | never: its flags can't be seen; programs fall back to `clone` | `ENOSYS` |",
        "| `socket`, `socketpair` | `AF_UNIX`, `AF_INET`, `AF_INET6` | `EAFNOSUPPORT` |",
        "| | `AF_NETLINK` with `NETLINK_ROUTE` | `EPROTONOSUPPORT` |",
        "| `personality` | " + ", ".join(f"`{v:#x}`" for v in PERSONALITIES) + " | `EPERM` |",
        "",
        "## Refused with `EPERM`",
        "",
        *_table(REFUSED),
        "",
        "## With `--strict`",
        "",
        "What makes memory executable that no file is behind answers `EACCES`, and of the families",
        "of sockets those are left that the network has.",
        "",
        "| call | passes | else |",
        "|---|---|---|",
        "| `mmap` | without `PROT_EXEC`; a file with it, without `PROT_WRITE` | `EACCES` |",
        "| `mprotect`, `pkey_mprotect` | without `PROT_EXEC` | `EACCES` |",
        "| `shmat` | without `SHM_EXEC` | `EACCES` |",
        f"| {_calls(STRICT.calls)} | never | `EPERM` |",
        "| `socket`, `socketpair` | no network: `AF_UNIX`; `bridge` or a name: `AF_INET` and "
        "`AF_NETLINK` as above, too | `EAFNOSUPPORT` |",
        "",
        "## A filter that was learnt",
        "",
        "`sandbox-kernel learn-seccomp` proposes one, `--seccomp NAME` has it in force. Of the",
        "calls above those pass that are in it, and always those that our own runners need; all",
        "others answer `EPERM`. It never lets a call pass that is refused without it.",
        "",
        *_table((OURS,)),
        "",
        "## What a capability adds",
        "",
        "Given by `--cap-add`, over the container's own user namespace only. No capability opens",
        "a new user namespace, or a call of the list above that is not named here.",
        "",
        "| capability | calls |",
        "|---|---|",
        *(f"| `{name}` | {_calls(calls.split())} |" for name, calls in BY_CAPABILITY.items()),
        "| `CAP_SYS_ADMIN` | `clone`, `unshare` with namespace flags other than `CLONE_NEWUSER` |",
        "| `CAP_NET_RAW` | `socket` with `AF_PACKET` |",
        "| `CAP_NET_ADMIN` | `socket` with `NETLINK_NETFILTER`, `NETLINK_GENERIC` |",
    ]
    return "\n".join(lines) + "\n"


def _table(groups: Iterable[Group]) -> Iterator[str]:
    yield "| group | why | calls |"
    yield "|---|---|---|"
    for group in groups:
        yield f"| {group.name} | {group.why} | {_calls(group.calls)} |"


def _calls(names: Iterable[str]) -> str:
    return " ".join(f"`{name}`" for name in sorted(names))
