"""The filter on a real process: a C probe makes calls by every entry the machine has."""

from __future__ import annotations

import errno
import os
import pathlib
import platform
import re
import signal
import stat
import subprocess
import sys

import pytest
from call_numbers import NUMBERS

import sandbox_kernel
from sandbox_kernel import errors
from sandbox_kernel.bundle import seccomp_profile as tables
from sandbox_kernel.linux import seccomp, seccomp_cache

pytestmark = pytest.mark.everybody

PACKAGE_PARENT = pathlib.Path(sandbox_kernel.__file__).resolve().parents[1]
HIGH = 1 << 32

INSTALL_AND_EXECUTE = """
import os, sys
sys.path.insert(0, sys.argv[1])
from sandbox_kernel.linux import seccomp_install
seccomp_install.install(os.read(0, 1 << 20))
os.execv(sys.argv[2], sys.argv[2:])
"""

x86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="an entry of x86-64")


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    """The compiled tests/probes/calls.c."""
    binary = tmp_path_factory.mktemp("probe") / "calls"
    source = pathlib.Path(__file__).resolve().parents[1] / "probes/calls.c"
    subprocess.run(["/usr/bin/gcc", "-O1", "-o", binary, source], check=True)
    return str(binary)


@pytest.fixture(scope="module")
def run_filtered(tmp_path_factory):
    """run_filtered([program, ...]) -> CompletedProcess, with our default filter on it."""
    cache = str(tmp_path_factory.mktemp("cache"))
    program = seccomp_cache.program(tables.profile(), cache)

    def run(argv):
        return subprocess.run(
            [sys.executable, "-I", "-S", "-c", INSTALL_AND_EXECUTE, str(PACKAGE_PARENT), *argv],
            input=program,
            capture_output=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.fixture(scope="module")
def call(probe, run_filtered):
    """call(number, *arguments) -> result of the call; a negative number is an errno."""

    def call(number, *arguments, entry="native"):
        words = [probe, entry, str(number), *(hex(a & (2**64 - 1)) for a in arguments)]
        done = run_filtered(words)
        assert done.returncode == 0, done
        return int(done.stdout)

    return call


def test_terminal_injection_is_refused_with_and_without_high_bits(call):
    for request in tables.REFUSED_REQUESTS:
        for sent in (request, request | HIGH, request | 0xDEAD << 32):
            assert call(NUMBERS["ioctl"], 0, sent, 0) == -errno.EPERM
    # TCGETS reaches the kernel, which says that a pipe is no terminal.
    assert call(NUMBERS["ioctl"], 1, 0x5401, 0) == -errno.ENOTTY


@x86_64
def test_the_32_bit_entry_ends_the_process(probe, run_filtered):
    for number in (20, 54, 120):  # getpid, ioctl, clone of the 32-bit table
        done = run_filtered([probe, "i386", str(number)])
        assert done.returncode == -signal.SIGSYS
        assert done.stdout == b""


@x86_64
def test_x32_numbers_end_the_process(probe, run_filtered):
    for number in (39, 514, 547):  # getpid; ioctl and the last of the x32 table
        done = run_filtered([probe, "native", str(0x40000000 | number)])
        assert done.returncode == -signal.SIGSYS
        assert done.stdout == b""


def test_numbers_above_the_newest_known_are_unknown(call):
    for number in (480, 511, 600, 4095, 2**30 - 1):
        assert call(number) == -errno.ENOSYS


def test_no_namespace_by_clone_and_no_clone3(call):
    for flag in (tables.CLONE_NEWUSER, tables.CLONE_NEWNS, tables.CLONE_NEWNET):
        assert call(NUMBERS["clone"], flag | signal.SIGCHLD) == -errno.EPERM
        assert call(NUMBERS["clone"], flag | signal.SIGCHLD | HIGH) == -errno.EPERM
        assert call(NUMBERS["unshare"], flag) == -errno.EPERM
    assert call(NUMBERS["clone"], signal.SIGCHLD) > 0
    assert call(NUMBERS["clone3"]) == -errno.ENOSYS


@pytest.mark.parametrize("group", tables.REFUSED, ids=lambda group: group.name)
def test_refused_calls_are_refused(call, group):
    for name in group.calls:
        if name in NUMBERS:
            assert call(NUMBERS[name]) == -errno.EPERM, name


def test_socket_families(call):
    socket = NUMBERS["socket"]
    for family in (tables.AF_UNIX, tables.AF_INET, tables.AF_INET6):
        assert call(socket, family, 1, 0) >= 0
    assert call(socket, tables.AF_NETLINK, 3, tables.NETLINK_ROUTE) >= 0
    assert call(socket, tables.AF_NETLINK, 3, tables.NETLINK_NETFILTER) == -errno.EPROTONOSUPPORT
    for family in (tables.AF_PACKET, 38, 40, 31, 29, 44):  # ALG, VSOCK, BLUETOOTH, CAN, XDP
        assert call(socket, family, 3, 0) == -errno.EAFNOSUPPORT


def test_the_filter_shows_and_nothing_can_be_gained(run_filtered):
    status = run_filtered(["/bin/cat", "/proc/self/status"]).stdout.decode()
    assert re.search(r"^Seccomp:\s+2$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)


def test_python_and_shells_live_with_it(run_filtered):
    code = (
        "import asyncio, ctypes, mmap, multiprocessing, socket, sqlite3, subprocess, threading\n"
        "import tempfile, time, select, signal, resource, shutil, os\n"
        "subprocess.run(['/bin/sh', '-c', 'ls / | sort | head -1'], check=True)\n"
        "thread = threading.Thread(target=print, args=('thread',)); thread.start(); thread.join()\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool: print(pool.map(abs, [-1, -2]))\n"
        "asyncio.run(asyncio.sleep(0.01))\n"
        "print(socket.if_nameindex()[0][1], socket.getaddrinfo('127.0.0.1', 80)[0][4])\n"
        "source = os.path.dirname(asyncio.__file__)\n"
        "with tempfile.TemporaryDirectory() as d: shutil.copytree(source, d + '/x')\n"
        "socket.socketpair(); os.memfd_create('x'); os.pidfd_open(os.getpid())\n"
        "print('done')\n"
    )
    done = run_filtered([sys.executable, "-I", "-c", code])
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.endswith(b"done\n")


def test_numpy_computes_with_it(run_filtered):
    code = "import numpy as n; a = n.random.rand(300, 300); print((a @ a).shape)"
    done = run_filtered([sys.executable, "-I", "-c", code])
    assert done.stdout == b"(300, 300)\n", done.stderr.decode()


def test_the_cache_is_used_and_private(tmp_path):
    profile = tables.profile()
    program = seccomp_cache.program(profile, str(tmp_path))
    (file,) = tmp_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = file.stat().st_mtime_ns
    assert seccomp_cache.program(profile, str(tmp_path)) == program
    assert file.stat().st_mtime_ns == before
    seccomp_cache.program(tables.profile(("CAP_SYS_PTRACE",)), str(tmp_path))
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.fault(17)
@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "link", "writable", "directory"])
def test_a_damaged_cache_file_is_built_again(tmp_path, damage):
    profile = tables.profile()
    program = seccomp_cache.program(profile, str(tmp_path))
    (file,) = tmp_path.iterdir()
    data = bytearray(file.read_bytes())
    if damage == "flipped":
        data[100] ^= 1
        file.write_bytes(data)
    elif damage == "cut":
        file.write_bytes(data[:-8])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "link":
        other = tmp_path / "other"
        file.rename(other)
        file.symlink_to(other)
    elif damage == "writable":
        file.chmod(0o666)
    else:
        file.unlink()
        file.mkdir()
    assert seccomp_cache.program(profile, str(tmp_path)) == program
    if damage != "directory":
        assert file.read_bytes()[32:] == program
        assert not file.is_symlink()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_cache_that_can_t_be_written_costs_time_only():
    assert seccomp_cache.program(tables.profile(), "/proc/nowhere")


