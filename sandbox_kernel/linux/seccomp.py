"""Compile a seccomp profile to a BPF program with libseccomp.

A profile is the `linux.seccomp` object of the OCI runtime specification. What ours says is in
`bundle/seccomp_profile.py`; keeping a program is in `linux/seccomp_cache.py`, putting it on a
thread in `linux/seccomp_install.py`.

Foreign system call ABIs (int 0x80 and x32 on x86-64, 32-bit ARM on aarch64) are not in the
filter: a call through one ends the process by SIGSYS. No program for this machine makes such a
call by chance, and a program for another one is better ended than run with every call refused.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import platform
from typing import TYPE_CHECKING, NotRequired, TypedDict

from sandbox_kernel.errors import HostLacks, StepFailed
from sandbox_kernel.linux.libc import libc

if TYPE_CHECKING:
    from collections.abc import Sequence


class Argument(TypedDict):
    """LinuxSeccompArg: one condition on one argument."""

    index: int
    value: int
    valueTwo: NotRequired[int]
    op: str


class Rule(TypedDict):
    """LinuxSyscall: what happens to some calls when all conditions hold."""

    names: list[str]
    action: str
    errnoRet: NotRequired[int]
    args: NotRequired[list[Argument]]


class Profile(TypedDict):
    """LinuxSeccomp."""

    defaultAction: str
    defaultErrnoRet: NotRequired[int]
    architectures: NotRequired[list[str]]
    flags: NotRequired[list[str]]
    listenerPath: NotRequired[str]
    listenerMetadata: NotRequired[str]
    syscalls: NotRequired[list[Rule]]


# The machines whose system call ABI our rules were checked for: the numbers of ioctl requests and
# the order of the arguments of clone(2) differ on others. Values: SCMP_ARCH names of the OCI
# specification that mean this machine itself.
MACHINES = {
    "x86_64": "SCMP_ARCH_X86_64",
    "aarch64": "SCMP_ARCH_AARCH64",
    "riscv64": "SCMP_ARCH_RISCV64",
}

# seccomp.h of libseccomp
_ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_NOTIFY": 0x7FC00000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
_WITH_NUMBER = frozenset(("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"))
_PERMITTING = frozenset(("SCMP_ACT_ALLOW", "SCMP_ACT_LOG"))
_COMPARISONS = {
    "SCMP_CMP_NE": 1,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}
_SCMP_FLTATR_ACT_BADARCH = 2
_SCMP_FLTATR_CTL_OPTIMIZE = 8
_NR_SCMP_ERROR = -1
_SCMP_ARCH_NATIVE = 0

# include/uapi/asm-generic/unistd.h: since Linux 5.1 a new call has one number on all machines, so
# those which an older libseccomp does not know by name can be given by number.
NEWER_NUMBERS = {
    "cachestat": 451,
    "fchmodat2": 452,
    "map_shadow_stack": 453,
    "futex_wake": 454,
    "futex_wait": 455,
    "futex_requeue": 456,
    "statmount": 457,
    "listmount": 458,
    "lsm_get_self_attr": 459,
    "lsm_set_self_attr": 460,
    "lsm_list_modules": 461,
    "mseal": 462,
    "setxattrat": 463,
    "getxattrat": 464,
    "listxattrat": 465,
    "removexattrat": 466,
    "open_tree_attr": 467,
    "file_getattr": 468,
    "file_setattr": 469,
    "set_mempolicy_home_node": 450,
}

_free = libc["free"]
_free.argtypes = (ctypes.c_void_p,)
_free.restype = None


class _Comparison(ctypes.Structure):
    """struct scmp_arg_cmp { unsigned int arg; enum scmp_compare op; uint64_t datum_a, datum_b; }"""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


class _Version(ctypes.Structure):
    """struct scmp_version { unsigned int major, minor, micro; }"""

    _fields_ = (("major", ctypes.c_uint), ("minor", ctypes.c_uint), ("micro", ctypes.c_uint))


def _load() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        raise HostLacks(
            "build seccomp program: `libseccomp.so.2` is not installed: "
            "run `apt-get install libseccomp2`"
        ) from None
    library.seccomp_version.argtypes = ()
    library.seccomp_version.restype = ctypes.POINTER(_Version)
    library.seccomp_init.argtypes = (ctypes.c_uint32,)
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_release.argtypes = (ctypes.c_void_p,)
    library.seccomp_release.restype = None
    library.seccomp_attr_set.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32)
    library.seccomp_attr_set.restype = ctypes.c_int
    library.seccomp_syscall_resolve_name.argtypes = (ctypes.c_char_p,)
    library.seccomp_syscall_resolve_name.restype = ctypes.c_int
    library.seccomp_rule_add_array.argtypes = (
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(_Comparison),
    )
    library.seccomp_rule_add_array.restype = ctypes.c_int
    library.seccomp_syscall_resolve_num_arch.argtypes = (ctypes.c_uint32, ctypes.c_int)
    library.seccomp_syscall_resolve_num_arch.restype = ctypes.c_void_p
    library.seccomp_export_bpf.argtypes = (ctypes.c_void_p, ctypes.c_int)
    library.seccomp_export_bpf.restype = ctypes.c_int
    return library


def _version(library: ctypes.CDLL) -> str:
    version = library.seccomp_version().contents
    return f"{version.major}.{version.minor}.{version.micro}"


def build(profile: Profile) -> bytes:
    """Compile a profile for this machine. Raises HostLacks or StepFailed; never a weaker filter."""
    machine = platform.machine()
    if machine not in MACHINES:
        raise HostLacks(
            f"build seccomp program: no rules are known for `{machine}`: "
            f"use one of {', '.join(MACHINES)}"
        )
    wanted = profile.get("architectures")
    if wanted and MACHINES[machine] not in wanted:
        raise StepFailed("build seccomp program for", machine, f"the profile names only {wanted}")
    library = _load()
    default = _action(profile["defaultAction"], profile.get("defaultErrnoRet"))
    context = library.seccomp_init(default)
    if not context:
        raise StepFailed("build seccomp program for", machine, "libseccomp refused the default")
    try:
        kill = _ACTIONS["SCMP_ACT_KILL_PROCESS"]
        _ok(library.seccomp_attr_set(context, _SCMP_FLTATR_ACT_BADARCH, kill), "foreign ABIs")
        # A binary tree: the kernel runs the program once for each call number when it is
        # installed, and a straight list makes that the slowest step of starting a process.
        _ok(library.seccomp_attr_set(context, _SCMP_FLTATR_CTL_OPTIMIZE, 2), "optimisation")
        for rule in profile.get("syscalls", []):
            action = _action(rule["action"], rule.get("errnoRet"))
            if action == default:
                continue  # libseccomp refuses a rule that says what the default says
            arguments = rule.get("args", [])
            comparisons = _comparisons(arguments)
            for name in rule["names"]:
                number = _number(library, name)
                if number is not None:
                    result = library.seccomp_rule_add_array(
                        context, action, number, len(arguments), comparisons
                    )
                    _ok(result, name)
                elif rule["action"] not in _PERMITTING and profile["defaultAction"] in _PERMITTING:
                    raise HostLacks(
                        f"build seccomp program: libseccomp {_version(library)} does not know "
                        f"`{name}`, which the profile refuses: install a newer libseccomp"
                    )
        return _export(library, context)
    finally:
        library.seccomp_release(context)


def _action(name: str, number: int | None) -> int:
    if name not in _ACTIONS:
        raise StepFailed("build seccomp program with", name, "this action is not supported")
    value = _ACTIONS[name]
    if name in _WITH_NUMBER:
        value |= (errno.EPERM if number is None else number) & 0xFFFF
    elif number is not None:
        raise StepFailed("build seccomp program with", name, "this action has no errnoRet")
    return value


def _number(library: ctypes.CDLL, name: str) -> int | None:
    number: int = library.seccomp_syscall_resolve_name(name.encode())
    if number == _NR_SCMP_ERROR:
        return NEWER_NUMBERS.get(name)
    # Other negative numbers are libseccomp's own, for calls that this machine does not have.
    return number if number >= 0 else None


def number_of(name: str) -> int | None:
    """The number of a call on this machine; None: it has no such call. Raises HostLacks."""
    return _number(_load(), name)


@functools.cache
def name_of(number: int) -> str:
    """The name of a call of this machine, or its number in words. Raises HostLacks."""
    for name, newer in NEWER_NUMBERS.items():
        if newer == number:
            return name
    library = _load()
    found = library.seccomp_syscall_resolve_num_arch(_SCMP_ARCH_NATIVE, number)
    if not found:
        return f"call {number}"
    try:
        return ctypes.string_at(found).decode()
    finally:
        _free(found)


def _comparisons(arguments: Sequence[Argument]) -> ctypes.Array[_Comparison]:
    comparisons = (_Comparison * max(1, len(arguments)))()
    for place, argument in zip(comparisons, arguments, strict=False):
        place.arg = argument["index"]
        place.op = _COMPARISONS[argument["op"]]
        place.datum_a = argument["value"]
        place.datum_b = argument.get("valueTwo", 0)
    return comparisons


def _export(library: ctypes.CDLL, context: int) -> bytes:
    descriptor = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    try:
        _ok(library.seccomp_export_bpf(context, descriptor), "program")
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    finally:
        os.close(descriptor)


def _ok(result: int, subject: str) -> None:
    if result < 0:
        raise StepFailed("add to seccomp program", subject, os.strerror(-result), -result)
