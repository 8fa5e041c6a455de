"""What every container has when nobody says otherwise: mounts, masks, devices, environment.

Paths from the OCI runtime specification (config-linux.md, "Default Devices" and "Default
Filesystems") and from what docker masks; more masked than there where a file tells of the host.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandbox_kernel.bundle.oci import Mount

# Shown as an empty file or an empty directory.
MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/key-users",
    "/proc/keys",
    "/proc/kmsg",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/cgroup",
)

# Of a container with `strict`: what tells of the machine, and no library needs to know.
STRICT_MASKED_PATHS = tuple(
    f"/proc/{name}"
    for name in (
        "buddyinfo", "cmdline", "config.gz", "consoles", "crypto", "diskstats", "dma", "driver",
        "execdomains", "fb", "iomem", "ioports", "kpagecgroup", "kpagecount", "kpageflags", "locks",
        "mdstat", "misc", "modules", "mtrr", "pagetypeinfo", "partitions", "pressure", "schedstat",
        "slabinfo", "softirqs", "swaps", "tty", "vmallocinfo", "zoneinfo",
    )
)  # fmt: skip

READ_ONLY_PATHS = (
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
)

# Devices of the machine that are shown in /dev; the specification's default devices, without
# /dev/console, since a container has no terminal of the host.
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")

# Links in /dev: name and where it points.
DEVICE_LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
)

# Made afresh in each container: nothing may be mounted over them or below them.
KERNEL_TREES = ("/proc", "/sys")

NAMESPACES = ("user", "mount", "pid", "network", "ipc", "uts", "cgroup", "time")

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# HOME is added when the user is known.
ENVIRONMENT = {"PATH": PATH, "LANG": "C.UTF-8"}

HOSTNAME = "sandbox"
WORKING_DIRECTORY = "/"

# A core file would go to the program that the host names in core_pattern, which runs outside.
RLIMITS = {"RLIMIT_CORE": (0, 0)}

LEAST_SHARED_MEMORY = 64 << 20


def mounts(memory: int | None, *, strict: bool = False) -> list[Mount]:
    """The kernel's file systems. /dev/shm holds half of the memory limit, which counts it."""
    shared = max(LEAST_SHARED_MEMORY, (memory or 0) // 2)
    safe = ["nosuid", "noexec", "nodev"]
    # By /proc/PID/mem a process writes also to memory that it can only read. `subset=pid` would
    # hide more, but psutil and others read /proc/stat and /proc/meminfo when they are imported.
    proc = [*safe, "ro", "hidepid=invisible"] if strict else safe
    return [
        _mount("/proc", "proc", "proc", proc),
        _mount("/dev", "tmpfs", "tmpfs", ["nosuid", "noexec", "mode=755", "size=65536k"]),
        _mount(
            "/dev/pts",
            "devpts",
            "devpts",
            ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
        ),
        _mount("/dev/shm", "tmpfs", "shm", [*safe, "mode=1777", f"size={shared}"]),  # noqa: S108 (the container's)
        _mount("/dev/mqueue", "mqueue", "mqueue", safe),
        _mount("/sys", "sysfs", "sysfs", [*safe, "ro"]),
    ]


def _mount(destination: str, kind: str, source: str, options: list[str]) -> Mount:
    return {"destination": destination, "type": kind, "source": source, "options": options}


NO_SYSFS = _mount("/sys", "tmpfs", "tmpfs", ["nosuid", "noexec", "nodev", "ro", "mode=755"])
"""In the network namespace of the host: the kernel gives sysfs to its owner only."""

HOSTS = "127.0.0.1\tlocalhost\n"
RESOLVER = "nameserver 192.0.0.53\noptions timeout:2 attempts:2\n"
"""In a network: the holder answers there, for other containers of it too (`network.protocol`)."""
