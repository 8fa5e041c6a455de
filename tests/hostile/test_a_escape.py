"""Corpus group A, escape and sight of the host: code in a container tries to get out.

Each test has the number of its entry. What must be observed is looked at from the inside (what
the code saw) and from the outside (what the host saw); `canaries` are compared after each.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import pty
import select
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import time
import tty
from pathlib import Path

import pytest
import races
from call_numbers import NUMBERS

from sandbox_kernel import errors, policy
from sandbox_kernel.bundle import defaults, seccomp_profile
from sandbox_kernel.container import Container, ProcessSpec

pytestmark = pytest.mark.everybody

DENIED = {"EPERM", "EACCES", "EROFS", "ENOENT", "ENXIO"}


def plan(**options):
    return policy.plan("command line", **options)


def mounts_of(pid):
    """Place -> (root within its file system, type, source) of the mounts that a process has."""
    found = {}
    for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        kind, source = after.split()[:2]
        found[fields[4]] = (fields[3], kind, source)
    return found


# 1


def test_a01_no_file_of_the_host_is_read_by_its_path(inside, canaries, held):
    home = os.path.expanduser("~")
    asked = [
        "/etc/shadow",
        f"{home}/.ssh",
        f"{home}/.bash_history",
        f"{home}/.config",
        f"{home}/.jupyter",
        str(canaries.file),
        str(canaries.file.parent),
        "/var/log",
        "/var/lib/dpkg",
        "/run/systemd",
        "/boot",
        os.path.dirname(os.path.dirname(os.path.dirname(__file__))) + "/pyproject.toml",
    ]
    found = inside.tell(
        """
        tell({path: attempt(os.stat, path) for path in json.loads(sys.argv[1])})
        """,
        json.dumps(asked),
    )
    assert found == dict.fromkeys(asked, "ENOENT")

    for place, (root, kind, _) in mounts_of(held.pid).items():
        assert not str(canaries.file).startswith(place.rstrip("/") + "/") or kind == "tmpfs", place
        assert root not in {home, "/root", "/home", "/var", "/run", "/etc"}, place


def test_a01_the_whole_tree_holds_no_canary(inside, canaries):
    found = inside(
        """
        import os
        for top, folders, files in os.walk("/"):
            folders[:] = [f for f in folders if os.path.join(top, f) not in ("/proc", "/sys")]
            for name in files:
                if "canary" in name.lower() and "dist-packages" not in top:
                    print(os.path.join(top, name))
        print("walked")
        """,
        timeout=250,
    )
    assert found.lines[-1] == "walked"
    assert not [line for line in found.lines if line.endswith("/canary.txt")]


# 2


def test_a02_no_walk_out_of_the_root(inside):
    found = inside.tell(
        """
        before = os.stat("/")
        os.makedirs("/tmp/jail/deep")
        tried = [attempt(os.chroot, "/tmp/jail")]
        held = os.open("/", os.O_RDONLY)
        os.chdir("/tmp/jail/deep")
        tried.append(attempt(os.chroot, "."))
        os.fchdir(held)
        for _ in range(200):
            os.chdir("..")
        after = os.stat(".")
        above = os.stat("../../../../../..")
        same = {(s.st_dev, s.st_ino) for s in (before, after, above)}
        tell([tried, len(same), os.getcwd()])
        """
    )
    assert found == [["EPERM", "EPERM"], 1, "/"]


# 3


@pytest.mark.cve("CVE-2024-21626")
def test_a03_only_declared_descriptors_are_open(inside, canaries):
    read, write = os.pipe()
    secret = os.open(canaries.file, os.O_RDONLY)
    folder = os.open("/", os.O_RDONLY)
    os.set_inheritable(secret, True)
    os.set_inheritable(folder, True)
    try:
        found = inside.tell(
            """
            listing = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY)
            links = {}
            for name in os.listdir(listing):
                if int(name) != listing and os.path.lexists(f"/proc/self/fd/{name}"):
                    links[name] = os.readlink(f"/proc/self/fd/{name}")
            tell(links)
            """,
            descriptors={5: write},
        )
    finally:
        for descriptor in (read, write, secret, folder):
            os.close(descriptor)
    assert set(found) == {"0", "1", "2", "5"}
    assert found.pop("0") == "/dev/null"
    assert all(target.startswith("pipe:") for target in found.values())


@pytest.mark.root
def test_a03_pid_1_holds_no_folder_and_no_file_of_the_host(held):
    ours = {line.split()[0] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    folder = f"/proc/{held.pid}/fd"
    if os.geteuid() != 0:
        with pytest.raises(PermissionError):  # not even its own user looks into it
            os.listdir(folder)
        return
    for name in os.listdir(folder):
        if os.readlink(f"{folder}/{name}").startswith("/"):
            about = Path(f"/proc/{held.pid}/fdinfo/{name}").read_text()
            (mount,) = (x.split()[1] for x in about.splitlines() if x.startswith("mnt_id:"))
            assert mount not in ours, os.readlink(f"{folder}/{name}")


# 4


def test_a04_pid_1_and_all_others_are_closed(inside, canaries):
    found = inside.tell(
        """
        names = ("root", "cwd", "exe", "fd", "mem", "environ", "maps", "ns/mnt", "ns/user")
        found = {}
        for name in names:
            path = f"/proc/1/{name}"
            try:
                if name in ("root", "cwd", "exe") or name.startswith("ns/"):
                    os.readlink(path)
                elif name == "fd":  # an ordinary user's may be listed; where they lead is closed
                    [os.readlink(f"{path}/{number}") for number in os.listdir(path)]
                else:
                    open(path, "rb").read(10)
                found[name] = "done"
            except OSError as error:
                found[name] = errno.errorcode[error.errno]
        found["walk"] = attempt(os.listdir, "/proc/1/root/etc")
        pids = sorted(int(n) for n in os.listdir("/proc") if n.isdigit())
        tell([found, pids, os.getpid(), os.path.exists(f"/proc/{sys.argv[1]}/root")])
        """,
        str(canaries.process.pid),
    )
    tried, pids, own, host = found
    assert set(tried.values()) <= {"EACCES", "EPERM"}, tried
    assert pids == [1, own]
    assert host is False


# 5


def test_a05_proc_self_exe_is_not_writable(inside):
    found = inside.tell(
        """
        library = [l.split()[-1] for l in open("/proc/self/maps") if ".so" in l]
        paths = ["/proc/self/exe", sys.executable, os.path.realpath(sys.executable), os.__file__]
        paths += sorted(set(library))[:20]
        flags = (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND)
        tell({p: [attempt(os.open, p, f) for f in flags] for p in paths}
             | {"unlink": [attempt(os.unlink, os.path.realpath(sys.executable))],
                "rename": [attempt(os.rename, os.path.realpath(sys.executable), "/usr/bin/x")],
                "chmod": [attempt(os.chmod, os.path.realpath(sys.executable), 0o777)]})
        """
    )
    for path, results in found.items():
        assert set(results) <= {"EROFS", "EACCES", "ETXTBSY", "EXDEV", "EPERM"}, path
    assert len(found) > 8


@pytest.mark.cve("CVE-2019-5736")
def test_a05_the_entering_process_can_t_be_caught(inside, held):
    """CVE-2019-5736: a process inside waits for others to enter and opens their exe for writing."""
    read, write = os.pipe()
    watcher = held.run(
        inside.specification(
            """
            import os, time
            end = time.monotonic() + 4
            opened = set()
            while time.monotonic() < end:
                for name in os.listdir("/proc"):
                    if not name.isdigit() or int(name) == os.getpid():
                        continue
                    for flags in (os.O_WRONLY, os.O_RDWR):
                        try:
                            os.close(os.open(f"/proc/{name}/exe", flags))
                            opened.add("exe")
                        except OSError:
                            pass
                    try:
                        path = os.readlink(f"/proc/{name}/exe")
                        for descriptor in os.listdir(f"/proc/{name}/fd"):
                            target = os.readlink(f"/proc/{name}/fd/{descriptor}")
                            # A file that has no place in the container's own tree.
                            if target.startswith("/") and not os.path.lexists(target):
                                if not target.startswith("/proc"):
                                    opened.add(target)
                    except OSError:
                        pass
            print(sorted(opened))
            """,
            write,
        )
    )
    os.close(write)
    try:
        for _ in range(20):
            entered = held.run(ProcessSpec(argv=("/bin/true",)))
            assert entered.wait(30).status == 0
            entered.close()
        assert watcher.wait(30).status == 0
        assert os.read(read, 4096) == b"[]\n"
    finally:
        os.close(read)
        watcher.close()


# 6


@pytest.mark.cve("CVE-2025-52881")
def test_a06_no_switch_of_the_kernel_can_be_moved(inside):
    paths = [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/kernel/hostname",
        "/proc/sys/kernel/unprivileged_userns_clone",
        "/proc/sys/vm/overcommit_memory",
        "/proc/sys/vm/drop_caches",
        "/proc/sys/vm/panic_on_oom",
        "/proc/sys/fs/binfmt_misc/register",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sysrq-trigger",
        "/proc/irq/default_smp_affinity",
        "/proc/fs",
        "/sys/kernel/uevent_helper",
        "/sys/kernel/mm/ksm/run",
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "/sys/power/state",
        "/sys/module",
    ]
    found = inside.tell(
        """
        found = {path: write(path) for path in json.loads(sys.argv[1])}
        done = []
        for top in ("/proc/sys", "/sys"):
            for folder, folders, files in os.walk(top):
                for name in files:
                    path = os.path.join(folder, name)
                    try:
                        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
                        done.append(path)
                    except OSError:
                        pass
        tell([found, done[:20]])
        """,
        json.dumps(paths),
    )
    tried, opened = found
    for path, result in tried.items():
        assert result in DENIED | {"EISDIR"}, path
    assert opened == []


# 7


@pytest.mark.cve("CVE-2025-31133")
def test_a07_masked_entries_are_empty_and_stay_masked(inside):
    found = inside.tell(
        """
        found = {}
        for path in json.loads(sys.argv[1]):
            if not os.path.lexists(path):
                continue
            if os.path.isdir(path):
                shown = os.listdir(path)
            else:
                shown = read(path)
            over = attempt(libc_mount := lambda: None) and call(int(sys.argv[2]), b"none",
                path.encode(), b"tmpfs", 0, None)
            off = call(int(sys.argv[3]), path.encode(), 2)
            again = os.listdir(path) if os.path.isdir(path) else read(path)
            found[path] = [shown, over, off, again]
        tell(found)
        """,
        json.dumps(defaults.MASKED_PATHS),
        str(NUMBERS["mount"]),
        str(NUMBERS["umount2"]),
    )
    assert "/proc/kcore" in found or "/proc/keys" in found
    for path, (shown, over, off, again) in found.items():
        assert shown in ("", []), path
        assert (over, off) == ("EPERM", "EPERM"), path
        assert again in ("", []), path


# 8, 9


def test_a08_no_namespace_is_the_host_s(inside):
    kinds = [kind for kind in os.listdir("/proc/self/ns") if not kind.endswith("_for_children")]
    assert {"cgroup", "ipc", "mnt", "net", "pid", "user", "uts"} <= set(kinds)  # "time" if it is
    theirs = inside.tell(
        'tell({kind: os.readlink(f"/proc/self/ns/{kind}") for kind in os.listdir("/proc/self/ns")})'
    )
    for kind in kinds:
        assert theirs[kind] != os.readlink(f"/proc/self/ns/{kind}")


def test_a08_no_new_namespace(inside):
    flags = [
        seccomp_profile.CLONE_NEWUSER,
        seccomp_profile.CLONE_NEWNS,
        seccomp_profile.CLONE_NEWPID,
        seccomp_profile.CLONE_NEWUSER | seccomp_profile.CLONE_NEWNET,
        seccomp_profile.CLONE_NEWUSER | 1 << 32,
    ]
    found = inside.tell(
        """
        numbers, flags = json.loads(sys.argv[1]), json.loads(sys.argv[2])
        tell([[call(numbers["unshare"], f) for f in flags],
              [call(numbers["clone"], f | 17, 0, 0, 0, 0) for f in flags],
              call(numbers["clone3"], bytes(88), 88),
              call(numbers["setns"], os.open("/proc/self/ns/user", 0), 0)])
        """,
        json.dumps(NUMBERS),
        json.dumps(flags),
    )
    assert found == [["EPERM"] * 5, ["EPERM"] * 5, "ENOSYS", "EPERM"]


@pytest.mark.cve("CVE-2022-0185", "CVE-2021-41133")
def test_a09_every_mount_call_is_refused(inside, held):
    before = mounts_of(held.pid)
    group = next(g for g in seccomp_profile.REFUSED if g.name == "mounts")
    found = inside.tell(
        """
        numbers = json.loads(sys.argv[1])
        found = {name: call(number, b"none", b"/tmp", b"tmpfs", 0, None)
                 for name, number in numbers.items()}
        tell(found)
        """,
        json.dumps({name: NUMBERS[name] for name in group.calls if name in NUMBERS}),
    )
    assert len(found) >= 10
    assert set(found.values()) == {"EPERM"}
    assert mounts_of(held.pid) == before


# 10


@pytest.mark.cve("CVE-2022-0492")
def test_a10_the_cgroup_is_out_of_reach(inside, held):
    before = Path(f"/proc/{held.pid}/cgroup").read_text()
    assert held.id in before
    found = inside.run(
        held,
        """
        import ctypes, errno, os, sys
        libc = ctypes.CDLL(None, use_errno=True)
        for line in open("/proc/self/cgroup"):
            print("group", line.split(":", 2)[2].strip())
        for kind in (b"cgroup", b"cgroup2"):
            os.makedirs("/tmp/group", exist_ok=True)
            result = libc.mount(b"none", b"/tmp/group", kind, 0, b"")
            print("mount", result, errno.errorcode[ctypes.get_errno()])
        for top, folders, files in os.walk("/"):
            if top == "/":
                folders[:] = ["sys", "proc", "dev", "tmp", "run", "mnt"]
            if top == "/proc":
                folders[:] = ["self"]
            for name in files:
                if name in ("release_agent", "cgroup.procs", "tasks", "notify_on_release"):
                    print("found", os.path.join(top, name))
        """,
    )
    lines = found.lines
    assert [line for line in lines if line.startswith("mount")] == ["mount -1 EPERM"] * 2
    assert not [line for line in lines if line.startswith("found")]
    for line in lines:
        if line.startswith("group"):
            # Its own run's group, seen from the container's group as the root.
            assert ".." not in line
            assert held.id not in line
            assert "sandbox-kernel" not in line
    assert Path(f"/proc/{held.pid}/cgroup").read_text() == before


# 11, 12


def test_a11_dangerous_calls_answer_as_published(inside):
    calls = {
        name: NUMBERS[name]
        for group in seccomp_profile.REFUSED
        for name in group.calls
        if name in NUMBERS
    }
    found = inside.tell(
        "tell({name: call(number, 0, 0, 0, 0, 0, 0)"
        " for name, number in json.loads(sys.argv[1]).items()})",
        json.dumps(calls),
    )
    assert found == dict.fromkeys(calls, "EPERM")
    for name in [
        "bpf",
        "perf_event_open",
        "userfaultfd",
        "io_uring_setup",
        "kexec_load",
        "init_module",
    ]:
        assert name in found


def probe(inside, probes, *words):
    return inside(
        "",
        argv=("/probes/calls", *words),
        mount=[f"type=bind,source={probes},target=/probes,readonly"],
    )


@pytest.mark.skipif(platform.machine() != "x86_64", reason="entries of x86-64")
@pytest.mark.skipif(
    "SANDBOX_KERNEL_TEST_MACHINE" in os.environ,
    reason="user-mode Linux has no 32-bit entry: it takes `int 0x80` for a call of its own",
)
def test_a12_the_32_bit_entry_never_runs(inside, probes):
    for words in (
        ("i386", "20"),  # getpid
        ("i386", "21"),  # mount
        ("i386", "120", "0x10000011"),  # clone with CLONE_NEWUSER
    ):
        ran = probe(inside, probes, *words)
        assert ran.exit.signal == signal.SIGSYS, (words, ran)
        assert ran.output == ""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="entries of x86-64")
def test_a12_calls_of_x32_and_numbers_that_nobody_knows_never_run(inside, probes):
    for number in (0x40000000 | 39, 0x40000000 | 165):  # getpid and mount
        ran = probe(inside, probes, "native", str(number))
        assert ran.exit.signal == signal.SIGSYS, (number, ran)
        assert ran.output == ""
    for number in (480, 600, 2**30 - 1):
        ran = probe(inside, probes, "native", str(number))
        assert ran.output.strip() == str(-errno.ENOSYS)


# 13


def test_a13_no_device_is_made_or_found(inside):
    found = inside.tell(
        """
        import stat
        made = {}
        for folder in ("/tmp", "/dev", "/dev/shm", "/var/tmp"):
            for kind, device in ((stat.S_IFBLK, (8, 0)), (stat.S_IFCHR, (1, 1)),
                                 (stat.S_IFCHR, (1, 3)), (stat.S_IFCHR, (10, 229))):
                made[f"{folder} {device}"] = attempt(
                    os.mknod, f"{folder}/x", 0o666 | kind, os.makedev(*device))
        names = "mem kmsg fuse kvm port sda vda loop0 loop-control mapper net console tty0 input"
        there = {name: attempt(os.open, f"/dev/{name}", os.O_RDONLY) for name in names.split()}
        tell([made, there, sorted(os.listdir("/dev"))])
        """
    )
    made, there, listing = found
    assert set(made.values()) <= {"EPERM", "EROFS", "EACCES"}, made
    assert set(there.values()) == {"ENOENT"}, there
    expected = {*defaults.DEVICES, "fd", "stdin", "stdout", "stderr", "ptmx"}
    assert set(listing) == expected | {"pts", "shm", "mqueue"}


# 14


def test_a14_nothing_is_held_and_nothing_can_be_gained(inside):
    found = inside.tell(
        """
        lines = dict(l.split(":", 1) for l in open("/proc/self/status"))
        wanted = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")
        held = {name: int(lines[name], 16) for name in wanted}
        class Header(ctypes.Structure):
            _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))
        header, data = Header(0x20080522, 0), (ctypes.c_uint32 * 6)(*[0xFFFFFFFF] * 6)
        gained = libc.capset(ctypes.byref(header), data)
        tell([held, gained, errno.errorcode[ctypes.get_errno()],
              libc.prctl(38, 0, 0, 0, 0), libc.prctl(47, 2, 21, 0, 0), libc.prctl(39, 0, 0, 0, 0)])
        """
    )
    held, gained, why, less, ambient, still = found
    assert held == {
        **dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), 0),
        "NoNewPrivs": 1,
        "Seccomp": 2,
    }
    assert (gained, why) == (-1, "EPERM")
    assert (less, ambient, still) == (-1, -1, 1)


def test_a14_a_setuid_program_gains_nothing(inside, held):
    """Root of the container makes setuid programs, another user of it runs them."""
    made = inside.run(
        held,
        """
        import os, shutil
        shutil.copy("/bin/sh", "/tmp/sh")
        os.chmod("/tmp/sh", 0o6755)
        print(oct(os.stat("/tmp/sh").st_mode), os.stat("/tmp/sh").st_uid)
        """,
    )
    assert made.lines == ["0o106755 0"]
    ran = inside.run(
        held,
        """
        import os, subprocess
        look = "id -u; grep -E '^(Uid|CapEff)' /proc/self/status"
        for shell in ("/tmp/sh", "/bin/sh"):
            subprocess.run([shell, "-p", "-c", look], check=True)
        for program in ("/bin/su", "/usr/bin/passwd", "/usr/bin/newuidmap"):
            if os.path.exists(program):
                subprocess.run([program], stdin=subprocess.DEVNULL, capture_output=True)
        for function, arguments in ((os.setuid, (0,)), (os.setgid, (0,)), (os.setreuid, (0, 0))):
            try:
                function(*arguments)
                print("gained", function)
            except PermissionError:
                print("refused")
        print(os.getresuid())
        """,
        user="1000:1000",
    )
    none = "1000\nUid:\t1000\t1000\t1000\t1000\nCapEff:\t0000000000000000\n"
    assert ran.output == none * 2 + "refused\n" * 3 + "(1000, 1000, 1000)\n"


@pytest.mark.cve("CVE-2021-3493", "CVE-2023-0386")
def test_a14_every_mount_ignores_setuid_and_device_nodes(tmp_path):
    """Whoever could make such a file, in an image or a folder, gains nothing by it."""
    options = {}
    mount = [f"source={tmp_path},target=/data", "type=tmpfs,target=/scratch"]
    with Container.create(policy.plan("command line", mount=mount)) as held:
        for line in Path(f"/proc/{held.pid}/mountinfo").read_text().splitlines():
            before, _, after = line.partition(" - ")
            if not after.startswith("devtmpfs "):  # the nodes themselves: of the host, one by one
                options[before.split()[4]] = set(before.split()[5].split(","))
    assert {"/", "/usr", "/data", "/scratch", "/proc", "/sys", "/dev", "/dev/shm"} <= set(options)
    lacking = {
        place: {"nosuid", "nodev"} - had
        for place, had in options.items()
        if place not in ("/dev", "/dev/pts") and not place.startswith(("/proc/", "/sys/"))
    }
    assert not any(lacking.values()), lacking
    for place in ("/proc", "/proc/sys", "/sys", "/dev/pts", "/dev/shm", "/dev/mqueue"):
        assert {"nosuid", "noexec"} <= options[place], place


@pytest.mark.root
def test_a14_groups_of_the_caller_stay_outside():
    """One who is in the group of a disk or of docker gives none of that to a container."""
    words = [sys.executable, "-m", "sandbox_kernel.cli.main", "run", "host", "id", "-G"]
    done = subprocess.run(
        ["/usr/bin/setpriv", "--groups", "6,27,44", *words],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "0\n"


def test_a14_a_crash_writes_no_core(inside):
    """A handler of cores is a program of the host's root, with what is in the core as its input.

    A shell starts what runs in the background so that it ignores SIGQUIT.
    """
    told = inside.tell(
        """
        import resource, signal
        child = os.fork()
        if not child:
            os.kill(os.getpid(), signal.SIGQUIT)
        _, state = os.waitpid(child, 0)
        tell([resource.getrlimit(resource.RLIMIT_CORE), os.WTERMSIG(state), os.WCOREDUMP(state)])
        """
    )
    assert told == [[0, 0], signal.SIGQUIT, False]


# 15


@pytest.mark.cve("CVE-2017-5226", "CVE-2019-7303", "CVE-2019-10063", "CVE-2023-28100")
def test_a15_nothing_is_typed_into_a_terminal_of_the_host(inside):
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    try:
        found = inside.tell(
            """
            import fcntl
            typed = []
            for request in (0x5412, 0x5412 | 1 << 32, 0x5412 | 0xFFFFFFFF << 32, 0x541C, 0x5423):
                for descriptor in (0, 1, 2, 9):
                    typed.append(call(int(sys.argv[1]), descriptor, request, b"x"))
            session = attempt(fcntl.ioctl, 9, 0x540E, 0)
            tell([typed, os.getsid(0) == os.getpid(), attempt(os.open, "/dev/tty", os.O_RDWR)])
            """,
            str(NUMBERS["ioctl"]),
            descriptors={9: theirs},
        )
        typed, leader, terminal = found
        assert set(typed) == {"EPERM"}
        assert leader
        assert terminal in {"ENXIO", "done"}  # `done`: it took this pty, which was given to it
        assert not select.select([theirs, ours], [], [], 0)[0]
        assert termios.tcgetattr(theirs)
    finally:
        os.close(ours)
        os.close(theirs)


# 16, 17, 18


@pytest.mark.cve("CVE-2020-15257")
def test_a16_abstract_sockets_of_the_host_are_not_there(inside, canaries):
    found = inside.tell(
        """
        import socket
        own = socket.socket(socket.AF_UNIX)
        own.bind("\\0own")
        reached = attempt(socket.socket(socket.AF_UNIX).connect, "\\0" + sys.argv[1])
        tcp = attempt(socket.create_connection, ("127.0.0.1", int(sys.argv[2])), 2)
        listed = [l.split()[-1] for l in open("/proc/net/unix") if "@" in l]
        tell([reached, tcp, listed])
        """,
        canaries.abstract[1:],
        str(canaries.port),
    )
    assert found == ["ECONNREFUSED", "ECONNREFUSED", ["@own"]]


def test_a17_shared_memory_of_the_host_and_the_neighbour_is_not_there(inside, held):
    libc = ctypes.CDLL(None, use_errno=True)
    key = 0x5A4D0000 | os.getpid() & 0xFFFF
    segment = libc.shmget(key, 4096, 0o1666)  # IPC_CREAT
    assert segment >= 0
    name = f"/dev/shm/sandbox-canary-{os.getpid()}"
    Path(name).write_text("canary")
    try:
        neighbour = inside.run(
            held,
            f"""
            import ctypes
            libc = ctypes.CDLL(None)
            open("/dev/shm/of-the-neighbour", "w").write("x")
            print(libc.shmget({key + 1}, 4096, 0o1666) >= 0)
            """,
        )
        assert neighbour.output == "True\n"
        found = inside.tell(
            """
            keys = [int(a) for a in sys.argv[1:]]
            libc.mq_open.restype = ctypes.c_int
            tell([[libc.shmget(key, 0, 0) for key in keys],
                  open("/proc/sysvipc/shm").read().count("\\n"),
                  os.listdir("/dev/shm"), os.listdir("/dev/mqueue")])
            """,
            str(key),
            str(key + 1),
        )
        assert found == [[-1, -1], 1, [], []]
    finally:
        os.unlink(name)
        libc.shmctl(segment, 0, None)  # IPC_RMID


def test_a18_no_process_outside_is_seen_or_signalled(inside, held, canaries):
    neighbour = held.run(ProcessSpec(argv=("/bin/sleep", "60")))
    assert neighbour.pid > 0
    victims = [canaries.process.pid, neighbour.pid, held.pid, os.getpid(), os.getppid()]
    found = inside.tell(
        """
        import signal
        victims = [int(a) for a in sys.argv[2:]]
        seen = [attempt(os.kill, pid, 0) for pid in victims]
        opened = [call(int(sys.argv[1]), pid, 0) for pid in victims]
        groups = [attempt(os.killpg, pid, signal.SIGKILL) for pid in victims]
        tell([seen, opened, groups])
        """,
        str(NUMBERS["pidfd_open"]),
        *map(str, victims),
    )
    assert found == [["ESRCH"] * 5] * 3
    assert not neighbour.ended()
    assert held.usage()["pids"] >= 2
    neighbour.kill()
    neighbour.wait(10)
    neighbour.close()


def test_a18_a_kill_of_everything_ends_only_the_own_container(inside, held):
    found = inside.tell(
        """
        import signal, time
        child = os.fork()
        if child == 0:
            time.sleep(1000)
        os.kill(-1, signal.SIGKILL)  # not the caller itself, nor pid 1: kill(2)
        tell([os.WTERMSIG(os.waitpid(child, 0)[1]), attempt(os.kill, -1, signal.SIGKILL)])
        """
    )
    assert found == [9, "ESRCH"]
    assert inside.run(held, "print('alive')").output == "alive\n"


# 19, 20


def test_a19_descriptors_don_t_cross_an_inherited_socket(inside, canaries):
    """What a cell sends by SCM_RIGHTS over a socket that it was given is not kept outside."""
    ours, theirs = socket.socketpair()
    try:
        count = len(os.listdir("/proc/self/fd"))
        found = inside.tell(
            """
            import array, socket
            relay = socket.socket(fileno=7)
            rights = array.array("i", [os.open("/etc/passwd", os.O_RDONLY)] * 50)
            sent = relay.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            relay.setblocking(False)
            tell([sent, attempt(relay.recvmsg, 10, 1000)])
            """,
            descriptors={7: theirs.fileno()},
        )
        assert found == [1, "EAGAIN"]
        # A plain read is what all of ours do: the kernel then closes what came with the bytes.
        assert ours.recv(10) == b"x"
        assert len(os.listdir("/proc/self/fd")) == count
    finally:
        ours.close()
        theirs.close()


SECRETS = {
    "JUPYTER_TOKEN": "jupyter",
    "JPY_SESSION_NAME": "session",
    "HTTPS_PROXY": "http://user:proxy@proxy.invalid:3128",
    "AWS_SECRET_ACCESS_KEY": "cloud",
    "SSH_AUTH_SOCK": "/tmp/agent",
    "XDG_RUNTIME_DIR": "runtime",
}

LOOK_FOR_SECRETS = """
import os, sys
canary = b"-".join((b"canary", b"of", b""))
seen, found = 0, False
def look(path):
    global seen, found
    try:
        with open(path, "rb") as file:
            data = file.read(1 << 20)
    except OSError:
        data = b""
    seen += 1
    found = found or canary in path.encode() + data
