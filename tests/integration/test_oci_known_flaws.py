"""What flaws of other runtimes teach, rows 1 to 9 of `tests/known_flaws.py`, for the command line.

The embedded runtime has the same in `tests/hostile`.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from awaiting import until
from oci_bundles import Bundle

RACE_SECONDS = 3.0
# A process inside looks for others to be entered, and opens what they execute for writing.
WATCH = """
while :; do for p in /proc/[0-9]*; do
  case $p in /proc/1|/proc/$$) continue;; esac
  (exec 3<>$p/exe) 2>/dev/null && echo $p >>/tmp/opened
done; done
"""


@pytest.fixture
def trap() -> Iterator[Path]:
    """A folder of the machine that everybody may write to, with a file."""
    with tempfile.TemporaryDirectory(prefix="trap-", dir="/var/tmp") as folder:
        os.chmod(folder, 0o777)
        Path(folder, "file").touch()
        yield Path(folder)


@pytest.mark.cve("CVE-2019-5736")
def test_1_who_enters_or_is_started_can_t_be_caught_by_its_exe(bundle: Bundle) -> None:
    program = Path(sys.executable).resolve()
    before = hashlib.sha256(program.read_bytes()).hexdigest()
    with bundle.created(bundle.config("sh", "-c", WATCH)) as name:
        bundle.ok("start", name)
        for _ in range(8):
            assert bundle.call("exec", name, "true").returncode == 0
        beside = bundle.config("true")  # whose first process is in the same pid namespace
        for entry in beside["linux"]["namespaces"]:
            if entry["type"] == "pid":
                entry["path"] = f"/proc/{bundle.state(name)['pid']}/ns/pid"
        for _ in range(4):
            bundle.output(beside)
    assert not (bundle.rootfs / "tmp/opened").exists()
    assert hashlib.sha256(program.read_bytes()).hexdigest() == before


@contextlib.contextmanager
def swapping(folder: Path, name: str, target: Path) -> Iterator[None]:
    """A neighbour by whom `name` is now a folder, now a link to `target`."""
    (folder / name).mkdir(exist_ok=True)
    (folder / "link").symlink_to(target)
    over = threading.Event()

    def swap() -> None:
        here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        while not over.is_set():
            # RENAME_EXCHANGE: there is always something, so nobody makes it anew.
            ctypes.CDLL(None).renameat2(here, name.encode(), here, b"link", 2)
        os.close(here)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        if (folder / name).is_symlink():
            (folder / name).unlink()
            (folder / "link").rename(folder / name)
        else:
            (folder / "link").unlink()


def runs(bundle: Bundle, config: dict[str, Any]) -> Iterator[subprocess.CompletedProcess[str]]:
    deadline = time.monotonic() + RACE_SECONDS
    count = 0
    while time.monotonic() < deadline or count < 4:
        count += 1
        yield bundle.run(config)


@pytest.mark.cve("CVE-2019-19921")
def test_2_a_proc_that_a_neighbour_swaps_for_a_link_keeps_its_masks_or_is_refused(
    bundle: Bundle, trap: Path
) -> None:
    # By either name, as it is moved while the container runs too.
    script = "cat /proc/interrupts /link/interrupts 2>/tmp/said; test -d /proc/1 -o -d /link/1"
    config = bundle.config("sh", "-c", script)
    started = 0
    with swapping(bundle.rootfs, "proc", trap):
        for done in runs(bundle, config):
            started += done.returncode == 0
            assert done.stdout == ""
            assert os.listdir(trap) == ["file"]
    assert started  # else nothing was seen
    (bundle.rootfs / "tmp/said").unlink()


@pytest.mark.cve("CVE-2021-30465", "CVE-2024-45310")
def test_3_and_6_a_mount_point_that_is_swapped_for_a_link_leads_nowhere_else(
    bundle: Bundle, trap: Path, tmp_path: Path
) -> None:
    config = bundle.config("cat", "/proc/self/mountinfo")
    config["mounts"] += [
        {"destination": "/shared", "source": str(tmp_path), "options": ["rbind"]},
        {"destination": "/shared/place/target", "type": "tmpfs", "source": "tmpfs"},
    ]
    (tmp_path / "place").mkdir()
    with swapping(tmp_path, "place", trap):
        for done in runs(bundle, config):
            rows = [line.split() for line in done.stdout.splitlines()]
            assert not any(row[4].startswith(str(trap)) for row in rows)
            assert os.listdir(trap) == ["file"]


@pytest.mark.cve("CVE-2023-27561", "CVE-2023-28642")
@pytest.mark.parametrize("place", ["proc", "sys", "dev"])
@pytest.mark.parametrize("kind", ["link", "file"])
def test_4_a_link_or_file_at_a_place_of_the_kernel_is_refused(
    bundle: Bundle, place: str, kind: str
) -> None:
    (bundle.rootfs / "elsewhere").mkdir(exist_ok=True)
    before = (bundle.rootfs / place).rename(bundle.rootfs / "before")
    there = bundle.rootfs / place
    try:
        there.symlink_to("/elsewhere") if kind == "link" else there.touch()
        done = bundle.run(bundle.config("true"))
    finally:
        there.unlink()
        before.rename(there)
    assert done.returncode == 1 and f"check `/{place}`" in done.stderr


@pytest.mark.cve("CVE-2024-21626")
def test_5_no_descriptor_of_ours_leads_to_the_machine(bundle: Bundle) -> None:
    (bundle.folder / "secret").write_text("")
    secret = os.open(bundle.folder, os.O_RDONLY | os.O_DIRECTORY)
    os.set_inheritable(secret, True)
    script = "for f in /proc/self/fd/*; do readlink $f; done; true"
    config = bundle.config("sh", "-c", script)
    for options, more in (((), {}), ((), {"pass_fds": (secret,)})):
        for line in bundle.output(config, *options, **more).splitlines():
            assert line == "/dev/null" or line.startswith(("pipe:", "/proc/"))
    with bundle.created(bundle.config("sleep", "1000")) as name:
        bundle.ok("start", name)
        for number in range(3, 12):
            place = f"/proc/self/fd/{number}"
            entered = bundle.call("exec", "--cwd", place, name, "true", pass_fds=(secret,))
            assert entered.returncode == 1 and f"enter directory `{place}`" in entered.stderr
            # By a link of the image, which is not seen to lead there: it is closed by then.
            (bundle.rootfs / "tmp/there").symlink_to(place)
            entered = bundle.call("exec", "--cwd", "/tmp/there", name, "ls", pass_fds=(secret,))
            (bundle.rootfs / "tmp/there").unlink()
            assert entered.returncode == 1, entered.stdout
    os.close(secret)
    config["process"]["cwd"] = "/proc/self/fd/3"
    assert bundle.run(config).returncode == 1
    config["process"]["cwd"] = "/"
    refused = bundle.run(config, "--preserve-fds", "20")
    assert refused.returncode == 1 and "--preserve-fds" in refused.stderr


@pytest.mark.cve("CVE-2025-31133")
@pytest.mark.parametrize("new_user", [False, True])
def test_7_masks_are_the_machine_s_null_device_whatever_the_image_has(
    bundle: Bundle, new_user: bool
) -> None:
    trap = bundle.rootfs / "dev/null"
    config = bundle.config("stat", "-c", "%t:%T", "/proc/interrupts", "/proc/uptime")
    config["linux"]["maskedPaths"] += ["/proc/uptime"]
    if new_user:
        config["linux"]["namespaces"].append({"type": "user"})
        config["linux"]["uidMappings"] = config["linux"]["gidMappings"] = [
            {"containerID": 0, "hostID": 0, "size": 65536}
        ]
    assert bundle.output(config) == "1:3\n1:3\n"
    config["mounts"] = [each for each in config["mounts"] if each["destination"][:4] != "/dev"]
    config["process"]["args"] += ["/dev/null"]
    trap.symlink_to("/proc/sys/kernel/core_pattern")
    try:
        done = bundle.run(config)
    finally:
        empty(bundle.rootfs / "dev")
    if new_user:  # who covers the link itself
        assert done.stdout == "1:3\n" * 3
    else:
        assert done.returncode == 1 and "make device `/dev/null`" in done.stderr


def empty(folder: Path) -> None:
    for each in folder.iterdir():
        each.rmdir() if each.is_dir() and not each.is_symlink() else each.unlink()


@pytest.mark.cve("CVE-2025-52565")
def test_8_a_console_is_bound_behind_no_link_and_no_terminal_is_of_the_image(
    bundle: Bundle, tmp_path: Path
) -> None:
    config = bundle.config("sh", "-c", "cat /proc/self/mountinfo >/tmp/seen; cat /proc/interrupts")
    config["process"]["terminal"] = True

    def run() -> tuple[int, str]:
        bundle.write(config)
        path = str(tmp_path / f"console-{secrets.token_hex(2)}")
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path)
            listening.listen()
            done = bundle.call("run", "--bundle", str(bundle.folder), "--console-socket", path,
                               secrets.token_hex(4))  # fmt: skip
        return done.returncode, done.stderr

    assert run() == (0, "")
    seen = [line.split()[4] for line in (bundle.rootfs / "tmp/seen").read_text().splitlines()]
    (bundle.rootfs / "tmp/seen").unlink()
    assert seen.index("/dev/console") > seen.index("/proc/interrupts")  # in the order of mounting
    config["mounts"] = [
        each for each in config["mounts"] if each["destination"] not in ("/dev", "/dev/shm")
    ]
    dev = bundle.rootfs / "dev"
    (dev / "pts").mkdir()
    (dev / "console").symlink_to("/proc/sys/kernel/core_pattern")
    assert run() == (0, "")
    seen = [line.split()[4] for line in (bundle.rootfs / "tmp/seen").read_text().splitlines()]
    (bundle.rootfs / "tmp/seen").unlink()
    assert "/dev/console" in seen and "/proc/sys/kernel/core_pattern" not in seen
    (dev / "ptmx").unlink()
    os.mknod(dev / "ptmx", 0o20666, os.makedev(1, 3))
    status, said = run()
    empty(dev)
    assert status == 1 and "open a terminal of `/dev/ptmx`" in said


@pytest.mark.cve("CVE-2025-52881")
def test_9_forged_files_of_proc_take_no_label_and_no_score(bundle: Bundle) -> None:
    forged = bundle.rootfs / "proc/self"
    forged.mkdir()
    (forged / "attr/apparmor").mkdir(parents=True)
    files = [forged / "oom_score_adj", forged / "attr/exec", forged / "attr/apparmor/exec"]
    for file in files:
        file.write_text("")
    config = bundle.config("sh", "-c", "exec sleep 1000")
    config["mounts"] = [each for each in config["mounts"] if each["type"] != "proc"]
    config["linux"]["maskedPaths"] = config["linux"]["readonlyPaths"] = []
    config["process"]["oomScoreAdj"] = 321
    try:
        with bundle.created(config) as name:
            bundle.ok("start", name)
            pid = bundle.state(name)["pid"]
            until(lambda: Path(f"/proc/{pid}/oom_score_adj").read_text() == "321\n")
            process = {**config["process"], "oomScoreAdj": 123, "args": ["sleep", "1000"]}
            (bundle.folder / "process.json").write_text(json.dumps(process))
            with (bundle.folder / "said").open("w") as said:
                bundle.quiet(said, "exec", "--detach", "--pid-file", str(bundle.folder / "pid"),
                             "--process", str(bundle.folder / "process.json"), name)  # fmt: skip
            entered = (bundle.folder / "pid").read_text()
            assert Path(f"/proc/{entered}/oom_score_adj").read_text() == "123\n"
        for label in ("apparmorProfile", "selinuxLabel"):
            # This machine has neither; so what says that it was set was fooled.
            labelled = {**config, "process": {**config["process"], label: "some"}}
            done = bundle.run(labelled)
            assert done.returncode == 1 and "/proc/self/attr/" in done.stderr
    finally:
        assert [file.read_text() for file in files] == [""] * 3
        subprocess.run(["rm", "-r", forged], check=True)


@pytest.mark.cve("CVE-2025-52881")
def test_9_a_kernel_parameter_leads_to_none_of_the_machine(bundle: Bundle) -> None:
    config = bundle.config("true")
    same = Path("/proc/sys/kernel/panic").read_text().strip()
    for name in ("net/../kernel/panic", "net..kernel.panic", "net/./x"):
        config["linux"]["sysctl"] = {name: same}
        done = bundle.run(config)
        assert done.returncode == 1 and "linux.sysctl" in done.stderr
