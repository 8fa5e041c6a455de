"""The system calls that the confined process may make; every other one gets EPERM.

None of them opens a socket, executes a program, makes a namespace or a mount. A thread may be
started, a process not.
"""

from __future__ import annotations

import errno
import functools

from sandbox_kernel.linux import seccomp, seccomp_cache

_CLONE_THREAD = 0x00010000

_FILES = (
    "read readv pread64 write writev pwrite64 lseek close fstat newfstatat statx openat openat2 "
    "mkdirat mknodat symlinkat linkat unlinkat renameat renameat2 readlinkat fchmod fchmodat "
    "fchmodat2 fchown fchownat utimensat ftruncate fallocate copy_file_range sendfile getdents64 "
    "fsetxattr fgetxattr flistxattr fremovexattr fcntl dup faccessat faccessat2"
)
# What old machines have beside these, under names of their own; C libraries use them there.
_OLDER = "open stat lstat mkdir unlink rmdir rename link symlink chmod readlink mknod poll select"
_MEMORY = "brk mmap munmap mprotect mremap madvise"
_PROCESS = (
    "futex futex_waitv sched_yield sched_getaffinity set_robust_list rseq gettid getpid getuid "
    "geteuid getgid getegid rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack restart_syscall "
    "clock_gettime clock_nanosleep clock_getres gettimeofday exit exit_group getrandom ppoll "
    "getrusage tgkill sendmsg sendto recvmsg recvfrom prlimit64"
)


@functools.cache
def program() -> bytes:
    """The filter, compiled (and kept on disk) by `linux/seccomp.py`. Raises HostLacks."""
    profile: seccomp.Profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": errno.EPERM,
        "syscalls": [
            {
                "names": [*_FILES.split(), *_OLDER.split(), *_MEMORY.split(), *_PROCESS.split()],
                "action": "SCMP_ACT_ALLOW",
            },
            {
                "names": ["clone"],
                "action": "SCMP_ACT_ALLOW",
                "args": [
                    {
                        "index": 0,
                        "value": _CLONE_THREAD,
                        "valueTwo": _CLONE_THREAD,
                        "op": "SCMP_CMP_MASKED_EQ",
                    }
                ],
            },
            # The C library then starts a thread by clone(2), whose flags can be seen.
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS},
        ],
    }
    return seccomp_cache.program(profile)
