"""The first program of a virtual machine: mounts what the plan names, and carries one program.

Follows the text of `carrier` in one file, which the machine's kernel starts by the image's Python.
The stream is the console. When the program ended, so does the machine.
"""

import ctypes
import os
import resource
import socket
import termios

# include/uapi/linux/mount.h, include/uapi/linux/prctl.h, include/uapi/linux/reboot.h
FLAGS = {"ro": 1, "nosuid": 2, "nodev": 4, "noexec": 8, "strictatime": 1 << 24}
SKIPPED = ("rw", "rbind", "rprivate", "private")
PR_CAPBSET_DROP, PR_SET_KEEPCAPS, PR_SET_NO_NEW_PRIVS = 24, 8, 38
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 47, 2
POWER_OFF = 0x4321FEDC
CAPABILITY_VERSION_3 = 0x20080522
SIOCSIFFLAGS, UP = 0x8914, b"lo".ljust(16, b"\0") + b"\x49\0".ljust(24, b"\0")

START = b"\0\0carrier\0\0"
"""Ends what the kernel said while it started, as `runtime/ferry.py` has it."""

libc = ctypes.CDLL(None, use_errno=True)


def checked(result, what):
    """The result of a C call, or OSError."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def mount(kind, target, words):
    """mount(2) by the options of the OCI configuration."""
    flags, data = 0, []
    for word in words:
        if word in FLAGS:
            flags |= FLAGS[word]
        elif word not in SKIPPED and word != "newinstance":
            data.append(word)
    os.makedirs(target, exist_ok=True)
    texts = [text.encode() for text in (kind, target, kind)]
    checked(libc.mount(*texts, ctypes.c_ulong(flags), ",".join(data).encode()), target)


def make_devices():
    """/dev, of this machine's own."""
    mount("tmpfs", "/dev", ("nosuid", "noexec", "mode=755"))
    numbers = (("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9))
    os.umask(0)
    for name, minor in numbers:
        os.mknod("/dev/" + name, 0o020666, os.makedev(1, minor))
    os.mknod("/dev/tty", 0o020666, os.makedev(5, 0))
    os.umask(0o022)
    for name, target in (
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ):
        os.symlink(target, "/dev/" + name)


def take_console():
    """The console as a stream: no echo, no editing, no word of the kernel from here on."""
    with open("/proc/sys/kernel/printk", "w") as file:
        file.write("0")
    mode = termios.tcgetattr(0)
    mode[0] = mode[1] = mode[3] = 0
    mode[2] = mode[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
    termios.tcsetattr(0, termios.TCSANOW, mode)
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 2)
    os.close(null)
    os.write(1, START)


def become(process):
    """User, capabilities, limits and folder of the program; then nothing can be gained."""
    for name, soft, hard in process["rlimits"]:
        resource.setrlimit(getattr(resource, name), (soft, hard))
    os.chdir(process["cwd"])
    sets = process["capabilities"]
    with open("/proc/sys/kernel/cap_last_cap") as file:
        last = int(file.read())
    for number in range(last + 1):
        if not sets["bounding"] >> number & 1:
            checked(libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0), "bounding")
    if sets["permitted"] and process["uid"]:
        checked(libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0), "keepcaps")
    os.setgroups(process["groups"])
    os.setresgid(*[process["gid"]] * 3)
    os.setresuid(*[process["uid"]] * 3)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    words = [
        sets[name] >> shift & 0xFFFFFFFF
        for shift in (0, 32)
        for name in ("effective", "permitted", "inheritable")
    ]
    checked(libc.capset(header, (ctypes.c_uint32 * 6)(*words)), "capset")
    for number in range(last + 1):
        if sets["ambient"] >> number & 1:
            checked(libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number, 0, 0), "ambient")
    checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    os.environ.clear()
    os.environ.update(process["env"])


class Machine(Carrier):  # noqa: F821 - of the text before this one
    """The carrier of a whole machine."""

    def before_program(self):
        become(self.wanted["process"])

    def taken(self, count):
        # The console holds 4096 bytes; when it was full once, nothing comes from it any more.
        self.say(b"A", 0, count.to_bytes(4, "little"))


def boot(settings):
    """Be pid 1; the machine is switched off at the end, however that comes."""
    try:
        mount("proc", "/proc", ("nosuid", "nodev", "noexec"))
        make_devices()
        for each in settings["mounts"]:
            if each["destination"] not in ("/proc", "/dev"):
                mount(each["type"], each["destination"], each["options"])
        socket.sethostname(settings["hostname"])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            import fcntl

            fcntl.ioctl(any_socket, SIOCSIFFLAGS, UP)
        take_console()
        Machine().serve()
    finally:
        os.sync()
        libc.reboot(POWER_OFF)
