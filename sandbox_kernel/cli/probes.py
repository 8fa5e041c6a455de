"""One probe in a process of its own: `python -I -S probes.py NAME` tries it and prints JSON.

What is tried may change the process for good (a user namespace, a filter of system calls), so every
probe has its own. Standard library only; constants are the kernel's, x86-64 and arm64 alike unless
said otherwise. The answer: {"ok": bool, "found": text, "errno": number, "value": anything}.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import tempfile

# <linux/sched.h>
NAMESPACES = {
    "user": 0x10000000, "mnt": 0x00020000, "pid": 0x20000000, "net": 0x40000000,
    "ipc": 0x08000000, "uts": 0x04000000, "cgroup": 0x02000000, "time": 0x00000080,
}  # fmt: skip
MS_REC, MS_PRIVATE = 1 << 14, 1 << 18  # <linux/mount.h>
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2  # <linux/prctl.h>
SYS_LANDLOCK_CREATE_RULESET, SYS_OPENAT2 = 444, 437  # <asm-generic/unistd.h>
LANDLOCK_CREATE_RULESET_VERSION = 1

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> int:
    """The result of a C call, or OSError naming what was tried."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def unshare(flags: int, what: str) -> None:
    """unshare(2)"""
    check(libc.unshare(ctypes.c_int(flags)), what)


def mount(source: str, target: str, kind: str, flags: int = 0, options: str = "") -> None:
    """mount(2)"""
    words = [ctypes.c_char_p(word.encode()) for word in (source, target, kind)]
    result = libc.mount(*words, ctypes.c_ulong(flags), ctypes.c_char_p(options.encode()))
    check(result, f"mount {kind}")


def namespace(name: str) -> str:
    """A user namespace, and in it one of the other kinds."""
    unshare(NAMESPACES["user"], "unshare user")
    if name != "user":
        unshare(NAMESPACES[name], f"unshare {name}")
    return "made one"


def _be_root_of_one_id() -> None:
    uid, gid = os.getuid(), os.getgid()
    unshare(NAMESPACES["user"] | NAMESPACES["mnt"], "unshare user, mnt")
    for path, text in (
        ("/proc/self/setgroups", "deny"),
        ("/proc/self/uid_map", f"0 {uid} 1"),
        ("/proc/self/gid_map", f"0 {gid} 1"),
    ):
        with open(path, "w") as file:
            file.write(text)
    mount("none", "/", "", MS_REC | MS_PRIVATE)


def overlay() -> str:
    """An overlay on a tmpfs in a user namespace, and a file written through it."""
    _be_root_of_one_id()
    place = tempfile.gettempdir()
    mount("tmpfs", place, "tmpfs")
    for name in ("lower", "upper", "work", "merged"):
        os.mkdir(f"{place}/{name}")
    with open(f"{place}/lower/file", "w") as file:
        file.write("below")
    layers = f"lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work"
    mount("overlay", f"{place}/merged", "overlay", 0, f"{layers},userxattr")
    with open(f"{place}/merged/file", "a") as file:
        file.write(", above")
    with open(f"{place}/upper/file") as file:
        assert file.read() == "below, above"
    return "mounted one with userxattr, and wrote through it"


class SockFilter(ctypes.Structure):
    """struct sock_filter of <linux/filter.h>"""

    _fields_ = (("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8),
        ("k", ctypes.c_uint32))  # fmt: skip


class SockFprog(ctypes.Structure):
    """struct sock_fprog of <linux/filter.h>"""

    _fields_ = (("len", ctypes.c_uint16), ("filter", ctypes.POINTER(SockFilter)))


def seccomp() -> str:
    """A filter that allows everything is installed, under no_new_privs."""
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl PR_SET_NO_NEW_PRIVS")
    allow = SockFilter(0x06, 0, 0, 0x7FFF0000)  # BPF_RET | BPF_K, SECCOMP_RET_ALLOW
    program = SockFprog(1, ctypes.pointer(allow))
    check(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program)), "prctl seccomp")
    return "installed a filter"


def landlock() -> str:
    """The version of Landlock's interface."""
    number = ctypes.c_long(SYS_LANDLOCK_CREATE_RULESET)
    flags = ctypes.c_uint32(LANDLOCK_CREATE_RULESET_VERSION)
    version = check(libc.syscall(number, None, ctypes.c_size_t(0), flags), "landlock")
    return f"ABI {version}"


def calls() -> str:
    """The system calls that everything stands on: pidfd, sealed memfd, openat2."""
    os.close(os.pidfd_open(os.getpid()))
    os.close(os.memfd_create("probe", os.MFD_ALLOW_SEALING))
    how = (ctypes.c_uint64 * 3)(os.O_PATH, 0, 0)
    path = ctypes.c_char_p(b"/")
    number = ctypes.c_long(SYS_OPENAT2)
    os.close(check(libc.syscall(number, -100, path, how, ctypes.c_size_t(24)), "openat2"))
    return "pidfd_open, memfd_create, openat2"


def id_range() -> str:
    """A map of 65536 ids, written by root into the namespace of a child."""
    ready, told = os.pipe()
    go, gone = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(gone)
        try:
            unshare(NAMESPACES["user"], "unshare user")
            os.write(told, b"y")
            os.read(go, 1)
        finally:
            os._exit(0)
    os.close(told)
    try:
        os.read(ready, 1)
        with open(f"/proc/{child}/uid_map", "w") as file:
            file.write("0 1879048192 65536")
    finally:
        os.close(gone)
        os.waitpid(child, 0)
    return "mapped 65536 ids for a container"


PROBES = {
    "overlay": overlay,
    "seccomp": seccomp,
    "landlock": landlock,
    "calls": calls,
    "id_range": id_range,
}


def main(name: str) -> None:
    """Runs one probe and prints its answer."""
    try:
        found = namespace(name[3:]) if name.startswith("ns:") else PROBES[name]()
        answer = {"ok": True, "found": found, "errno": 0}
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        answer = {"ok": False, "found": f"{what}{error.strerror}", "errno": error.errno}
    print(json.dumps(answer))


if __name__ == "__main__":
    main(sys.argv[1])
