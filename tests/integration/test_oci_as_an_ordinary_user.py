"""The OCI command line for an ordinary user: his own user namespace, and no control group."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from awaiting import until
from oci_bundles import Bundle
from ordinary_user import OrdinaryUser


@pytest.fixture(scope="module")
def bundle(ordinary_user: OrdinaryUser) -> Iterator[Bundle]:
    """A bundle that is his, with containers that he makes."""
    folder = Path(tempfile.mkdtemp(prefix="oci-", dir="/var/tmp"))
    made = Bundle(folder)
    folder.chmod(0o755)
    made.argv = ordinary_user.command(
        ["/usr/bin/env", "PATH=/usr/bin:/bin", f"HOME={ordinary_user.home}", ordinary_user.python,
         *made.argv[1:]]
    )  # fmt: skip
    (folder / "source").mkdir()
    (folder / "source/file").write_text("of the host\n")
    owner = f"{ordinary_user.name}:{ordinary_user.name}"
    subprocess.run(["chown", "--recursive", owner, folder], check=True)
    yield made
    assert made.left() == []
    shutil.rmtree(folder)


def own_id(user: OrdinaryUser) -> list[dict[str, int]]:
    return [{"containerID": 0, "hostID": user.uid, "size": 1}]


def with_range(user: OrdinaryUser) -> list[dict[str, int]]:
    rows = [line.split(":") for line in Path("/etc/subuid").read_text().splitlines()]
    first = next(int(row[1]) for row in rows if row[0] == user.name)
    return [*own_id(user), {"containerID": 1, "hostID": first, "size": 1000}]


def mapped(config: dict[str, Any], ids: list[dict[str, int]]) -> dict[str, Any]:
    config["linux"]["namespaces"].append({"type": "user"})
    config["linux"]["uidMappings"] = config["linux"]["gidMappings"] = ids
    return config


def test_a_container_of_one_id_has_its_mounts_masks_and_devices(
    bundle: Bundle, ordinary_user: OrdinaryUser
) -> None:
    script = (
        "id -u; cat /proc/self/uid_map /bound/file; echo gone >/dev/null; ls -l /dev/null;"
        "cat /proc/interrupts; ls /sys/kernel; touch /bound/new || touch /proc/sys/x; echo $?"
    )
    config = mapped(bundle.config("sh", "-c", script), own_id(ordinary_user))
    config["mounts"].append(
        {"destination": "/bound", "type": "bind", "source": str(bundle.folder / "source"),
         "options": ["rbind", "ro"]}
    )  # fmt: skip
    id_, map_, file, device, status = bundle.output(config).splitlines()
    assert (id_, map_.split(), file, status) == (
        "0", ["0", str(ordinary_user.uid), "1"], "of the host", "1"
    )  # fmt: skip
    assert device.startswith("crw-rw-rw-")


def test_a_range_of_ids_is_mapped_by_newuidmap(bundle: Bundle, ordinary_user: OrdinaryUser) -> None:
    ids = with_range(ordinary_user)
    config = mapped(bundle.config("sh", "-c", "id -u >/tmp/own"), ids)
    config["process"]["user"] = {"uid": 7, "gid": 8}
    (bundle.rootfs / "tmp").chmod(0o1777)
    bundle.output(config)
    made = bundle.rootfs / "tmp/own"
    assert made.read_text() == "7\n"
    assert (made.stat().st_uid, made.stat().st_gid) == (ids[1]["hostID"] + 6, ids[1]["hostID"] + 7)
    made.unlink()


def test_what_spec_writes_for_him_runs(bundle: Bundle) -> None:
    written = bundle.folder / "config.json"
    written.unlink(missing_ok=True)
    bundle.ok("spec", "--rootless", "--bundle", str(bundle.folder))
    config = json.loads(written.read_text())
    written.unlink()
    config["process"] |= {"terminal": False, "args": ["sh", "-c", "id -u; hostname; : >/x"]}
    config["process"]["env"] = ["PATH=/bin"]
    done = bundle.run(config)
    assert done.stdout == "0\nsandbox\n" and "Read-only" in done.stderr


def test_a_container_lives_and_is_entered(bundle: Bundle, ordinary_user: OrdinaryUser) -> None:
    config = mapped(bundle.config("sleep", "1000"), own_id(ordinary_user))
    with bundle.created(config) as name:
        assert bundle.state(name)["status"] == "created"
        bundle.ok("start", name)
        assert bundle.state(name)["status"] == "running"
        assert bundle.ok("exec", name, "sh", "-c", "id -u; hostname") == "0\ninside\n"
        assert json.loads(bundle.ok("events", "--stats", name))["type"] == "stats"


def test_without_a_group_its_processes_are_those_of_its_pid_namespace(
    bundle: Bundle, ordinary_user: OrdinaryUser
) -> None:
    script = "sleep 1001 & unshare -p -f sleep 1002 & sleep 1003"
    config = mapped(bundle.config("sh", "-c", script), own_id(ordinary_user))
    for held in config["process"]["capabilities"].values():
        held.append("CAP_SYS_ADMIN")  # for the namespace below its own
    with bundle.created(config) as name:
        bundle.ok("start", name)
        assert bundle.state(name)["pid"] in json.loads(bundle.ok("ps", "--format", "json", name))
        with (bundle.folder / "said").open("w") as said:
            bundle.quiet(said, "exec", "--detach", name, "sleep", "1004")

        def seconds() -> set[str]:
            rows = bundle.ok("ps", name).splitlines()
            return {row.split()[-1] for row in rows if row.split()[-2] == "sleep"}

        until(lambda: seconds() == {"1001", "1002", "1003", "1004"})
        refused = bundle.call("pause", name)
        assert refused.returncode == 1 and "no control group" in refused.stderr
        bundle.ok("kill", "--all", name, "KILL")
        until(lambda: bundle.state(name)["status"] == "stopped")
        assert bundle.ok("ps", "--format", "json", name) == "[]\n"


def test_where_nobody_can_say_whose_a_process_is_that_is_said(
    bundle: Bundle, ordinary_user: OrdinaryUser
) -> None:
    config = mapped(bundle.config("sleep", "1000"), own_id(ordinary_user))
    config["linux"]["namespaces"].remove({"type": "pid"})
    config["mounts"][0] = {"destination": "/proc", "source": "/proc", "options": ["rbind"]}
    with bundle.created(config) as name:
        bundle.ok("start", name)
        for words in (("ps", name), ("kill", "--all", name, "KILL")):
            refused = bundle.call(*words)
            assert refused.returncode == 1 and "no control group" in refused.stderr
