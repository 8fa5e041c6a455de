"""The v1 driver on this machine, with real processes: as root, and as a user with a subtree."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cgroup_processes as groups
import pytest
from cgroup_promises import *  # noqa: F403
from ordinary_cgroup_user import WITH_LIMITS, run_as_tester

from sandbox_kernel import errors
from sandbox_kernel.runtime import cgroups
from sandbox_kernel.runtime.cgroups import delegation, mounted
from sandbox_kernel.runtime.cgroups.contract import Driver

MIB = 1 << 20
pytestmark = pytest.mark.skipif(not mounted.read().v1, reason="no cgroup v1 on this machine")


def remove_tops(parent: str) -> None:
    for mount in mounted.read().v1.values():
        top = Path(mount.directory, parent)
        if top.is_dir():
            top.rmdir()


@pytest.fixture
def driver() -> Iterator[Driver]:
    parent = f"sandbox-kernel/test-{os.getpid()}"
    driver = cgroups.choose(parent)
    assert driver.name == "v1"
    yield driver
    left = driver.sweep(lambda launcher: False).launchers
    remove_tops(parent)
    assert not left


def test_every_limit_can_be_enforced_here(driver: Driver) -> None:
    assert set(driver.support().values()) == {""}


def test_cpuset_is_read_back_and_joined_by_a_live_group(driver: Driver) -> None:
    group = driver.create("launcher/cpuset", {"cpu": {"cpus": "0"}})
    assert group.limits()["cpuset_cpus"] == "0"
    group.remove()
    live = driver.create("launcher/late", {})
    with groups.process("rest") as child:
        groups.join(live.child("run-1"), child.pid)
        live.update({"cpu": {"cpus": "0"}})
        assert os.sched_getaffinity(child.pid) == {0}
        live.kill()
    live.remove()


THREAD_IN_A_GROUP = """
import os, threading, time
def come_in():
    for place in PLACES:
        with open(place + "/tasks", "w") as tasks:
            tasks.write("0")
    print("in it", flush=True)
    time.sleep(SECONDS)
threading.Thread(target=come_in).start()
input()
print("alive", flush=True)
"""


def test_who_has_a_thread_in_it_that_is_ending_is_waited_for_and_not_ended(driver: Driver) -> None:
    """As the maker of a container has when the container is over at once."""
    group = driver.create("launcher/leaving", {})
    code = f"PLACES, SECONDS = {list(set(group.paths().values()))}, 0.3\n{THREAD_IN_A_GROUP}"
    with (
        groups.process("rest") as other,
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as leaving,
    ):
        assert leaving.stdout is not None
        assert leaving.stdout.readline() == "in it\n"
        groups.join(group, other.pid)
        group.kill(leaving.pid)
        group.remove()
        assert other.wait(10) != 0
        said, _ = leaving.communicate("\n", timeout=10)
    assert said == "alive\n"


def test_cpus_that_are_not_there_are_refused(driver: Driver) -> None:
    with pytest.raises(errors.LimitNotEnforceable, match=r"`--cpuset-cpus`.*has the CPUs"):
        driver.create("launcher/cpuset", {"cpu": {"cpus": "0-999"}})


def test_device_rates_are_read_back(driver: Driver) -> None:
    disk = Path("/sys/block/vda/dev")
    if not disk.exists():
        disk = next(path / "dev" for path in Path("/sys/block").iterdir())
    major, minor = map(int, disk.read_text().split(":"))
    rule = {"major": major, "minor": minor, "rate": MIB}
    group = driver.create("launcher/disk", {"blockIO": {"throttleReadBpsDevice": [rule]}})
    group.update({"blockIO": {"throttleWriteBpsDevice": [{**rule, "rate": 2 * MIB}]}})
    limits = group.limits()
    group.remove()
    assert limits["device_read_bps"] == [f"{major}:{minor} {MIB}"]
    assert limits["device_write_bps"] == [f"{major}:{minor} {2 * MIB}"]


def test_a_device_that_is_not_there_is_refused(driver: Driver) -> None:
    rule = {"major": 4095, "minor": 7, "rate": MIB}
    with pytest.raises(errors.LimitNotEnforceable, match=r"`--device-read-bps`.*4095:7"):
        driver.create("launcher/disk", {"blockIO": {"throttleReadBpsDevice": [rule]}})


def test_an_ordinary_user_without_a_subtree_is_told_what_to_do() -> None:
    (reason,) = run_as_tester()
    assert "not handed over to this user" in reason
    assert "sandbox-kernel doctor" in reason


def test_an_ordinary_user_with_a_subtree_has_limits() -> None:
    run_as_tester()  # makes the user when he is missing
    subprocess.run(["/bin/sh", "-e", "-c", "\n".join(delegation.commands("tester"))], check=True)
    try:
        lines = run_as_tester()
    finally:
        remove_user_tops()
    assert lines == [f"v1 {WITH_LIMITS[0]}", *WITH_LIMITS[1:]]


def remove_user_tops() -> None:
    remove_tops(f"sandbox-kernel/user-{pwd.getpwnam('tester').pw_uid}")


def test_the_driver_is_light() -> None:
    """Imported in a bare interpreter it brings no module that the launcher can't afford."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from sandbox_kernel.runtime import cgroups\n"
        "cgroups.choose()\n"
        "heavy = 'dataclasses typing re pathlib subprocess logging inspect argparse'.split()\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    argv = [sys.executable, "-I", "-S", "-c", program, str(Path(__file__).parents[2])]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
