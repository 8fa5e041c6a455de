"""What is asked for becomes a plan, inside the ceilings; what widens is refused by name."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import pytest

from sandbox_kernel import policy, settings
from sandbox_kernel.errors import InvalidOption, NotAllowed
from sandbox_kernel.settings import Ceiling, Settings

MIB = 1 << 20
BOUND = [settings.MAGIC, settings.NOTEBOOK, settings.KERNELSPEC, "sandbox.toml"]


@pytest.fixture
def nothing_set(tmp_path: Path) -> Settings:
    """No file says anything; the working folder is empty."""
    return Settings(str(tmp_path), user_file="/u/config.toml")


def with_ceiling(within: Settings, **values: object) -> Settings:
    return within._replace(
        ceilings={
            name: Ceiling(value, f"/u/config.toml:3: {name}") for name, value in values.items()
        }
    )


def test_an_empty_request_is_a_plan_of_the_built_in_defaults(nothing_set: Settings) -> None:
    plan = policy.plan(within=nothing_set)

    assert plan.image == "host"
    assert plan.memory_swap == plan.memory
    assert plan.pids_limit == 512
    assert plan.memory is not None and plan.storage_size is not None
    assert abs(plan.storage_size - plan.memory * 0.6) < 4096
    assert plan.network == "none"
    assert plan.timeout is None
    assert plan.asked == frozenset()
    assert set(plan.sources.values()) == {settings.BUILT_IN}


def test_a_value_has_its_source_and_is_asked_for(nothing_set: Settings) -> None:
    plan = policy.plan(settings.NOTEBOOK, within=nothing_set, memory="256m", hostname="x")

    assert plan.memory == 256 * MIB
    assert plan.sources["memory"] == settings.NOTEBOOK
    assert plan.asked == {"memory"}


def test_the_plan_is_frozen_copied_and_the_same_each_time(nothing_set: Settings) -> None:
    plan = policy.plan(within=nothing_set, memory="64m", env={"A": "1"})

    assert copy.deepcopy(plan) == plan == policy.plan(within=nothing_set, memory="64m", env=["A=1"])
    assert hash(plan) == hash(copy.deepcopy(plan))
    with pytest.raises(AttributeError):
        plan.memory = 1  # type: ignore[misc]


def test_a_later_source_wins_and_lists_add_up(nothing_set: Settings) -> None:
    within = nothing_set.plus("config file c", {"memory": "1g", "env": ["A=1", "B=1"]})
    within = within.plus(settings.NOTEBOOK, {"env": {"B": "2"}})

    plan = policy.plan(within=within, memory="64m", env=["C=3"])

    assert plan.memory == 64 * MIB
    assert plan.env == (("A", "1"), ("B", "2"), ("C", "3"))
    assert plan.sources["env"] == "config file c, notebook, magic"


@pytest.mark.parametrize("source", BOUND)
@pytest.mark.parametrize(
    ("option", "most", "less", "more"),
    [
        ("memory", 100 * MIB, "50m", "101m"),
        ("cpus", 0.5, "0.4", "0.6"),
        ("pids_limit", 64, "64", "65"),
        ("storage_size", 10 * MIB, "10m", "11m"),
        ("timeout", 30.0, "30s", "31s"),
        ("timeout", 30.0, "1s", "none"),
    ],
)
def test_a_ceiling_binds_everybody_but_the_user(
    nothing_set: Settings, source: str, option: str, most: object, less: str, more: str
) -> None:
    within = with_ceiling(nothing_set, **{option: most})

    assert getattr(policy.plan(source, within=within, **{option: less}), option) is not None
    with pytest.raises(NotAllowed) as caught:
        policy.plan(source, within=within, **{option: more})
    assert f"/u/config.toml:3: {option}" in str(caught.value)
    assert "\n" not in str(caught.value)
    wide = policy.plan(settings.COMMAND_LINE, within=within, **{option: more})
    assert wide.sources[option] == settings.COMMAND_LINE


def test_a_ceiling_is_the_value_where_nobody_asks(nothing_set: Settings) -> None:
    within = with_ceiling(nothing_set, memory=64 * MIB, cpus=0.5, timeout=9.0, pids_limit=5,
        storage_size=2 * MIB)  # fmt: skip

    plan = policy.plan(within=within)

    assert (plan.memory, plan.memory_swap, plan.cpus) == (64 * MIB, 64 * MIB, 0.5)
    assert (plan.timeout, plan.pids_limit, plan.storage_size) == (9.0, 5, 2 * MIB)
    assert "memory" in plan.asked, "the user asked for it: it must hold"


def test_swap_is_no_way_around_the_ceiling_of_memory(nothing_set: Settings) -> None:
    within = with_ceiling(nothing_set, memory=64 * MIB)

    with pytest.raises(NotAllowed):
        policy.plan(within=within, memory="64m", memory_swap="1g")


@pytest.mark.parametrize("source", BOUND)
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("network", "host"),
        ("cap_add", "NET_ADMIN"),
        ("cap_add", "ALL"),
        ("security_opt", "seccomp=unconfined"),
        ("mount", "/etc:/e:ro"),
        ("image", "dir:/"),
    ],
)
def test_nobody_but_the_user_widens(
    nothing_set: Settings, source: str, option: str, value: str
) -> None:
    with pytest.raises(NotAllowed) as caught:
        policy.plan(source, within=nothing_set, **{option: value})

    assert "[ceiling] in `/u/config.toml`" in str(caught.value)
    assert policy.plan(settings.COMMAND_LINE, within=nothing_set, **{option: value})


@pytest.mark.parametrize("source", BOUND)
def test_anybody_may_ask_for_strict_and_only_the_user_takes_it_back(
    nothing_set: Settings, source: str
) -> None:
    assert policy.plan(source, within=nothing_set, strict=True).strict
    assert not policy.plan(source, within=nothing_set, strict=False).strict
    own = settings.Layer("config file /u/config.toml:2", False, {"strict": True})
    within = nothing_set._replace(layers=(own,))
    assert policy.plan(source, within=within).strict
    with pytest.raises(NotAllowed, match=r"--strict.*config\.toml:2"):
        policy.plan(source, within=within, strict=False)
    assert not policy.plan(settings.COMMAND_LINE, within=within, strict=False).strict


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("security_opt", "seccomp=unconfined"),
        ("cap_add", "SYS_ADMIN"),
        ("cap_add", "SYS_PTRACE"),
        ("cap_add", "ALL"),
        ("runtime", "runc"),
    ],
)
def test_what_would_take_the_walls_of_strict_down_is_refused_with_it(
    nothing_set: Settings, option: str, value: str
) -> None:
    with pytest.raises(InvalidOption, match="--strict"):
        policy.plan(settings.COMMAND_LINE, within=nothing_set, strict=True, **{option: value})


@pytest.mark.parametrize("source", BOUND)
@pytest.mark.parametrize(
    "image",
    [
        "ghcr.io/o/n:1", "localhost:5000/x", "127.0.0.1/x", "169.254.169.254/latest", "[::1]:80/x",
        "Registry/x", "evil.example/docker.io/library/python", "index.docker.io:443/x",
        "oci:/etc", "oci-archive:/etc/passwd", "docker-archive:/etc/passwd:x", "build:/etc",
        "build:/#F", "requirements:/etc/passwd", "pyproject:/etc", "oci:../../../../../etc",
        "packages: a on ghcr.io/o/n:1",
    ],
)  # fmt: skip
def test_83_another_registry_or_folder_needs_the_users_word(
    nothing_set: Settings, source: str, image: str
) -> None:
    with pytest.raises(NotAllowed) as caught:
        policy.plan(source, within=nothing_set, image=image)

    assert "[ceiling] in `/u/config.toml`" in str(caught.value)
    assert policy.plan(settings.COMMAND_LINE, within=nothing_set, image=image)


@pytest.mark.parametrize(
    "image",
    ["python:3.12", "docker.io/user/app", "index.docker.io/x", "host", "scratch",
     "packages: numpy==2.1, pandas", "sha256:" + "a" * 64, "app@sha256:" + "a" * 64],
)  # fmt: skip
def test_anybody_may_name_images_of_the_default_registry(nothing_set: Settings, image: str) -> None:
    assert policy.plan(within=nothing_set, image=image).image == image


def test_a_ceiling_of_images_is_a_list_of_patterns(nothing_set: Settings) -> None:
    within = with_ceiling(nothing_set, image=("docker.io/library/*", "ghcr.io/team/*", "app:1"))

    for allowed in ("python", "python:3.12", "ghcr.io/team/x:1", "app:1"):
        assert policy.plan(within=within, image=allowed)
    for refused in ("user/app", "ghcr.io/team2/x", "ghcr.io/x", "oci:/usr", "host", "app/b:1"):
        with pytest.raises(NotAllowed):
            policy.plan(within=within, image=refused)


def test_the_users_ceiling_can_open_a_door(nothing_set: Settings) -> None:
    within = with_ceiling(nothing_set, network=("none", "host"), cap_add=("CAP_NET_RAW",),
        mount_roots=("/etc",), image=("dir:/usr*",))  # fmt: skip

    plan = policy.plan(within=within, network="host", cap_add="net_raw", mount="/etc/ssl:/ssl",
        image="dir:/usr/lib")  # fmt: skip

    assert plan.network == "host"
    assert plan.cap_add == ("CAP_NET_RAW",)
    with pytest.raises(NotAllowed):
        policy.plan(within=within, cap_add="sys_admin")
    with pytest.raises(NotAllowed):
        policy.plan(within=within, image="host")


def test_a_capability_that_is_dropped_is_not_there(nothing_set: Settings) -> None:
    plan = policy.plan(settings.COMMAND_LINE, within=nothing_set, cap_add=["NET_RAW", "CHOWN"],
        cap_drop="NET_RAW")  # fmt: skip

    assert plan.cap_add == ("CAP_CHOWN",)


def test_a_mount_is_resolved_before_it_is_judged(nothing_set: Settings, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "out").symlink_to("/etc")
    (tmp_path / "in").symlink_to("data")

    plan = policy.plan(within=nothing_set, mount=["./data:/a", "./in:/b:ro"])

    assert [mount.source for mount in plan.mount] == [str(tmp_path / "data")] * 2
    for bad in ("./out:/c", "./data/../../..:/c", f"{tmp_path}/out/ssl:/c", "../:/c", "/:/c"):
        with pytest.raises(NotAllowed):
            policy.plan(within=nothing_set, mount=bad)


@pytest.mark.parametrize("bad", ["./absent:/a", "data:/a", "~/x:/a", "$(id)/x:/a", "/dev/null:/a"])
def test_a_mount_must_have_something_to_mount(
    nothing_set: Settings, tmp_path: Path, bad: str
) -> None:
    (tmp_path / "data").mkdir()

    with pytest.raises(InvalidOption):
        policy.plan(settings.COMMAND_LINE, within=nothing_set, mount=bad)


def test_a_mount_that_cannot_be_read_is_refused(tmp_path: Path, nothing_set: Settings) -> None:
    with pytest.raises((InvalidOption, NotAllowed)):
        policy.plan(within=nothing_set, mount="./loop:/a")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InvalidOption, match="is there"):
        policy.plan(within=nothing_set, mount="./loop:/a")


@pytest.mark.parametrize("folder", ["/", os.path.expanduser("~"), "/usr/.."])
def test_the_whole_home_or_machine_is_no_project_folder(folder: str) -> None:
    with pytest.raises(NotAllowed):
        policy.plan(within=Settings(folder), mount=f"{os.path.expanduser('~')}:/a")


def test_a_secret_outside_is_given_by_the_user_only(
    nothing_set: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY", "secret")

    with pytest.raises(InvalidOption, match="--env"):
        policy.plan(within=nothing_set, env="CANARY")
    plan = policy.plan(settings.COMMAND_LINE, within=nothing_set, env=["CANARY", "NOT_THERE"])
    assert plan.env == (("CANARY", "secret"),)


def test_more_processors_than_there_are_is_an_error(nothing_set: Settings) -> None:
    with pytest.raises(InvalidOption, match="no more"):
        policy.plan(within=nothing_set, cpus=8000)
    with pytest.raises(InvalidOption, match="within"):
        policy.plan(within=nothing_set, cpuset_cpus="8000")


def test_swap_below_memory_is_an_error(nothing_set: Settings) -> None:
    with pytest.raises(InvalidOption, match="counted together"):
        policy.plan(within=nothing_set, memory="64m", memory_swap="32m")


def test_a_device_for_a_rate_must_be_a_block_device(nothing_set: Settings) -> None:
    for bad in ("/dev/null:1m", "/dev/absent:1m"):
        with pytest.raises(InvalidOption):
            policy.plan(within=nothing_set, device_read_bps=bad)


def test_a_live_limit_changes_inside_the_ceilings(nothing_set: Settings) -> None:
    within = with_ceiling(nothing_set, memory=128 * MIB)
    start = policy.plan(within=within, memory="64m", cpus=0.5)

    wished, only = policy.change(start, settings.MAGIC, within=within, memory="100m")

    assert (wished.memory, wished.memory_swap, wished.cpus) == (100 * MIB, 100 * MIB, 0.5)
    assert (only.memory, only.memory_swap, only.cpus) == (100 * MIB, 100 * MIB, None)
    with pytest.raises(NotAllowed):
        policy.change(start, settings.MAGIC, within=within, memory="129m")
    with pytest.raises(InvalidOption, match="in a live container"):
        policy.change(start, within=within, hostname="x")
    with pytest.raises(InvalidOption, match="counted together"):
        policy.change(start, within=within, memory_swap="32m")
    swapping, _ = policy.change(start, within=within, memory_swap="80m")
    grown, _ = policy.change(swapping, within=within, memory="90m")
    assert (grown.memory, grown.memory_swap) == (90 * MIB, 106 * MIB)


def test_the_plan_prints_each_value_with_source_and_state(nothing_set: Settings) -> None:
    plan = policy.plan(within=nothing_set, memory="64m", cpus=0.5)

    rows = {row.option: row for row in plan.describe({"memory": 64 * MIB, "cpus": None})}

    assert rows["memory"] == ("memory", "64 MiB", "magic", "yes")
    assert rows["cpus"].in_force == "no"
    assert rows["timeout"].value == "-"
    assert set(rows) == set(settings.OPTIONS) - settings.OF_A_KERNEL


def test_a_folder_beside_the_caller_is_an_image_by_its_bare_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "debian").mkdir()
    monkeypatch.chdir(tmp_path)
    for named in ("dir:debian", "dir:./debian"):
        assert policy.plan(settings.COMMAND_LINE, image=named).image == f"dir:{tmp_path}/debian"
    with pytest.raises(InvalidOption, match="named volumes"):
        policy.plan(settings.COMMAND_LINE, mount=["type=bind,source=debian,target=/x"])