for name in os.listdir("/proc"):
    if name.isdigit():
        for part in ("environ", "cmdline"):
            look(f"/proc/{name}/{part}")
for top in ("/tmp", "/run", "/root", "/home", "/var", "/etc", os.path.expanduser("~")):
    for folder, folders, files in os.walk(top):
        python = (sys.prefix, sys.base_prefix)  # many files, made by nobody here
        folders[:] = [name for name in folders if os.path.join(folder, name) not in python]
        for name in files:
            look(os.path.join(folder, name))
print(seen, found)
"""

PROGRAM_WITH_SECRETS = f"""
import os, sys
from sandbox_kernel import policy
from sandbox_kernel.container import Container, ProcessSpec
read, write = os.pipe()
spec = ProcessSpec(
    argv=(sys.executable, "-I", "-c", {LOOK_FOR_SECRETS!r}), descriptors={{1: write, 2: write}}
)
with Container.create(policy.plan(), process=spec) as made:
    os.close(write)
    assert made.process.wait(200).status == 0
print(os.read(read, 65536).decode())
"""


@pytest.mark.cve("CVE-2024-22421")
def test_a20_no_secret_of_the_server_is_inside(tmp_path):
    file = tmp_path / "kernel-canary-of-connection.json"
    file.write_text('{"key": "canary-of-key"}')
    environment = {**os.environ, "JPY_CONNECTION_FILE": str(file)}
    environment |= {name: f"canary-of-{value}" for name, value in SECRETS.items()}
    environment["XDG_RUNTIME_DIR"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM_WITH_SECRETS, str(file), "canary-of-argument"],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    count, found = done.stdout.split()
    assert int(count) > 3
    assert found == "False"


# 21


def test_a21_a_read_only_input_stays_as_it_is(inside, tmp_path):
    source = tmp_path / "input"
    source.mkdir()
    (source / "data").write_text("input")
    (source / "folder").mkdir()
    before = {p.name: (p.stat().st_mode, p.stat().st_mtime_ns) for p in source.iterdir()}
    found = inside.tell(
        """
        import mmap
        data = "/input/data"
        def mapped():
            with open(data, "rb") as file:
                mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_WRITE | mmap.PROT_READ)
        tell({
            "write": write(data),
            "create": attempt(os.open, "/input/new", os.O_CREAT | os.O_WRONLY),
            "truncate": attempt(os.truncate, data, 0),
            "unlink": attempt(os.unlink, data),
            "rename": attempt(os.rename, data, "/input/other"),
            "link": attempt(os.link, data, "/input/link"),
            "link out": attempt(os.link, data, "/tmp/link"),
            "symlink": attempt(os.symlink, data, "/input/symlink"),
            "mkdir": attempt(os.mkdir, "/input/x"),
            "rmdir": attempt(os.rmdir, "/input/folder"),
            "chmod": attempt(os.chmod, data, 0o777),
            "chown": attempt(os.chown, data, 0, 0),
            "utime": attempt(os.utime, data, (1, 1)),
            "xattr": attempt(os.setxattr, data, "user.x", b"1"),
            "map": attempt(mapped),
            "remount": call(int(sys.argv[1]), None, b"/input", None, 32 | 4096, None),
            "self": write("/proc/self/root/input/data"),
        })
        """,
        str(NUMBERS["mount"]),
        mount=[f"type=bind,source={source},target=/input,readonly"],
    )
    allowed = {"link out": "EXDEV", "map": "EACCES", "remount": "EPERM"}
    for name, result in found.items():
        assert result == allowed.get(name, "EROFS"), name
    assert (source / "data").read_text() == "input"
    assert {p.name: (p.stat().st_mode, p.stat().st_mtime_ns) for p in source.iterdir()} == before


# 23


DAEMON = """
import os, signal, sys, time
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
ready, said = os.pipe()
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.setsid()
            os.write(said, b"x")
            while True:
                time.sleep(1000)
        os._exit(0)
