"""What every cgroup driver promises, as tests that take a `driver` fixture from who imports them.

`test_cgroups_v1.py` gives them a v1 driver of this machine; `tests/cgroup2/inside` a v2 driver of
the machine with cgroup v2.
"""

from __future__ import annotations

import os
import select
import time

import cgroup_processes as groups
import pytest

from sandbox_kernel import errors
from sandbox_kernel.runtime.cgroups import files
from sandbox_kernel.runtime.cgroups.contract import Driver, Group

MIB = 1 << 20


def readable(descriptor: int, seconds: float) -> bool:
    return bool(select.select([descriptor], [], [], seconds)[0])


def members(group: Group) -> set[int]:
    """Who is in the group now; the counter of processes has those that nobody reaped yet, too."""
    return set.union(*(files.members(path) for path in group.paths().values()))


def test_limits_asked_for_are_read_back(driver: Driver) -> None:
    group = driver.create(
        "launcher/limits",
        {
            "memory": {"limit": 64 * MIB, "swap": 64 * MIB},
            "pids": {"limit": 50},
            "cpu": {"quota": 50_000, "period": 100_000, "shares": 512},
        },
    )
    limits = group.limits()
    group.remove()
    assert limits["memory"] == 64 * MIB
    assert limits["memory_swap"] == 64 * MIB
    assert limits["pids_limit"] == 50
    assert limits["cpus"] == 0.5
    assert abs(limits["cpu_shares"] - 512) <= 16
    assert limits["cpuset_cpus"] is None


def test_memory_may_be_rounded_down_to_a_page_only(driver: Driver) -> None:
    group = driver.create("launcher/page", {"memory": {"limit": 64 * MIB + 1}})
    shown = group.limits()["memory"]
    group.remove()
    assert shown == 64 * MIB


def test_no_limits_asked_for_are_none(driver: Driver) -> None:
    group = driver.create("launcher/none", {})
    limits = group.limits()
    group.remove()
    assert limits["memory"] is limits["pids_limit"] is limits["cpus"] is None


def test_memory_over_the_limit_is_counted_and_noticed(driver: Driver) -> None:
    group = driver.create("launcher/memory", {"memory": {"limit": 32 * MIB, "swap": 32 * MIB}})
    notice = group.oom_fd()
    assert notice is not None
    assert not readable(notice, 0)
    with groups.process("eat_memory") as child:
        groups.join(group, child.pid)
        groups.go(child)
        assert readable(notice, 60)
        assert child.wait(60) == -9
    os.read(notice, 4096)
    usage = group.usage()
    assert group.oom_kills() >= 1
    assert usage["oom_kills"] == group.oom_kills()
    peak = usage["memory_peak_bytes"]
    assert peak is None or 30 * MIB <= peak <= 33 * MIB
    group.remove()


def test_forks_over_the_limit_are_refused_and_counted(driver: Driver) -> None:
    group = driver.create("launcher/pids", {"pids": {"limit": 8}})
    with groups.process("fork_children") as child:
        groups.join(group, child.pid)
        groups.go(child)
        assert groups.answer(child) == "7"
        assert group.usage()["pids"] == 8
        assert group.usage()["pids_peak"] in (8, 9, None)
        assert group.forks_refused() >= 1
        group.kill()
        assert members(group) == set()
    group.remove()


def test_a_process_over_its_share_of_the_cpu_is_held_back(driver: Driver) -> None:
    group = driver.create("launcher/cpu", {"cpu": {"quota": 20_000, "period": 100_000}})
    with groups.process("spin") as child:
        groups.join(group, child.pid)
        groups.go(child)
        assert groups.answer(child) == "spun"
        usage = group.usage()
    group.kill()
    group.remove()
    assert usage["throttled_seconds"] is not None
    assert usage["throttled_seconds"] > 0.2
    assert usage["cpu_seconds"] is not None
    assert 0.05 < usage["cpu_seconds"] < 0.6


def test_limits_change_while_the_group_lives(driver: Driver) -> None:
    group = driver.create(
        "launcher/live",
        {"memory": {"limit": 64 * MIB, "swap": 64 * MIB}, "pids": {"limit": 8}},
    )
    group.update({"memory": {"limit": 128 * MIB, "swap": 192 * MIB}, "pids": {"limit": 20}})
    raised = group.limits()
    group.update({"memory": {"limit": 48 * MIB, "swap": 48 * MIB}})
    lowered = group.limits()
    group.update({"memory": {"limit": 80 * MIB}, "cpu": {"quota": 30_000, "period": 50_000}})
    alone = group.limits()
    group.update({"memory": {"limit": -1, "swap": -1}, "cpu": {"quota": -1}, "pids": {"limit": 0}})
    lifted = group.limits()
    group.remove()
    assert (raised["memory"], raised["memory_swap"]) == (128 * MIB, 192 * MIB)
    assert raised["pids_limit"] == 20
    assert (lowered["memory"], lowered["memory_swap"]) == (48 * MIB, 48 * MIB)
    assert (alone["memory"], alone["memory_swap"]) == (80 * MIB, 80 * MIB)
    assert alone["cpus"] == 0.6
    assert lifted["memory"] is lifted["cpus"] is lifted["pids_limit"] is None


