"""A scope from a real systemd: the user manager of `tester`, in a subtree that root gave him."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import jeepney
import pytest
from ordinary_cgroup_user import PACKAGE, SYSTEM_PYTHON

from sandbox_kernel.runtime.cgroups import files

MOUNT = Path("/sys/fs/cgroup")
SYSTEMD = "/lib/systemd/systemd"
IN_A_SCOPE = """
import os, sys
sys.path[:0] = sys.argv[1:]
from sandbox_kernel.runtime import cgroups
from sandbox_kernel.runtime.cgroups import systemd
try:
    systemd.delegated_scope(os.getpid(), "bad name")
except Exception as error:
    print(type(error).__name__, error)
directory = systemd.delegated_scope(os.getpid(), "test")
print(directory)
driver = cgroups.choose(directory)
print(driver.name)
group = driver.create("launcher/c", {"memory": {"limit": 33554432}, "pids": {"limit": 5}})
print(group.limits()["memory"], group.limits()["pids_limit"], *group.paths().values())
group.remove()
"""

IN_A_SESSION = """
import json, sys
sys.path[:0] = sys.argv[1:]
from sandbox_kernel import policy
from sandbox_kernel.container import Container, ProcessSpec
from sandbox_kernel.runtime import client
from sandbox_kernel.runtime.cgroups import systemd
wanted = systemd.is_wanted()
launcher = client.shared()
plan = policy.plan("program", image="host", memory="48m", pids_limit=9)
with Container.create(plan) as container:
    said = [launcher.about["driver"], container.limits_at_start["memory"]]
    with open(f"/proc/{container.pid}/cgroup") as place:
        group = "/sys/fs/cgroup" + place.read().strip().removeprefix("0::").removesuffix("/init")
    ended = container.run(ProcessSpec(argv=("/bin/true",))).wait(60)
with open("/proc/self/cgroup") as own:
    print(json.dumps([wanted, launcher.name, group, *said, ended.status, own.read().strip()]))