for _ in range(3):
    os.read(ready, 1)
print("daemons run", flush=True)
if len(sys.argv) > 1:
    time.sleep(1000)
"""


def living(container):
    """Processes of the container in its cgroup as the host sees them, without pid 1.

    The agent is in the group and stays outside of the pid namespace.
    """
    depth = len(_numbers(container.pid))
    pids = set()
    for directory in set(container.cgroup_paths().values()):
        for folder, _, _ in os.walk(directory):
            try:
                pids |= set(map(int, Path(folder, "cgroup.procs").read_text().split()))
            except OSError as error:  # the group of a run that ended goes with its last process
                assert error.errno in (errno.ENOENT, errno.ENODEV), error
    return {pid for pid in pids - {container.pid} if len(_numbers(pid)) == depth}


def _numbers(pid):
    """What a process is called in each pid namespace from ours down; nothing when it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return next(line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:"))


def test_a23_daemons_end_with_the_run_that_made_them(inside, held):
    ran = inside.run(held, DAEMON)
    assert ran.output == "daemons run\n"
    assert ran.exit.status == 0
    deadline = time.monotonic() + held.plan.stop_timeout
    while living(held) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert living(held) == set()
    assert inside.run(held, "print('next')").output == "next\n"


def test_a23_stop_ends_what_ignores_it_in_the_stop_time(inside):
    read, write = os.pipe()
    with Container.create(
        plan(stop_timeout="1s"), process=inside.specification(DAEMON, write, ("stay",))
    ) as made:
        os.close(write)
        assert os.read(read, 100) == b"daemons run\n"
        deadline = time.monotonic() + 10
        while len(pids := living(made)) > 4 and time.monotonic() < deadline:
            time.sleep(0.01)  # the one that forked them is on its way out
        assert len(pids) == 4
        started = time.monotonic()
        made.stop()
        made.process.wait(10)
        # The program is over when its exit is told; the others may be on their last steps.
        while any(os.path.exists(f"/proc/{pid}") for pid in pids):
            assert time.monotonic() - started < 3
            time.sleep(0.01)
        assert time.monotonic() - started < 3
    os.close(read)


# 24


SWAP = """
import os, sys
os.chdir("/shared")
os.makedirs("real/target", exist_ok=True)
if not os.path.islink("link"):
    os.symlink(sys.argv[1], "link")
print("swapping", flush=True)
while True:
    os.rename("real", "place")
    os.rename("place", "real")
    os.rename("link", "place")
    os.rename("place", "link")
"""


@pytest.fixture
def trap():
    """A folder of the host that everybody may write to, with a file."""
    with tempfile.TemporaryDirectory(prefix="trap-", dir="/var/tmp") as folder:
        os.chmod(folder, 0o777)
        Path(folder, "file").touch()
        yield folder


@pytest.mark.cve("CVE-2021-30465", "CVE-2024-45310")
def test_a24_a_mount_target_that_is_swapped_for_a_link_leads_nowhere_else(inside, trap, tmp_path):
    """CVE-2021-30465: one container swaps a directory of a shared volume for a link to a host
    path while others start that mount below it."""
    shared = tmp_path / "shared"
    shared.mkdir()
    bind = f"type=bind,source={shared},target=/shared"
    read, write = os.pipe()
    ends = {"started": 0, "refused": 0}
    attacker = inside.specification(SWAP, write, (trap,))
    with Container.create(plan(mount=[bind]), process=attacker) as made:
        os.close(write)
        assert os.read(read, 100) == b"swapping\n"
        for _ in races.turns(least=4):
            wanted = plan(mount=[bind, "type=tmpfs,target=/shared/place/target"])
            try:
                with Container.create(wanted) as victim:
                    ends["started"] += 1
                    for place in mounts_of(victim.pid):
                        assert not place.startswith(trap), place
            except (errors.ContainerError, errors.InvalidOption):
                ends["refused"] += 1
            assert os.listdir(trap) == ["file"]
        made.kill()
    os.close(read)
