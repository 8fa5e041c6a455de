"""The v2 driver with real processes: as root, and as a user with a delegated subtree."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import cgroup_processes as groups
import pytest
from cgroup_promises import *  # noqa: F403
from ordinary_cgroup_user import WITH_LIMITS, run_as_tester

from sandbox_kernel import errors
from sandbox_kernel.runtime import cgroups
from sandbox_kernel.runtime.cgroups import delegation
from sandbox_kernel.runtime.cgroups.contract import Driver

MIB = 1 << 20
MOUNT = Path("/sys/fs/cgroup")


@pytest.fixture
def driver() -> Iterator[Driver]:
    parent = MOUNT / f"sandbox-kernel/test-{os.getpid()}"
    driver = cgroups.choose(f"sandbox-kernel/{parent.name}")
    assert driver.name == "v2"
    yield driver
    left = driver.sweep(lambda launcher: False).launchers
    parent.rmdir()
    assert not left


def test_the_usual_place_is_one_directory_at_the_mount() -> None:
    driver = cgroups.choose()
    group = driver.create("launcher/c", {})
    path = Path(group.paths()[""])
    assert path == MOUNT / "sandbox-kernel/launcher.c"
    assert {"memory", "pids", "cpu", "io"} <= set((path / "cgroup.controllers").read_text().split())
    assert (path / "memory.oom.group").read_text() == "1\n"
    group.remove()


def test_out_of_memory_ends_the_whole_container(driver: Driver) -> None:
    group = driver.create("launcher/oom", {"memory": {"limit": 32 * MIB, "swap": 32 * MIB}})
    with groups.process("rest") as bystander, groups.process("eat_memory") as eater:
        groups.join(group, bystander.pid)
        groups.join(group.child("run-1"), eater.pid)
        groups.go(eater)
        assert eater.wait(60) == -9
        assert bystander.wait(60) == -9
    group.remove()


def test_swap_is_what_is_left_of_the_total(driver: Driver) -> None:
    if driver.support()["memory_swap"]:
        with pytest.raises(errors.LimitNotEnforceable, match="--memory-swap"):
            driver.create("launcher/s", {"memory": {"limit": 32 * MIB, "swap": 48 * MIB}})
        return
    group = driver.create("launcher/swap", {"memory": {"limit": 32 * MIB, "swap": 48 * MIB}})
    assert Path(group.paths()[""], "memory.swap.max").read_text() == f"{16 * MIB}\n"
    group.update({"memory": {"limit": 40 * MIB}})
    assert group.limits()["memory_swap"] == 56 * MIB
    group.remove()


def test_a_controller_that_the_kernel_lacks_is_refused(driver: Driver) -> None:
    if "cpuset" in (MOUNT / "cgroup.controllers").read_text():
        pytest.fail("this kernel has cpuset: test with it that it is read back")
    with pytest.raises(errors.LimitNotEnforceable, match=r"`--cpuset-cpus`.*cpuset controller"):
        driver.create("launcher/cpuset", {"cpu": {"cpus": "0"}})


def test_a_device_that_is_not_there_is_refused(driver: Driver) -> None:
    rule = {"major": 4095, "minor": 7, "rate": MIB}
    with pytest.raises(errors.LimitNotEnforceable, match=r"`--device-read-bps`.*4095:7"):
        driver.create("launcher/disk", {"blockIO": {"throttleReadBpsDevice": [rule]}})


def test_an_ordinary_user_without_a_subtree_is_told_what_to_do() -> None:
    (reason,) = run_as_tester()
    assert "not delegated to this user" in reason
    assert "systemd-run --user --scope -p Delegate=yes" in reason


def test_an_ordinary_user_in_a_delegated_subtree_has_limits() -> None:
    """Root types what `delegation` says; the user's own processes are there with the launcher."""
    *commands, put_in = delegation.commands("tester", systemd=False)
    subprocess.run(["/bin/sh", "-e", "-c", "\n".join(commands)], check=True)
    place = next(MOUNT.glob("sandbox-kernel/user-*"))
    assert put_in.startswith(f"echo PID > {place}/cgroup.procs")
    with groups.process("rest") as jupyter:
        (place / "cgroup.procs").write_text(f"{jupyter.pid}\n")
        # The second launcher starts where the first one moved everybody, as a child would.
        for directory in (place, place / "launcher"):
            lines = run_as_tester(into=directory / "cgroup.procs")
            assert lines == [f"v2 {WITH_LIMITS[0]}", *WITH_LIMITS[1:]]
            assert (place / "launcher/cgroup.procs").read_text() == f"{jupyter.pid}\n"
    (place / "launcher").rmdir()
    place.rmdir()
