"""`bundle.make`: what each option of a plan becomes in the OCI configuration."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from sandbox_kernel import errors
from sandbox_kernel.bundle import make
from sandbox_kernel.bundle.users import Accounts, resolve
from sandbox_kernel.grammar import UNLIMITED, DeviceRate, Mount, Ulimit
from sandbox_kernel.linux import capabilities
from sandbox_kernel.policy import ContainerPlan

ACCOUNTS = Accounts(
    passwd="root:x:0:0:root:/root:/bin/sh\nada:x:1000:100:Ada:/home/ada:/bin/sh\nbad:x:y:z:::\n",
    group="root:x:0:\nusers:x:100:ada\nvideo:x:44:ada,root\nbad:x:-1:ada\n",
)


def image(**config):
    return SimpleNamespace(
        reference="host",
        digest="sha256:00",
        layers=("/store/a", "/store/b"),
        mounts=(
            {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]},
        ),
        config=config,
    )


def config_of(*, of=None, command=None, **options):
    options = {"memory": 256 << 20, "memory_swap": 256 << 20} | options
    return make(ContainerPlan(**options), of or image(), command=command, accounts=ACCOUNTS).config


def destinations(config):
    return [mount["destination"] for mount in config["mounts"]]


def mount_on(config, target):
    (found,) = (mount for mount in config["mounts"] if mount["destination"] == target)
    return found


def test_the_configuration_is_plain_data_and_the_same_each_time():
    assert json.loads(json.dumps(config_of())) == config_of()
    assert config_of()["ociVersion"] == "1.2.0"


def test_layers_digest_and_size_pass_through():
    bundle = make(ContainerPlan(storage_size=5 << 20), image())
    assert bundle.layers == ("/store/a", "/store/b")
    assert bundle.storage_size == 5 << 20
    assert bundle.image == "sha256:00"


def test_nothing_is_gained_by_default():
    process = config_of()["process"]
    assert process["noNewPrivileges"] is True
    assert process["terminal"] is False
    assert set(map(tuple, process["capabilities"].values())) == {()}
    assert {"type": "RLIMIT_CORE", "soft": 0, "hard": 0} in process["rlimits"]


def test_every_namespace_is_new_and_the_network_unless_it_is_the_host_s():
    kinds = [namespace["type"] for namespace in config_of()["linux"]["namespaces"]]
    assert kinds == ["user", "mount", "pid", "network", "ipc", "uts", "cgroup", "time"]
    shared = config_of(network="host")["linux"]["namespaces"]
    assert [n["type"] for n in shared] == [kind for kind in kinds if kind != "network"]


def test_limits_become_resources():
    resources = config_of(
        memory=1 << 30,
        memory_swap=2 << 30,
        cpus=1.5,
        cpuset_cpus="0-1",
        cpu_shares=512,
        pids_limit=64,
        device_read_bps=(DeviceRate("/dev/vda", 254, 0, 1000),),
        device_write_bps=(DeviceRate("/dev/vda", 254, 0, 2000),),
    )["linux"]["resources"]
    assert resources == {
        "memory": {"limit": 1 << 30, "swap": 2 << 30},
        "cpu": {"shares": 512, "quota": 150_000, "period": 100_000, "cpus": "0-1"},
        "pids": {"limit": 64},
        "blockIO": {
            "throttleReadBpsDevice": [{"major": 254, "minor": 0, "rate": 1000}],
            "throttleWriteBpsDevice": [{"major": 254, "minor": 0, "rate": 2000}],
        },
    }


def test_no_limit_no_resource():
    assert config_of(memory=None, memory_swap=None)["linux"]["resources"] == {}


def test_ulimits_take_the_place_of_the_defaults():
    limits = config_of(ulimit=(Ulimit("core", 1, 2), Ulimit("nofile", 64, UNLIMITED)))["process"][
        "rlimits"
    ]
    assert {"type": "RLIMIT_CORE", "soft": 1, "hard": 2} in limits
    assert {"type": "RLIMIT_NOFILE", "soft": 64, "hard": 2**64 - 1} in limits
    assert len(limits) == 2


def test_an_added_capability_is_in_all_sets_in_kernel_order():
    sets = config_of(cap_add=("CAP_NET_RAW", "CAP_CHOWN"))["process"]["capabilities"]
    assert all(names == ["CAP_CHOWN", "CAP_NET_RAW"] for names in sets.values())


def test_all_but_one_capability():
    sets = config_of(cap_add=("ALL",), cap_drop=("CAP_SYS_ADMIN",))["process"]["capabilities"]
    assert sets["effective"] == [n for n in capabilities.NAMES if n != "CAP_SYS_ADMIN"]


@pytest.mark.parametrize("option", ["cap_add", "cap_drop"])
def test_an_unknown_capability_is_refused(option):
    with pytest.raises(errors.InvalidOption, match=r"--cap-.*`CAP_MAGIC`"):
        config_of(**{option: ("CAP_MAGIC",)})


def test_a_filter_unless_the_plan_says_unconfined():
    assert config_of()["linux"]["seccomp"]["defaultAction"] == "SCMP_ACT_ERRNO"
    assert "seccomp" not in config_of(security_opt=("seccomp=unconfined",))["linux"]
    assert config_of(security_opt=("seccomp=unconfined",))["process"]["noNewPrivileges"] is True


def test_the_bundle_compiles_its_filter(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    program = make(ContainerPlan(), image()).seccomp_program()
    assert program is not None
    assert len(program) % 8 == 0
    assert make(ContainerPlan(), image()).seccomp_program() == program
    unconfined = ContainerPlan(security_opt=("seccomp=unconfined",))
    assert make(unconfined, image()).seccomp_program() is None


def test_environment_default_then_image_then_plan():
    env = config_of(of=image(Env=["PATH=/opt/bin", "A=1", "junk"]), env=(("A", "2"), ("B", "=")))[
        "process"
    ]["env"]
    assert "PATH=/opt/bin" in env
    assert "A=2" in env
    assert "B==" in env
    assert "HOME=/root" in env
    assert "LANG=C.UTF-8" in env
    assert "junk" not in env


@pytest.mark.parametrize(
    ("wanted", "uid", "gid", "more", "home"),
    [
        ("0", 0, 0, [44], "/root"),
        ("root", 0, 0, [44], "/root"),
        ("ada", 1000, 100, [44], "/home/ada"),
        ("1000", 1000, 100, [44], "/home/ada"),
        ("ada:video", 1000, 44, [], "/home/ada"),
        ("7", 7, 0, [], "/"),
        ("7:8", 7, 8, [], "/"),
    ],
)
def test_users(wanted, uid, gid, more, home):
    assert resolve(wanted, ACCOUNTS) == ({"uid": uid, "gid": gid, "additionalGids": more}, home)


@pytest.mark.parametrize("wanted", ["eve", "ada:eve", "bad", "4294967295", "99999999999999"])
def test_unknown_users_are_refused(wanted):
    with pytest.raises(errors.InvalidOption, match="--user"):
        resolve(wanted, ACCOUNTS)


def test_without_accounts_numbers_are_numbers_and_names_stay_names():
    assert resolve("7:8", None) == ({"uid": 7, "gid": 8, "additionalGids": []}, None)
    assert resolve("0", None) == ({"uid": 0, "gid": 0, "additionalGids": []}, None)
    for wanted in ("ada", "ada:video", "7:video"):
        assert resolve(wanted, None)[0]["username"] == wanted
    process = make(ContainerPlan(), image()).config["process"]
    assert not any(entry.startswith("HOME=") for entry in process["env"])


def test_root_needs_no_passwd():
    assert resolve("root:root", Accounts())[0]["uid"] == 0


def test_the_plan_s_user_goes_before_the_image_s():
    assert config_of(of=image(User="ada"))["process"]["user"]["uid"] == 1000
    assert config_of(of=image(User="ada"), user="7")["process"]["user"]["uid"] == 7


def test_working_directory():
    assert config_of()["process"]["cwd"] == "/"
    assert config_of(of=image(WorkingDir="/srv/"))["process"]["cwd"] == "/srv"
    assert config_of(of=image(WorkingDir="/srv"), workdir="/w")["process"]["cwd"] == "/w"


@pytest.mark.parametrize(
    "path", ["/proc/self/fd/7", "/proc", "//proc/1", "/sys", "/dev/fd/3", "x", "/a/../proc"]
)
def test_a_working_directory_that_could_lead_out_is_refused(path):
    with pytest.raises(errors.InvalidOption, match="--workdir"):
        config_of(workdir=path)
    with pytest.raises(errors.ImageError, match="WorkingDir"):
        config_of(of=image(WorkingDir=path))


def test_arguments_by_docker_s_rule():
    both = image(Entrypoint=["entry"], Cmd=["one", "two"])
    assert config_of(of=both)["process"]["args"] == ["entry", "one", "two"]
    assert config_of(of=both, command=["three"])["process"]["args"] == ["entry", "three"]
    assert config_of(of=both, entrypoint="sh")["process"]["args"] == ["sh"]
    assert config_of(of=both, entrypoint="sh", command=["-c"])["process"]["args"] == ["sh", "-c"]


def test_kernel_file_systems_come_first_then_image_then_plan_by_depth():
    config = config_of(
        mount=(
            Mount("bind", "/home/ada/deep", "/work/a/b", True),
            Mount("bind", "/home/ada", "/work"),
        )
    )
    assert destinations(config) == [
        *("/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys"),
        "/usr",
        *("/work", "/work/a/b"),
    ]


def test_sysfs_is_read_only_and_nothing_of_the_kernel_is_executable():
    config = config_of()
    assert "ro" in mount_on(config, "/sys")["options"]
    for target in ("/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys"):
        assert {"nosuid", "noexec"} <= set(mount_on(config, target)["options"])


def test_binds_take_no_devices_and_no_setuid():
    config = config_of(
        mount=(Mount("bind", "/a", "/work"), Mount("bind", "/b", "/data", read_only=True))
    )
    assert mount_on(config, "/work") == {
        "destination": "/work",
        "type": "bind",
        "source": "/a",
        "options": ["rbind", "rprivate", "nosuid", "nodev", "idmap", "rw"],
    }
    assert {"ro", "rro"} <= set(mount_on(config, "/data")["options"])


def test_tmpfs_is_always_bounded():
    config = config_of(
        storage_size=7 << 20,
        mount=(Mount("tmpfs", "", "/a", size=4096), Mount("tmpfs", "", "/b")),
    )
    assert "size=4096" in mount_on(config, "/a")["options"]
    assert f"size={7 << 20}" in mount_on(config, "/b")["options"]
    assert (
        "size=268435456" in mount_on(config_of(mount=(Mount("tmpfs", "", "/c"),)), "/c")["options"]
    )


def test_shared_memory_is_half_of_the_limit_or_64_mebibytes():
    assert f"size={128 << 20}" in mount_on(config_of(), "/dev/shm")["options"]
    assert f"size={64 << 20}" in mount_on(config_of(memory=None), "/dev/shm")["options"]


def test_a_mount_of_the_plan_takes_the_place_of_a_default():
    config = config_of(mount=(Mount("tmpfs", "", "/dev/shm", size=4096),))
    assert "size=4096" in mount_on(config, "/dev/shm")["options"]


@pytest.mark.parametrize("target", ["/", "/proc", "/proc/self", "/sys", "/sys/fs/cgroup", "/dev"])
def test_nothing_is_mounted_over_the_kernel_s_trees(target):
    with pytest.raises(errors.InvalidOption, match="--mount"):
        config_of(mount=(Mount("tmpfs", "", target),))


def test_masks_and_read_only_paths():
    linux = config_of()["linux"]
    assert {"/proc/kcore", "/proc/keys", "/sys/firmware"} <= set(linux["maskedPaths"])
    assert {"/proc/sys", "/proc/sysrq-trigger"} <= set(linux["readonlyPaths"])


def test_names_and_labels():
    config = config_of(hostname="lab", read_only=True, label=(("course", "x"),))
    assert config["hostname"] == "lab"
    assert config["root"]["readonly"] is True
    assert config["annotations"] == {"course": "x"}