def test_a_machine_without_the_library_says_how_to_get_it(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(seccomp.ctypes, "CDLL", missing)
    with pytest.raises(errors.HostLacks, match="apt-get install libseccomp2"):
        seccomp.build(tables.profile())


@pytest.mark.fault(21)
def test_an_unknown_machine_gets_no_filter_but_an_error(monkeypatch):
    monkeypatch.setattr(seccomp.platform, "machine", lambda: "vax")
    with pytest.raises(errors.HostLacks, match="`vax`"):
        seccomp.build(tables.profile())


@pytest.mark.fault(21)
def test_what_is_no_program_is_never_installed():
    code = (
        f"import sys; sys.path.insert(0, {str(PACKAGE_PARENT)!r})\n"
        "from sandbox_kernel.linux import seccomp_install as s\n"
        "from sandbox_kernel.errors import StepFailed\n"
        "for bad in (b'', b'1234567', bytes(8), bytes(8 * 5000)):\n"
        "    try:\n"
        "        s.install(bad)\n"
        "    except StepFailed as error:\n"
        "        print(error.step)\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["install seccomp program of"] * 4


def test_a_refused_name_that_the_library_does_not_know_is_an_error():
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["a_call_of_the_future"], "action": "SCMP_ACT_ERRNO"}],
    }
    with pytest.raises(errors.HostLacks, match="a_call_of_the_future"):
        seccomp.build(profile)


def test_a_profile_of_another_machine_is_an_error():
    profile = {"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_S390X"]}
    with pytest.raises(errors.StepFailed, match=os.uname().machine):
        seccomp.build(profile)
