"""What the cgroup drivers read: mounts, OCI resources, lists of CPUs; and what they refuse."""

from __future__ import annotations

import builtins
import io
import os

import pytest

from sandbox_kernel import errors
from sandbox_kernel.runtime.cgroups import absent, contract, delegation, mounted, v1, v2_limits

HYBRID = """\
24 1 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw
25 24 0:23 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
26 24 0:24 / /sys/fs/cgroup/my\\040memory ro,relatime - cgroup cgroup rw,memory
27 24 0:25 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
28 24 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
"""
UNIFIED = "30 1 0:27 /docker/abc /sys/fs/cgroup ro,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"


def show(monkeypatch: pytest.MonkeyPatch, **texts: str) -> None:
    """Let files of /proc/self have these texts."""
    real = builtins.open

    def opened(path: object, *arguments: object, **more: object) -> object:
        name = str(path).removeprefix("/proc/self/")
        return io.StringIO(texts[name]) if name in texts else real(path, *arguments, **more)  # type: ignore[call-overload]

    monkeypatch.setattr(builtins, "open", opened)


def test_controllers_are_found_where_they_are_mounted(monkeypatch: pytest.MonkeyPatch) -> None:
    show(monkeypatch, mountinfo=HYBRID)
    mounts = mounted.read()
    assert set(mounts.v1) == {"cpu", "cpuacct", "memory"}
    assert mounts.v1["cpu"] == mounts.v1["cpuacct"]
    assert mounts.v1["memory"].directory == "/sys/fs/cgroup/my memory"
    assert mounts.v1["memory"].read_only
    assert mounts.v2 is None, "the v2 mount of a hybrid layout has no controllers"


def test_the_own_group_is_seen_through_a_mount_of_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    show(monkeypatch, mountinfo=UNIFIED, cgroup="0::/docker/abc/x\n")
    mount = mounted.read().v2
    assert mount is not None
    assert mount.read_only
    assert mounted.own_v2(mount) == "/sys/fs/cgroup/x"
    show(monkeypatch, mountinfo=UNIFIED, cgroup="0::/elsewhere\n")
    assert mounted.own_v2(mount) is None


@pytest.mark.fault(19)
def test_no_cgroups_at_all_is_a_driver_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from sandbox_kernel.runtime import cgroups

    show(monkeypatch, mountinfo="24 1 0:22 / / rw - ext4 /dev/vda rw\n")
    driver = cgroups.choose()
    assert driver.name == "none"
    assert "no cgroup file system is mounted: mount it" in driver.support()["memory"]
    with pytest.raises(errors.LimitNotEnforceable, match=r"`--memory`.*mount it") as refused:
        driver.create("launcher/c", {"memory": {"limit": 1 << 26}})
    assert refused.value.host == "no cgroup file system is mounted"
    assert refused.value.remedy.startswith("mount it")


def test_without_cgroups_nothing_is_limited_or_counted() -> None:
    group = absent.Driver("nothing: here").create("launcher/c", {})
    assert group.child("run-1").entrances() == []
    assert set(group.usage()) == set(contract.USAGE)
    assert set(group.usage().values()) == {None}
    with pytest.raises(errors.LimitNotEnforceable, match="--pids-limit"):
        group.update({"pids": {"limit": 5}})


@pytest.mark.fault(19)
def test_a_read_only_hierarchy_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, *_: object, **__: object) -> None:
        raise OSError(30, os.strerror(30), path)

    monkeypatch.setattr(os, "makedirs", refuse)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    mounts = mounted.Mounts({"memory": mounted.Mount("/nowhere", "/", True)}, None)
    assert v1.probe(mounts, None) is None
    assert "Read-only file system" in v1.reasons(mounts, None)


def test_resources_become_limits() -> None:
    limits = contract.wanted(
        {
            "memory": {"limit": 1, "swap": 2},
            "cpu": {"quota": 50_000, "shares": 3, "cpus": "0"},
            "pids": {"limit": 4},
            "devices": [{"allow": False, "access": "rwm"}],
            "blockIO": {"throttleReadBpsDevice": [], "throttleWriteBpsDevice": None},
        }
    )
    assert limits == {
        "memory": 1,
        "memory_swap": 2,
        "cpus": (50_000, 100_000),
        "cpu_shares": 3,
        "cpuset_cpus": "0",
        "pids_limit": 4,
        "device_read_bps": [],
    }


@pytest.mark.parametrize(
    "resources",
    [
        {"memory": {"kernel": 5}},
        {"cpu": {"realtimeRuntime": 5}},
        {"hugepageLimits": [{"pageSize": "2MB", "limit": 5}]},
        {"unified": {"memory.high": "5"}},
        {"network": {"classID": 5}},
    ],
)
def test_a_resource_that_no_driver_sets_is_refused(resources: dict[str, object]) -> None:
    with pytest.raises(errors.LimitNotEnforceable, match="no cgroup driver"):
        contract.wanted(resources)


def test_a_size_may_only_be_rounded_down_to_a_page() -> None:
    assert contract.same_size(8192, 8192)
    assert contract.same_size(8193, 8192)
    assert not contract.same_size(8192, 8193)
    assert not contract.same_size(8192, 4096)
    assert not contract.same_size(8192, None)


def test_lists_of_cpus() -> None:
    assert contract.cpu_set("0-2,5") == {0, 1, 2, 5}
    assert contract.cpu_set("") == set()


def test_only_groups_of_containers_have_a_launcher() -> None:
    assert contract.launcher_of("/x/" + contract.directory_name("abc/def")) == "abc"
    assert contract.launcher_of("/x/user-1000") is None
    assert contract.launcher_of("/x.y/launcher") is None


@pytest.mark.parametrize(("shares", "weight"), [(2, 1), (1024, 100), (262144, 10000)])
def test_shares_and_weights_meet_at_their_ends_and_defaults(shares: int, weight: int) -> None:
    assert v2_limits.weight_of(shares) == weight
    assert v2_limits.weight_of(v2_limits.shares_of(weight)) == weight


def test_every_weight_has_shares() -> None:
    for weight in range(1, 10001, 37):
        assert v2_limits.weight_of(v2_limits.shares_of(weight)) >= weight


def test_handing_over_names_only_our_directories() -> None:
    mount = mounted.Mount("/sys/fs/cgroup/with space", "/", False)
    on_v1 = delegation.commands("root", mounted.Mounts({"cpuset": mount, "memory": mount}, None))
    on_v2 = delegation.commands("root", mounted.Mounts({}, mount), systemd=False)
    by_systemd = delegation.commands("root", mounted.Mounts({}, mount), systemd=True)
    assert "'/sys/fs/cgroup/with space/sandbox-kernel/user-0'" in on_v1[0]
    assert all("limit" not in line for line in on_v1 + on_v2)
    assert "cgroup.subtree_control" in on_v2[-2]
    assert any("Delegate=cpu cpuset io memory pids" in line for line in by_systemd)
    assert delegation.commands("root", mounted.Mounts({}, None)) == []
    with pytest.raises(KeyError):
        delegation.commands("nobody-of-that-name")
