"""cgroup v1: a group serves one container after another, as new for each, and only where it is."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cgroup_processes as groups
import pytest

import sandbox_kernel
from sandbox_kernel.runtime import cgroups
from sandbox_kernel.runtime.cgroups import mounted, v1, v1_again, v1_usage
from sandbox_kernel.runtime.cgroups.contract import Driver, Group

MIB = 1 << 20
LIMITS = {"memory": {"limit": 64 * MIB}, "pids": {"limit": 8}}
pytestmark = pytest.mark.skipif(not mounted.read().v1, reason="no cgroup v1 on this machine")


@pytest.fixture
def driver() -> Iterator[Driver]:
    parent = f"sandbox-kernel/test-{os.getpid()}"
    driver = cgroups.choose(parent)
    yield driver
    driver.drop_kept()
    left = driver.sweep(lambda launcher: False).launchers
    for mount in mounted.read().v1.values():
        top = Path(mount.directory, parent)
        if top.is_dir():
            top.rmdir()
    assert not left


def used(driver: Driver, what: str = "rest") -> Group:
    """A group in which one process was that did what it is told, and ended."""
    group = driver.create_again("launcher/one", LIMITS)
    with groups.process(what) as child:
        groups.join(group, child.pid)
        if what != "rest":
            groups.go(child)
            assert groups.answer(child)
    return group


def inodes(group: Group) -> dict[str, int]:
    return {name: os.stat(path).st_ino for name, path in group.paths().items()}


def next_of(driver: Driver, resources: dict[str, Any] = LIMITS, seconds: float = 5) -> Group:
    """The next group, when the processes of the last one have left theirs."""
    end = time.monotonic() + seconds
    while isinstance(driver, v1.Driver) and time.monotonic() < end:
        if all(group.is_new() is not None for group in driver._kept):
            break
        time.sleep(0.01)
    return driver.create_again("launcher/two", resources)


def test_the_next_container_has_the_same_directories_by_its_own_name(driver: Driver) -> None:
    one = used(driver, "compute")
    before, places = inodes(one), [Path(path) for path in one.paths().values()]
    assert (one.usage()["cpu_seconds"] or 0) > 0.5
    assert driver.keep(one)
    assert not any(place.exists() for place in places)

    two = next_of(driver)
    assert inodes(two) == before
    assert {Path(path).name for path in two.paths().values()} == {"launcher.two"}
    usage = two.usage()
    assert usage["cpu_seconds"] == 0
    assert usage["pids"] == usage["oom_kills"] == 0
    assert (usage["memory_peak_bytes"] or 0) <= v1_again.MOST_LEFT
    assert two.limits()["memory"] == two.first_limits()["memory"] == 64 * MIB
    assert two.limits()["pids_limit"] == 8
    with groups.process("rest") as child:
        groups.join(two, child.pid)
        assert two.usage()["pids"] == 1
        assert two.usage() == v1_usage.of(two.paths(), held_back=False)
    two.remove()


def test_limits_are_enforced_in_it_as_in_a_new_one(driver: Driver) -> None:
    assert driver.keep(used(driver))
    two = next_of(driver)
    noticed = two.oom_fd()
    with groups.process("eat_memory") as child:
        groups.join(two, child.pid)
        groups.go(child)
        assert child.wait(20) == -9
    assert two.oom_kills() == 1
    assert noticed is not None
    assert os.read(noticed, 8)
    two.remove()


def test_other_limits_are_those_of_another_group(driver: Driver) -> None:
    one = used(driver)
    before = inodes(one)
    assert driver.keep(one)

    two = next_of(driver, {**LIMITS, "pids": {"limit": 9}})
    assert not {*inodes(two).values()} & {*before.values()}
    assert two.limits()["pids_limit"] == 9
    two.remove()
    three = next_of(driver)
    assert inodes(three) == before
    three.remove()


def more_processes(group: Group) -> None:
    with groups.process("fork_children") as child:
        groups.join(group, child.pid)
        groups.go(child)
        assert groups.answer(child) == "7"
        group_kill(group)


def group_kill(group: Group) -> None:
    v1.kill(group.paths())  # not by the group itself, which would remember


def three_at_once(group: Group) -> None:
    with groups.process("rest") as a, groups.process("rest") as b, groups.process("rest") as c:
        for child in (a, b, c):
            groups.join(group, child.pid)


def out_of_memory(group: Group) -> None:
    with groups.process("eat_memory") as child:
        groups.join(group, child.pid)
        groups.go(child)
        child.wait(20)


def a_limit_changed(group: Group) -> None:
    group.update({"pids": {"limit": 7}})


def a_group_below(group: Group) -> None:
    group.child("run-1").remove()


def killed(group: Group) -> None:
    group.kill()


@pytest.mark.parametrize(
    "happened",
    [more_processes, three_at_once, out_of_memory, a_limit_changed, a_group_below, killed],
)
def test_a_group_that_is_not_as_new_is_removed(
    happened: Callable[[Group], None], driver: Driver
) -> None:
    one = driver.create_again("launcher/one", LIMITS)
    one.oom_fd()
    happened(one)
    before = inodes(one)
    if not driver.keep(one):
        one.remove()

    two = next_of(driver)
    assert not {*inodes(two).values()} & {*before.values()}
    two.remove()
    driver.drop_kept()
    assert not [path for path in tops(driver) if list(Path(path).glob("launcher.*"))]


def tops(driver: Driver) -> list[str]:
    assert isinstance(driver, v1.Driver)
    return [driver.top(name) for name in ("memory", "pids", "freezer", "cpuacct")]


def test_memory_that_is_still_counted_is_of_no_other_container(
    driver: Driver, tmp_path_factory: pytest.TempPathFactory
) -> None:
    one = driver.create_again("launcher/one", LIMITS)
    before = inodes(one)
    place = Path("/dev/shm", f"groups-{os.getpid()}")
    try:
        entrances = one.entrances()
        pid = os.fork()
        if pid == 0:
            for entrance in entrances:
                os.write(entrance, b"0")
            place.write_bytes(b"x" * (4 * MIB))
            os._exit(0)
        for entrance in entrances:
            os.close(entrance)
        assert os.waitpid(pid, 0)[1] == 0
        assert driver.keep(one)
        two = next_of(driver)
        assert not {*inodes(two).values()} & {*before.values()}
        assert (two.usage()["memory_bytes"] or 0) < MIB
        two.remove()
    finally:
        place.unlink(missing_ok=True)


def test_a_limit_that_somebody_else_has_changed_is_seen(driver: Driver) -> None:
    one = used(driver)
    before = inodes(one)
    assert driver.keep(one)
    assert isinstance(driver, v1.Driver)
    Path(driver.top("memory"), "launcher.spare-1", "memory.limit_in_bytes").write_text("1m")

    two = next_of(driver)
    assert two.limits()["memory"] == 64 * MIB
    assert not {*inodes(two).values()} & {*before.values()}
    two.remove()


def test_who_is_in_it_yet_is_not_in_the_next_container(driver: Driver) -> None:
    one = driver.create_again("launcher/one", LIMITS)
    before = inodes(one)
    with groups.process("rest") as child:
        groups.join(one, child.pid)
        assert driver.keep(one)
        two = driver.create_again("launcher/two", LIMITS)
        assert not {*inodes(two).values()} & {*before.values()}
        assert child.poll() is None
        two.remove()
    three = next_of(driver)
    assert inodes(three) == before
    three.remove()


def test_only_so_many_are_kept_and_none_when_they_are_dropped(driver: Driver) -> None:
    made = [driver.create_again(f"launcher/{n}", LIMITS) for n in range(v1.MOST_KEPT + 1)]
    assert [driver.keep(group) for group in made] == [True] * v1.MOST_KEPT + [False]
    made[-1].remove()
    opened = len(os.listdir("/proc/self/fd"))
    driver.drop_kept()
    assert len(os.listdir("/proc/self/fd")) < opened
    assert not [path for path in tops(driver) if list(Path(path).glob("launcher.*"))]


def test_a_name_that_is_taken_leaves_the_group_as_it_was(driver: Driver) -> None:
    one = driver.create_again("launcher/one", LIMITS)
    paths = one.paths()
    taken = Path(paths["pids"]).with_name("launcher.spare-1")
    taken.mkdir()
    try:
        assert not driver.keep(one)
        assert one.paths() == paths
        assert all(Path(path).is_dir() for path in paths.values())
        assert taken.is_dir()
    finally:
        taken.rmdir()
    one.remove()
    assert not [path for path in tops(driver) if list(Path(path).glob("launcher.*"))]


def test_fresh_containers_use_groups_again_and_are_told_their_own_use() -> None:
    def busy(seconds: float) -> str:
        import time

        end = time.process_time() + seconds
        while time.process_time() < end:
            pass
        with open("/proc/self/cgroup") as groups:
            return groups.read()

    results = sandbox_kernel.map(busy, [0.3, 0, 0, 0.3, 0, 0] * 4, workers=1, memory="64m")
    spent = [result.usage["cpu_seconds"] for result in results.check()]
    assert all(0.25 < used < 0.5 for used in spent[::3])
    assert all(used < 0.2 for used in spent[1::3] + spent[2::3])
    assert len({result.container_id for result in results}) == len(results)