"""
AND_AGAIN = """
import os, subprocess, sys
sys.path[:0] = sys.argv[2:]
from sandbox_kernel.runtime.cgroups import systemd
print(systemd.delegated_scope(os.getpid(), "terminal"), flush=True)
os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", sys.argv[1], *sys.argv[2:]])
"""
ASK = """
import os, sys
sys.path[:0] = sys.argv[1:]
from sandbox_kernel.runtime.cgroups import systemd
systemd.delegated_scope(os.getpid(), "first")
"""
PACKAGES = [str(PACKAGE), str(Path(jeepney.__file__).parents[1])]


@pytest.fixture(scope="module")
def manager() -> Iterator[Path]:
    """The directory that a running user manager of systemd holds; root's `session` is in it."""
    entry = pwd.getpwnam("tester")
    for name in ("memory", "pids", "cpu"):
        files.write(f"{MOUNT}/cgroup.subtree_control", f"+{name}")
    place = MOUNT / "user-manager"
    place.mkdir()
    for path in (place, place / "cgroup.procs", place / "cgroup.subtree_control"):
        os.chown(path, entry.pw_uid, entry.pw_gid)
    runtime = Path("/run/user", str(entry.pw_uid))
    runtime.mkdir(parents=True, mode=0o700)
    os.chown(runtime, entry.pw_uid, entry.pw_gid)
    Path("/run/systemd/system").mkdir(parents=True)  # sd_booted(3): what a user manager looks for
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        ready.bind("\0sandbox-kernel-test")
        ready.settimeout(60)
        manager = subprocess.Popen(
            as_tester(place, [SYSTEMD, "--user", "--unit=sockets.target", "--log-target=console"]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            while b"READY=1" not in ready.recv(4096):
                pass
            # The bus is started by whoever asks first; it is no leftover of that test.
            (place / "session").mkdir()
            subprocess.run(
                as_tester(place / "session", [SYSTEM_PYTHON, "-c", ASK, *PACKAGES]), check=True
            )
            yield place
        finally:
            files.write(f"{place}/cgroup.kill", "1")
            print(manager.communicate()[1])
    files.remove(str(place))
    Path("/run/systemd/system").rmdir()


def as_tester(place: Path, argv: list[str]) -> list[str]:
    """The argv that runs `argv` as the user, from the group `place`."""
    entry = pwd.getpwnam("tester")
    identity = ["--reuid", "tester", "--regid", "tester", "--init-groups", "--reset-env"]
    words = [f"XDG_RUNTIME_DIR=/run/user/{entry.pw_uid}", "NOTIFY_SOCKET=@sandbox-kernel-test"]
    setpriv = ["/usr/bin/setpriv", *identity, "/usr/bin/env", *words, *argv]
    return ["/bin/sh", "-c", 'echo $$ > "$0/cgroup.procs"; exec "$@"', str(place), *setpriv]


def test_a_scope_is_delegated_and_the_driver_is_at_home_in_it(manager: Path) -> None:
    session = manager / "session"
    program = [SYSTEM_PYTHON, "-I", "-S", "-c", IN_A_SCOPE, *PACKAGES]
    done = subprocess.run(
        as_tester(session, program), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stderr == ""
    refused, scope, name, limits = done.stdout.splitlines()
    assert scope.startswith(str(manager))
    assert scope.endswith("/sandbox-kernel-test.scope")
    assert name == "v2"
    assert limits == f"33554432 5 {scope}/launcher.c"
    assert refused.startswith("HostLacks ask systemd for the cgroup scope")
    assert "org.freedesktop.DBus.Error.InvalidArgs" in refused


def test_a_launcher_is_given_a_scope_and_the_session_s_processes_stay(manager: Path) -> None:
    session = manager / "session"
    program = [SYSTEM_PYTHON, "-I", "-S", "-c", IN_A_SESSION, *PACKAGES]
    done = subprocess.run(
        as_tester(session, program), capture_output=True, text=True, timeout=200, check=False
    )
    assert done.stderr == ""
    wanted, name, group, driver, memory, status, own = json.loads(done.stdout)
    assert wanted
    assert group.startswith(f"{manager}/")
    assert f"/sandbox-kernel-{name}.scope/{name}." in group
    assert (driver, memory, status) == ("v2", 48 << 20, 0)
    assert own == "0::/user-manager/session"
    wait_until_gone(Path(group).parent)


def test_what_systemd_delegated_already_is_used(manager: Path) -> None:
    """As in `systemd-run --user --scope -p Delegate=yes jupyter lab`."""
    session = manager / "session"
    program = [SYSTEM_PYTHON, "-I", "-S", "-c", AND_AGAIN, IN_A_SESSION, *PACKAGES]
    done = subprocess.run(
        as_tester(session, program), capture_output=True, text=True, timeout=200, check=False
    )
    assert done.stderr == ""
    scope, said = done.stdout.splitlines()
    _, name, group, driver, _, status, own = json.loads(said)
    assert Path(group).parent == Path(scope)
    assert Path(group).name.startswith(f"{name}.")
    assert (driver, status) == ("v2", 0)
    assert own == f"0::{scope.removeprefix(str(MOUNT))}/launcher"
    wait_until_gone(Path(scope))


def test_where_systemd_gives_nothing_limits_are_refused(manager: Path) -> None:
    """No bus for this user, as after `su`: nothing is moved, and what can't be held is refused."""
    session = manager / "session"
    program = [SYSTEM_PYTHON, "-I", "-S", "-c", IN_A_SESSION, *PACKAGES]
    argv = ["/usr/bin/env", "XDG_RUNTIME_DIR=/tmp/tester-without-bus", *program]
    runtime = Path("/tmp/tester-without-bus")
    runtime.mkdir(mode=0o700)
    shutil.chown(runtime, "tester")
    done = subprocess.run(
        as_tester(session, argv), capture_output=True, text=True, timeout=200, check=False
    )
    assert "LimitNotEnforceable" in done.stderr
    assert "`--memory`" in done.stderr
    assert "ask systemd for a cgroup scope on `/tmp/tester-without-bus/bus`" in done.stderr
    assert "log in through a session of systemd" in done.stderr


def wait_until_gone(scope: Path) -> None:
    """systemd removes a scope some time after its last process has ended."""
    deadline = time.monotonic() + 60
    while scope.exists():
        assert time.monotonic() < deadline, f"{scope} is left: {list(scope.rglob('*'))}"
        time.sleep(0.1)
