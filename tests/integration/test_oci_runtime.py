"""The OCI command line: what runtime-spec 1.2 says, each by one change of a valid configuration."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from awaiting import until
from oci_bundles import Bundle


def test_the_life_of_a_container(bundle: Bundle, tmp_path: Path) -> None:
    config = bundle.config("sleep", "1000")
    config["annotations"] = {"org.example.key": "value"}
    with bundle.created(config, "--pid-file", str(tmp_path / "pid")) as name:
        found = bundle.state(name)
        assert (found["status"], found["id"]) == ("created", name)
        assert found["bundle"] == str(bundle.folder)
        assert found["annotations"] == {"org.example.key": "value"}
        assert int((tmp_path / "pid").read_text()) == found["pid"]
        assert bundle.call("create", "--bundle", str(bundle.folder), name).returncode == 1
        bundle.ok("start", name)
        assert bundle.state(name)["status"] == "running"
        assert bundle.call("start", name).returncode == 1
        assert bundle.call("delete", name).returncode == 1
        assert name in bundle.ok("list", "--quiet").split()
        assert json.loads(bundle.ok("ps", "--format", "json", name)) == [found["pid"]]
        bundle.ok("kill", name, "KILL")
        until(lambda: bundle.state(name)["status"] == "stopped")
        assert bundle.call("kill", name, "TERM").returncode == 1
    assert bundle.call("state", name).returncode == 1
    assert bundle.call("start", name).returncode == 1


def test_run_gives_status_and_streams(bundle: Bundle) -> None:
    done = bundle.run(
        bundle.config("sh", "-c", "cat; echo out; echo err >&2; exit 7"), given="in\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, "in\nout\n", "err\n")


def test_what_can_t_be_executed_fails_at_create(bundle: Bundle) -> None:
    bundle.write(bundle.config("no-such-program"))
    done = bundle.call("create", "--bundle", str(bundle.folder), "absent")
    assert done.returncode == 1 and "executable file not found" in done.stderr
    assert bundle.left() == []


def test_the_process_has_what_is_said(bundle: Bundle) -> None:
    config = bundle.config("sh", "-c", "id -u; id -g; id -G; pwd; echo $X; umask; ulimit -n")
    process = config["process"]
    process["user"] = {"uid": 5, "gid": 6, "additionalGids": [7, 8], "umask": 0o27}
    process["env"].append("X=y z")
    process["cwd"] = "/made/here"
    process["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 100}]
    assert bundle.output(config).split("\n")[:-1] == [
        "5", "6", "6 7 8", "/made/here", "y z", "0027", "100"
    ]  # fmt: skip


def test_capabilities_are_those_of_each_set(bundle: Bundle) -> None:
    config = bundle.config("grep", "-E", "Cap|NoNew", "/proc/self/status")
    config["process"]["capabilities"] = {
        "bounding": ["CAP_CHOWN", "CAP_KILL"],
        "permitted": ["CAP_CHOWN", "CAP_KILL"],
        "effective": ["CAP_KILL"],
        "inheritable": ["CAP_KILL"],
        "ambient": ["CAP_KILL"],
    }
    config["process"]["user"] = {"uid": 5, "gid": 5}
    found = dict(line.split(":\t") for line in bundle.output(config).splitlines())
    assert int(found["CapBnd"], 16) == 1 << 0 | 1 << 5
    assert {int(found[f"Cap{kind}"], 16) for kind in ("Inh", "Amb", "Prm", "Eff")} == {1 << 5}
    assert found["NoNewPrivs"] == "1"


def test_namespaces_are_new_shared_or_those_of_a_path(bundle: Bundle) -> None:
    def inside(config: dict[str, object]) -> dict[str, str]:
        lines = bundle.output(config).splitlines()  # type: ignore[arg-type]
        return dict(line.split(":", 1) for line in lines)

    kinds = ("ipc", "mnt", "net", "pid", "uts", "user", "cgroup", "time")
    script = "for n in ipc mnt net pid uts user cgroup time; do readlink /proc/self/ns/$n; done"
    own = {kind: os.readlink(f"/proc/self/ns/{kind}").split(":", 1)[1] for kind in kinds}
    config = bundle.config("sh", "-c", script)
    found = inside(config)
    assert {kind for kind in kinds if found[kind] == own[kind]} == {"user", "time"}
    config["linux"]["namespaces"] += [{"type": "time"}]
    config["linux"]["timeOffsets"] = {"boottime": {"secs": 1_000_000}}
    config["process"]["args"] = ["cat", "/proc/uptime"]
    assert float(bundle.output(config).split()[0]) > 1_000_000
    with subprocess.Popen(["unshare", "--net", "--ipc", "sleep", "1000"]) as other:
        try:
            until(lambda: os.readlink(f"/proc/{other.pid}/ns/ipc") != f"ipc:{own['ipc']}")
            config = bundle.config("sh", "-c", script)
            for entry in config["linux"]["namespaces"]:
                if entry["type"] == "network":
                    entry["path"] = f"/proc/{other.pid}/ns/net"
            theirs = os.readlink(f"/proc/{other.pid}/ns/net").split(":", 1)[1]
            assert inside(config)["net"] == theirs
        finally:
            other.kill()


def test_a_user_namespace_has_its_maps(bundle: Bundle) -> None:
    config = bundle.config("sh", "-c", "id -u; cat /proc/self/uid_map; ls -ln /dev/null; :>/tmp/x")
    config["linux"]["namespaces"].append({"type": "user"})
    for field in ("uidMappings", "gidMappings"):
        config["linux"][field] = [{"containerID": 0, "hostID": 1 << 30, "size": 1000}]
    (bundle.rootfs / "tmp").chmod(0o1777)
    lines = bundle.output(config).splitlines()
    assert lines[0] == "0" and lines[1].split() == ["0", str(1 << 30), "1000"]
    assert lines[2].startswith("crw-rw-rw-")
    assert (bundle.rootfs / "tmp/x").stat().st_uid == 1 << 30
    (bundle.rootfs / "tmp/x").unlink()


def test_a_score_and_parameters_are_set_in_a_user_namespace(bundle: Bundle) -> None:
    config = bundle.config("sh", "-c", "cat /proc/self/oom_score_adj; exec sleep 1000")
    config["linux"]["namespaces"].append({"type": "user"})
    for field in ("uidMappings", "gidMappings"):
        config["linux"][field] = [{"containerID": 0, "hostID": 1 << 30, "size": 1000}]
    config["process"]["oomScoreAdj"] = 321
    config["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}
    with bundle.created(config) as name:
        bundle.ok("start", name)
        files = ("/proc/1/oom_score_adj", "/proc/self/oom_score_adj")
        words = ("cat", *files, "/proc/sys/net/ipv4/ip_forward")
        assert bundle.ok("exec", name, *words) == "321\n321\n1\n"


def test_mounts_and_their_options(bundle: Bundle, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "file").write_text("text")
    config = bundle.config("cat", "/proc/self/mountinfo")
    config["mounts"] += [
        {"destination": "/new/place", "type": "bind", "source": str(tmp_path),
         "options": ["rbind", "ro", "nosuid", "noatime"]},
        {"destination": "/one", "source": str(tmp_path / "file"), "options": ["bind"]},
        {"destination": "/etc/copied", "type": "tmpfs", "source": "tmpfs",
         "options": ["size=1m", "mode=700", "noexec"]},
    ]  # fmt: skip
    rows = [line.split() for line in bundle.output(config).splitlines()]
    found = {row[4]: set(row[5].split(",")) for row in rows}
    assert {"ro", "nosuid", "noatime"} <= found["/new/place"]
    assert "rw" in found["/one"] and "noexec" in found["/etc/copied"]
    assert "ro" in found["/proc/sys"] and "/proc/interrupts" in found and "/sys/kernel" in found
    assert not any(row[4].startswith(str(bundle.folder)) for row in rows)
    config["root"]["readonly"] = True
    config["process"]["args"] = ["touch", "/x"]
    done = bundle.run(config)
    assert done.returncode == 1 and "Read-only" in done.stderr


def test_a_link_in_the_root_leads_a_mount_nowhere_else(bundle: Bundle, tmp_path: Path) -> None:
    (bundle.rootfs / "trap").symlink_to(tmp_path)
    config = bundle.config("true")
    config["mounts"].append({"destination": "/trap/in", "type": "tmpfs", "source": "tmpfs"})
    bundle.run(config)
    assert os.listdir(tmp_path) == []
    (bundle.rootfs / "trap").unlink()


def test_devices_are_the_default_ones_and_those_of_the_list(bundle: Bundle) -> None:
    config = bundle.config(
        "sh", "-c", "ls -l /dev/null /dev/mine; readlink /dev/fd; cat /dev/zero | head -c 3 | wc -c"
    )
    config["linux"]["devices"] = [
        {"path": "/dev/mine", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 3}
    ]
    lines = bundle.output(config).splitlines()
    assert any(line.startswith("crw-rw-rw-") and "1,   3" in line for line in lines)
    assert any(line.startswith("crw-r-----") and "1,   5" in line for line in lines)
    assert lines[-2:] == ["/proc/self/fd", "3"]


def test_limits_are_in_force_and_change(bundle: Bundle) -> None:
    config = bundle.config("sleep", "1000")
    config["linux"]["cgroupsPath"] = "/sandbox-kernel-oci/limits"
    config["linux"]["resources"] = {
        "memory": {"limit": 64 << 20, "swap": 64 << 20},
        "cpu": {"shares": 512, "quota": 20000, "period": 100000, "cpus": "0"},
        "pids": {"limit": 9},
        "devices": [{"allow": False, "access": "rwm"}],
    }

    def read(controller: str, name: str) -> str:
        folder = f"/sys/fs/cgroup/{controller}/sandbox-kernel-oci/limits"
        return Path(folder, name).read_text().strip()

    with bundle.created(config) as name:
        assert read("memory", "memory.limit_in_bytes") == str(64 << 20)
        assert (read("cpu", "cpu.shares"), read("pids", "pids.max")) == ("512", "9")
        assert read("cpuset", "cpuset.cpus") == "0"
        assert "c 1:3 rwm" in read("devices", "devices.list")
        bundle.ok("update", "--pids-limit", "12", name)
        changes = {"memory": {"limit": 128 << 20, "swap": 128 << 20}}
        bundle.ok("update", "--resources", "-", name, given=json.dumps(changes))
        assert read("pids", "pids.max") == "12"
        assert read("memory", "memory.limit_in_bytes") == str(128 << 20)
        bundle.ok("start", name)
        bundle.ok("pause", name)
        assert bundle.state(name)["status"] == "paused"
        bundle.ok("resume", name)
        assert bundle.state(name)["status"] == "running"
        told = json.loads(bundle.ok("events", "--stats", name))
        assert told["type"] == "stats" and told["data"]["pids"]["current"] == 1
    assert not os.path.exists("/sys/fs/cgroup/memory/sandbox-kernel-oci/limits")


def test_hooks_run_at_their_points_with_the_state(bundle: Bundle, tmp_path: Path) -> None:
    config = bundle.config("true")
    hook = "#!/bin/sh\nprintf '%s ' \"$1\" >>$OUT; cat >>$OUT; echo >>$OUT\n"
    script = tmp_path / "hook"
    script.write_text(hook)
    script.chmod(0o755)
    kinds = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
    config["hooks"] = {
        kind: [{"path": str(script), "args": ["hook", kind],
                "env": [f"OUT={tmp_path}/out", "PATH=/bin:/usr/bin"]}]
        for kind in kinds
    }  # fmt: skip
    (bundle.rootfs / "inner").write_text("#!/bin/sh\ncat >/tmp/started\n")
    (bundle.rootfs / "inner").chmod(0o755)
    config["hooks"]["startContainer"] = [{"path": "/inner", "env": ["PATH=/bin"]}]
    bundle.output(config)
    lines = (tmp_path / "out").read_text().splitlines()
    assert [line.split(" ", 1)[0] for line in lines] == list(kinds)
    states = [json.loads(line.split(" ", 1)[1])["status"] for line in lines]
    assert states == ["creating", "creating", "creating", "running", "stopped"]
    assert json.loads((bundle.rootfs / "tmp/started").read_text())["status"] == "created"
    (bundle.rootfs / "tmp/started").unlink()
    config["hooks"] = {"createRuntime": [{"path": "/bin/false"}]}
    done = bundle.run(config)
    assert done.returncode == 1 and "createRuntime" in done.stderr


def test_kernel_parameters_names_and_more(bundle: Bundle) -> None:
    files = "/proc/sys/kernel/domainname /proc/sys/net/ipv4/ip_forward /proc/self/oom_score_adj"
    config = bundle.config(
        "sh", "-c", f"hostname; cat {files}; set -- $(cat /proc/$$/stat); echo ${{19}}"
    )
    config["domainname"] = "example.org"
    config["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}
    config["process"]["oomScoreAdj"] = 321
    config["process"]["scheduler"] = {"policy": "SCHED_BATCH", "nice": 5}
    config["process"]["ioPriority"] = {"class": "IOPRIO_CLASS_IDLE", "priority": 0}
    config["linux"]["personality"] = {"domain": "LINUX"}
    assert bundle.output(config).split() == ["inside", "example.org", "1", "321", "5"]
    config["linux"]["sysctl"] = {"kernel.panic": "1"}
    done = bundle.run(config)
    assert done.returncode == 1 and "kernel.panic" in done.stderr


def test_exec_joins_and_tells_its_status(bundle: Bundle, tmp_path: Path) -> None:
    config = bundle.config("sleep", "1000")
    with bundle.created(config) as name:
        bundle.ok("start", name)
        options = ("--env", "A=b", "--cwd", "/tmp", "--user", "3:4")
        script = "hostname; pwd; id -u; echo $A; exit 5"
        done = bundle.call("exec", *options, name, "sh", "-c", script)
        assert (done.returncode, done.stdout) == (5, "inside\n/tmp\n3\nb\n")
        links = "readlink /proc/1/ns/pid; readlink /proc/self/ns/pid"
        process = {**config["process"], "args": ["sh", "-c", links]}
        (tmp_path / "process.json").write_text(json.dumps(process))
        both = bundle.ok("exec", "--process", str(tmp_path / "process.json"), name).split()
        assert both[0] == both[-1]
        pid_file = tmp_path / "pid"
        with (tmp_path / "nowhere").open("w") as out:
            bundle.quiet(
                out, "exec", "--detach", "--pid-file", str(pid_file), name, "sleep", "9999"
            )
        listed = json.loads(bundle.ok("ps", "--format", "json", name))
        assert int(pid_file.read_text()) in listed and len(listed) == 2
        assert bundle.call("exec", name, "no-such-program").returncode == 1
        bundle.ok("kill", "--all", name, "9")
        until(lambda: bundle.state(name)["status"] == "stopped")


def test_a_terminal_is_handed_to_the_console_socket(bundle: Bundle, tmp_path: Path) -> None:
    config = bundle.config("sh", "-c", "tty; ls /dev/console")
    config["process"]["terminal"] = True
    config["process"]["consoleSize"] = {"height": 10, "width": 20}
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "console"))
        listening.listen()
        with bundle.created(config, "--console-socket", str(tmp_path / "console")) as name:
            channel, _ = listening.accept()
            _, (master,), _, _ = socket.recv_fds(channel, 16, 1)
            assert os.get_terminal_size(master) == (20, 10)
            bundle.ok("start", name)
            text = b""
            while b"console" not in text:
                text += os.read(master, 4096)
            assert b"/dev/pts/0" in text
            os.close(master)
            channel.close()


def test_preserved_descriptors_are_open_and_no_others(bundle: Bundle) -> None:
    reading, writing = os.pipe()
    kept = os.dup(3)  # of the tests' own
    os.dup2(writing, 3)
    try:
        done = bundle.run(bundle.config("sh", "-c", "echo hi >&3; ls /proc/self/fd"),
                          "--preserve-fds", "1", pass_fds=(3,))  # fmt: skip
        assert os.read(reading, 10) == b"hi\n"
        assert set(done.stdout.split()) <= {"0", "1", "2", "3", "4"}  # 4 is the listing's own
    finally:
        os.dup2(kept, 3)
        for descriptor in (reading, writing, kept):
            os.close(descriptor)


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("ociVersion", "2.0.0", "ociVersion"),
        ("root", None, "root"),
        ("linux.intelRdt", {"closID": "x"}, "intelRdt"),
        ("linux.namespaces", [{"type": "other"}], "namespaces"),
        ("linux.mountLabel", "system_u:object_r:container_file_t:s0", "linux.mountLabel"),
        ("linux.resources", {"rdma": {"mlx5_1": {"hcaHandles": 3}}}, "rdma"),
        (
            "linux.resources",
            {"blockIO": {"weightDevice": [{"major": 0, "minor": 1, "weight": 200}]}},
            "weight_device",
        ),
        (
            "linux.resources",
            {"blockIO": {"weightDevice": [{"major": 0, "minor": 1, "leafWeight": 200}]}},
            "blockIO.weightDevice",
        ),
        ("linux.resources", {"blockIO": {"leafWeight": 200}}, "blockIO.leafWeight"),
        ("linux.resources", {"other": {"limit": 1}}, "linux.resources.other"),
        ("process.cwd", "relative", "process.cwd"),
        ("process.capabilities", {"effective": ["CAP_NOTHING"]}, "CAP_NOTHING"),
    ],
)
def test_what_can_t_be_put_in_force_is_refused_by_name(
    bundle: Bundle, field: str, value: object, named: str
) -> None:
    config = bundle.config("true")
    place = config
    *path, last = field.split(".")
    for part in path:
        place = place[part]
    place[last] = value
    done = bundle.run(config)
    assert done.returncode == 1 and named in done.stderr and len(done.stderr.splitlines()) == 1


def test_errors_go_to_the_log_that_the_caller_named(bundle: Bundle, tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = bundle.call("--log", str(log), "--log-format", "json", "state", "nobody")
    assert done.returncode == 1
    entry = json.loads(log.read_text())
    assert entry["level"] == "error" and "does not exist" in entry["msg"]


@pytest.mark.root
@pytest.mark.fault(1)
def test_whoever_is_killed_while_it_is_made_delete_takes_it_away(bundle: Bundle) -> None:
    config = bundle.config("sleep", "1000")
    config["hooks"] = {"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "1000"]}]}
    bundle.write(config)
    with subprocess.Popen(
        [*bundle.argv, "create", "--bundle", str(bundle.folder), "killed"], start_new_session=True
    ) as making:
        until((bundle.root / "killed/state.json").exists)
        assert bundle.state("killed")["status"] == "creating"
        os.killpg(making.pid, signal.SIGKILL)
    bundle.ok("delete", "--force", "killed")


@pytest.mark.root
@pytest.mark.fault(1)
def test_of_a_run_that_is_killed_delete_takes_the_container_away(bundle: Bundle) -> None:
    bundle.write(bundle.config("sleep", "1000"))
    argv = [*bundle.argv, "run", "--bundle", str(bundle.folder), "killed"]
    with subprocess.Popen(argv, start_new_session=True) as running:
        until((bundle.root / "killed/state.json").exists)
        until(lambda: bundle.state("killed")["status"] == "running")
        pid = bundle.state("killed")["pid"]
        running.kill()
    assert os.path.exists(f"/proc/{pid}")
    bundle.ok("delete", "--force", "killed")
    assert not os.path.exists("/sys/fs/cgroup/memory/sandbox-kernel-oci-killed")
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the machine reaps it soon
        assert Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    until(lambda: not os.path.exists(f"/proc/{pid}"))


def test_why_a_first_process_ended_is_told(bundle: Bundle) -> None:
    config = bundle.config()
    config["mounts"].append({"destination": "/x", "type": "tmpfs", "options": ["size=none"]})
    config["linux"]["namespaces"].append({"type": "user"})
    config["linux"]["uidMappings"] = config["linux"]["gidMappings"] = [
        {"containerID": 0, "hostID": 0, "size": 65536}
    ]
    done = bundle.run(config)
    assert done.returncode == 1 and "mount `tmpfs` on `/x`" in done.stderr
    config["mounts"].pop()
    config["process"]["rlimits"] = [{"type": "RLIMIT_OF_NOTHING", "soft": 1, "hard": 1}]
    done = bundle.run(config)
    assert done.returncode == 1 and "there is no such limit" in done.stderr
    assert bundle.left() == []


def test_version_features_and_spec(bundle: Bundle, tmp_path: Path) -> None:
    assert "spec: 1.2" in bundle.ok("--version")
    found = json.loads(bundle.ok("features"))
    assert found["linux"]["seccomp"]["enabled"] and "rbind" in found["mountOptions"]
    bundle.ok("spec", "--bundle", str(tmp_path))
    assert json.loads((tmp_path / "config.json").read_text())["process"]["args"] == ["sh"]
    assert bundle.call("spec", "--bundle", str(tmp_path)).returncode == 1
    entry = bundle.ok("--entry").strip()
    quick = subprocess.run([entry, "--version"], capture_output=True, text=True, check=True)
    assert quick.stdout == bundle.ok("--version")


@pytest.fixture
def short_folder() -> Iterator[str]:
    """podman wants no path above 50 characters."""
    folder = tempfile.mkdtemp(prefix="oci-", dir="/var/tmp")
    yield folder
    shutil.rmtree(folder)


def test_podman_and_buildah_run_containers_by_it(bundle: Bundle, short_folder: str) -> None:
    runtime = bundle.ok("--entry").strip()
    storage = ["--root", f"{short_folder}/root", "--runroot", f"{short_folder}/run"]
    podman = ["podman", *storage, "--tmpdir", f"{short_folder}/tmp", "--storage-driver", "vfs",
              "--cgroup-manager", "cgroupfs", "--events-backend", "file",
              "--runtime", runtime]  # fmt: skip
    # This machine lets nobody raise a limit, which podman would do of itself.
    limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"]
    done = subprocess.run(
        [*podman, "run", "--rm", "--network", "none", *limits, "--rootfs", str(bundle.rootfs),
         "sh", "-c", "echo by podman; exit 3"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (3, "by podman\n"), done.stderr
    buildah = ["buildah", *storage, "--storage-driver", "vfs"]

    def ask(*words: str) -> str:
        return subprocess.run(
            [*buildah, *words], capture_output=True, text=True, timeout=60, check=True
        ).stdout.strip()

    made = ask("from", "scratch")
    try:
        subprocess.run(["cp", "-a", f"{bundle.rootfs}/.", ask("mount", made)], check=True)
        words = ("run", "--runtime", runtime, "--isolation", "oci", "--network", "none", made)
        assert ask(*words, "sh", "-c", "echo by buildah") == "by buildah"
    finally:
        ask("rm", made)
