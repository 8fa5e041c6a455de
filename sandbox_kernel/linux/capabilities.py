"""Capabilities: their numbers, what a process holds, and giving them up.

Numbers and spelling from include/uapi/linux/capability.h, in kernel order. Light: the launcher
imports it. Which capabilities a container gets is decided in `bundle/`, not here.
"""

from __future__ import annotations

from sandbox_kernel.errors import StepFailed
from sandbox_kernel.linux import libc as c

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

NAMES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)
NUMBERS = {name: number for number, name in enumerate(NAMES)}

# include/uapi/linux/prctl.h
PR_CAPBSET_DROP = 24
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4

_LINUX_CAPABILITY_VERSION_3 = 0x20080522

# Indexing gives a function object of our own, so that these types bind no other module.
_prctl = c.libc["prctl"]
_prctl.argtypes = (c.c_int,) + (c.c_ulong,) * 4
_prctl.restype = c.c_int


class _Header(c.Structure):
    """struct __user_cap_header_struct { __u32 version; int pid; }"""

    _fields_ = (("version", c.c_uint32), ("pid", c.c_int))


class _Data(c.Structure):
    """struct __user_cap_data_struct { __u32 effective; __u32 permitted; __u32 inheritable; }"""

    _fields_ = (
        ("effective", c.c_uint32),
        ("permitted", c.c_uint32),
        ("inheritable", c.c_uint32),
    )


_capset = c.libc["capset"]
_capset.argtypes = (c.c_void_p, c.c_void_p)
_capset.restype = c.c_int


def to_mask(names: Iterable[str]) -> int:
    """The bit mask of capability names; KeyError for a name that is not in the table."""
    mask = 0
    for name in names:
        mask |= 1 << NUMBERS[name]
    return mask


def to_names(mask: int) -> tuple[str, ...]:
    """The names of a mask, in kernel order; a bit above the table shows as its number."""
    return tuple(
        NAMES[number] if number < len(NAMES) else f"CAP_{number}"
        for number in range(mask.bit_length())
        if mask >> number & 1
    )


_last: list[int] = []


def last() -> int:
    """The highest capability number that the running kernel knows; asked once."""
    if not _last:
        try:
            with open("/proc/sys/kernel/cap_last_cap", "rb") as file:
                _last.append(int(file.read()))
        except OSError:
            _last.append(len(NAMES) - 1)
    return _last[0]


def read(pid: int | str = "self") -> dict[str, int]:
    """The five sets of a process as masks: inheritable, permitted, effective, bounding, ambient."""
    words = {
        b"CapInh": "inheritable",
        b"CapPrm": "permitted",
        b"CapEff": "effective",
        b"CapBnd": "bounding",
        b"CapAmb": "ambient",
    }
    found = {}
    with open(f"/proc/{pid}/status", "rb") as file:
        for line in file:
            key, _, value = line.partition(b":")
            if key in words:
                found[words[key]] = int(value, 16)
    return found


def drop_bounding(keep: int = 0) -> None:
    """Take every capability out of the bounding set but those of the mask `keep`.

    Needs CAP_SETPCAP, so it comes before `set_sets`. Raises StepFailed.
    """
    for number in range(last() + 1):
        if not keep >> number & 1 and _prctl(PR_CAPBSET_DROP, number, 0, 0, 0) != 0:
            _do(-1, "drop bounding", 1 << number)


def set_sets(*, effective: int, permitted: int, inheritable: int, ambient: int = 0) -> None:
    """Set the thread's sets to exactly these masks. Raises StepFailed.

    Ambient is cleared first and raised last: the kernel wants each ambient capability both
    permitted and inheritable, and lowering one of those would lower ambient silently.
    """
    _do(_prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "clear ambient", ambient)
    header = _Header(_LINUX_CAPABILITY_VERSION_3, 0)
    data = (_Data * 2)()
    for index in (0, 1):
        shift = 32 * index
        data[index].effective = effective >> shift & 0xFFFFFFFF
        data[index].permitted = permitted >> shift & 0xFFFFFFFF
        data[index].inheritable = inheritable >> shift & 0xFFFFFFFF
    _do(_capset(c.byref(header), data), "set capabilities", permitted)
    for number in range(ambient.bit_length()):
        if ambient >> number & 1:
            _do(
                _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number, 0, 0),
                "raise ambient",
                1 << number,
            )


def _do(result: int, step: str, mask: int) -> None:
    try:
        c.check(result)
    except OSError as error:
        shown = " ".join(to_names(mask)) or "none"
        raise StepFailed(step, shown, str(error.strerror), error.errno or 0) from error
