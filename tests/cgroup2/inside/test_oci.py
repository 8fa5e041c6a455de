"""The OCI command line on cgroup v2: limits, files of a controller by name, the freezer, use."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import oci_bundles
import pytest
from oci_bundles import Bundle

GROUP = "/sandbox-kernel-oci/one"
FOLDER = Path("/sys/fs/cgroup/sandbox-kernel-oci/one")
MIB = 1 << 20
# Counts as long as it runs.
COUNTING = "n=0; while :; do n=$((n + 1)); echo $n >/tmp/n; done"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundle]:
    with oci_bundles.made(tmp_path_factory.mktemp("bundle")) as made:
        yield made
    assert not FOLDER.parent.exists()


def read(name: str) -> str:
    return (FOLDER / name).read_text().strip()


def test_limits_are_in_force_and_change(bundle: Bundle) -> None:
    config = bundle.config("sleep", "1000")
    config["linux"]["cgroupsPath"] = GROUP
    config["linux"]["resources"] = {
        "memory": {"limit": 64 * MIB, "reservation": 32 * MIB},
        "cpu": {"shares": 1024, "quota": 20000, "period": 100000},
        "pids": {"limit": 9},
    }
    with bundle.created(config) as name:
        assert (read("memory.max"), read("memory.low")) == (str(64 * MIB), str(32 * MIB))
        assert (read("cpu.max"), read("cpu.weight")) == ("20000 100000", "39")
        assert read("pids.max") == "9"
        assert str(bundle.state(name)["pid"]) in read("cgroup.procs").split()
        bundle.ok("update", "--pids-limit", "12", "--memory", str(128 * MIB), name)
        assert (read("pids.max"), read("memory.max")) == ("12", str(128 * MIB))
        changes = {"cpu": {"quota": 50000}, "unified": {"pids.max": "14"}}
        bundle.ok("update", "--resources", "-", name, given=json.dumps(changes))
        assert (read("pids.max"), read("cpu.max")) == ("14", "50000 100000")
    assert not FOLDER.exists()


def test_files_of_a_controller_are_written_by_name(bundle: Bundle) -> None:
    config = bundle.config("sleep", "1000")
    config["linux"]["cgroupsPath"] = GROUP
    config["linux"]["resources"] = {
        "unified": {"memory.high": str(48 * MIB), "pids.max": "7", "cpu.weight": "77"}
    }
    with bundle.created(config):
        assert read("memory.high") == str(48 * MIB)
        assert (read("pids.max"), read("cpu.weight")) == ("7", "77")
    for wrong in ({"cgroup.procs": "1"}, {"../cgroup.procs": "1"}, {"memory.nothing": "1"}):
        config["linux"]["resources"] = {"unified": wrong}
        done = bundle.run(config)
        assert done.returncode == 1 and next(iter(wrong)) in done.stderr
    assert not FOLDER.exists()


@pytest.mark.parametrize(
    ("part", "limit"),
    [
        ("memory", {"swappiness": 10}),
        ("memory", {"disableOOMKiller": True}),
        ("cpu", {"realtimeRuntime": 1000}),
        ("network", {"classID": 1}),
        ("rdma", {"mlx5_1": {"hcaHandles": 3}}),
        ("blockIO", {"weightDevice": [{"major": 0, "minor": 1, "weight": 200}]}),
    ],
)
def test_what_v2_has_no_word_for_is_refused_by_name(
    bundle: Bundle, part: str, limit: dict[str, object]
) -> None:
    config = bundle.config("true")
    config["linux"]["cgroupsPath"] = GROUP
    config["linux"]["resources"] = {part: limit}
    done = bundle.run(config)
    named = {"rdma": "rdma.max", "blockIO": "weight"}.get(part, next(iter(limit)))
    assert done.returncode == 1 and named in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_paused_container_does_nothing_until_it_goes_on(bundle: Bundle) -> None:
    config = bundle.config("sh", "-c", COUNTING)
    config["linux"]["cgroupsPath"] = GROUP
    counter = bundle.rootfs / "tmp/n"
    with bundle.created(config) as name:
        bundle.ok("start", name)
        bundle.ok("pause", name)
        assert bundle.state(name)["status"] == "paused"
        assert read("cgroup.freeze") == "1" and "frozen 1" in read("cgroup.events")
        assert bundle.call("exec", name, "true").returncode == 1
        assert bundle.call("pause", name).returncode == 1
        before = counter.read_text()
        told = json.loads(bundle.ok("events", "--stats", name))
        assert counter.read_text() == before
        assert told["data"]["pids"]["current"] == 1
        bundle.ok("resume", name)
        assert bundle.state(name)["status"] == "running"
        assert read("cgroup.freeze") == "0"
        bundle.ok("pause", name)
        bundle.ok("kill", name, "KILL")  # which lets it go on, so that it can end
    counter.unlink()


def test_use_is_told(bundle: Bundle) -> None:
    config = bundle.config("sh", "-c", COUNTING)
    config["linux"]["cgroupsPath"] = GROUP
    config["linux"]["resources"] = {"memory": {"limit": 64 * MIB}, "pids": {"limit": 9}}
    with bundle.created(config) as name:
        bundle.ok("start", name)
        data = json.loads(bundle.ok("events", "--stats", name))["data"]
        assert data["cpu"]["usage"]["total"] > 0
        assert 0 < data["memory"]["usage"]["usage"] <= data["memory"]["usage"]["limit"] == 64 * MIB
        assert (data["pids"]["current"], data["pids"]["limit"]) == (1, 9)
    (bundle.rootfs / "tmp/n").unlink()