def test_memory_below_what_is_held_is_refused_and_nothing_changes(driver: Driver) -> None:
    group = driver.create("launcher/held", {"memory": {"limit": 64 * MIB, "swap": 64 * MIB}})
    with groups.process("hold_memory") as child:
        groups.join(group, child.pid)
        groups.go(child)
        assert groups.answer(child) == "held"
        with pytest.raises(errors.LimitNotEnforceable, match=r"`--memory`.*in use") as refused:
            group.update({"pids": {"limit": 5}, "memory": {"limit": 8 * MIB, "swap": 8 * MIB}})
        assert refused.value.option == "--memory"
        assert child.poll() is None
        assert group.limits()["memory"] == 64 * MIB
        assert group.limits()["memory_swap"] == 64 * MIB
        assert group.limits()["pids_limit"] is None
    group.remove()


def test_kill_ends_a_tree_that_forks_all_the_time(driver: Driver) -> None:
    group = driver.create("launcher/bomb", {"pids": {"limit": 100}})
    with groups.process("fork_bomb") as child:
        groups.join(group, child.pid)
        groups.go(child)
        assert groups.answer(child) == "bombing"
        begin = time.monotonic()
        group.kill()
        assert time.monotonic() - begin < 9
        assert members(group) == set()
        assert child.wait(10) == -9
    group.remove()


def test_a_run_is_killed_alone(driver: Driver) -> None:
    group = driver.create("launcher/runs", {"pids": {"limit": 100}})
    first, second = group.child("run-1"), group.child("run-2")
    with groups.process("spin") as spinning, groups.process("rest") as resting:
        groups.join(first, spinning.pid)
        groups.join(second, resting.pid)
        groups.go(spinning)
        assert groups.answer(spinning) == "spun"
        used, idle = first.usage(), second.usage()
        assert used["pids"] == idle["pids"] == 2
        first.kill()
        assert spinning.wait(10) == -9
        assert resting.poll() is None
        first.remove()
        assert members(group) == {resting.pid}
        group.kill()
        assert resting.wait(10) == -9
    group.remove()
    assert used["cpu_seconds"] is not None
    assert idle["cpu_seconds"] is not None
    assert used["cpu_seconds"] > idle["cpu_seconds"] + 0.1


def test_remove_waits_for_processes_that_are_dying(driver: Driver) -> None:
    group = driver.create("launcher/dying", {})
    with groups.process("hold_memory") as child:
        groups.join(group.child("run-1"), child.pid)
        groups.go(child)
        assert groups.answer(child) == "held"
        child.kill()
        group.remove()
    assert not [path for path in group.paths().values() if os.path.exists(path)]
    group.remove()


def test_sweep_ends_groups_of_launchers_that_are_gone(driver: Driver) -> None:
    alive = driver.create("alive/1", {})
    dead = driver.create("dead/1", {"pids": {"limit": 100}})
    paths = dead.paths()
    with groups.process("rest") as resting, groups.process("fork_bomb") as bomb:
        groups.join(alive, resting.pid)
        groups.join(dead.child("run-1"), bomb.pid)
        groups.go(bomb)
        assert groups.answer(bomb) == "bombing"
        assert driver.sweep(lambda launcher: launcher == "alive").launchers == {"dead"}
        assert bomb.wait(10) == -9
        assert resting.poll() is None
    assert not [path for path in paths.values() if os.path.exists(path)]
    alive.kill()
    alive.remove()
    assert not driver.sweep(lambda launcher: False).launchers


def test_a_process_that_does_not_end_is_told_and_keeps_no_launcher_from_starting(
    driver: Driver,
) -> None:
    held, other = driver.create("held/1", {}), driver.create("other/1", {})
    with groups.process("rest") as resting, groups.process("rest") as ended:
        groups.join(held, resting.pid)
        groups.join(other, ended.pid)
        groups.hold_before_its_end(resting.pid)
        swept = driver.sweep(lambda launcher: False)
        assert swept.launchers == {"held", "other"}
        assert len(swept.left) == 1
        assert [part in swept.left[0] for part in ("held", "state D")] == [True, True]
        assert not [path for path in other.paths().values() if os.path.exists(path)]
        groups.let_go(resting.pid)
        assert resting.wait(10) == -9
        assert driver.sweep(lambda launcher: False).left == []
    assert not [path for path in held.paths().values() if os.path.exists(path)]


def test_an_unknown_resource_is_refused_and_nothing_is_left(driver: Driver) -> None:
    with pytest.raises(errors.LimitNotEnforceable, match=r"memory.reservation"):
        driver.create("launcher/unknown", {"memory": {"reservation": MIB}})
    assert not driver.sweep(lambda launcher: False).launchers


def test_a_refused_limit_leaves_no_group(driver: Driver) -> None:
    with pytest.raises(errors.LimitNotEnforceable) as refused:
        driver.create("launcher/cpus", {"cpu": {"quota": 1, "period": 100_000}})
    assert refused.value.option == "--cpus"
    with pytest.raises(errors.LimitNotEnforceable, match="--memory-swap"):
        driver.create("launcher/swap", {"memory": {"limit": 64 * MIB, "swap": 32 * MIB}})
    assert not driver.sweep(lambda launcher: False).launchers
