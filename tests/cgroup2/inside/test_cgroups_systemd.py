"""A scope from a real systemd: the user manager of `tester`, in a subtree that root gave him."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
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
directory = systemd.delegated_scope(os.getpid(), "test")
print(directory)
driver = cgroups.choose(directory)
print(driver.name)
group = driver.create("launcher/c", {"memory": {"limit": 33554432}, "pids": {"limit": 5}})
print(group.limits()["memory"], group.limits()["pids_limit"], *group.paths().values())
group.remove()
try:
    systemd.delegated_scope(os.getpid(), "bad name")
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def manager() -> Iterator[Path]:
    """The directory that a running user manager of systemd holds."""
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
    session.mkdir()
    packages = [str(PACKAGE), str(Path(jeepney.__file__).parents[1])]
    program = [SYSTEM_PYTHON, "-I", "-S", "-c", IN_A_SCOPE, *packages]
    done = subprocess.run(
        as_tester(session, program), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stderr == ""
    scope, name, limits, refused = done.stdout.splitlines()
    assert scope.startswith(str(manager))
    assert scope.endswith("/sandbox-kernel-test.scope")
    assert name == "v2"
    assert limits == f"33554432 5 {scope}/launcher.c"
    assert refused.startswith("HostLacks ask systemd for the cgroup scope")
    assert "org.freedesktop.DBus.Error.InvalidArgs" in refused
