"""What containers get of the host: small files as copies, all else as mounts, and devices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = """
import json, os, sys, time
from pathlib import Path
from sandbox_kernel.linux import mounts, processes
from sandbox_kernel.runtime.held import Sources

place = Path(sys.argv[1])
processes.unshare(processes.CLONE_NEWNS)
mounts.make_private()
for name in ("sources", "one", "two"):
    (place / name).mkdir()
sources = Sources(str(place / "sources"))
host = place / "host"
options = ["ro", "nosuid", "nodev"]
order = {
    "key": "tree",
    "destination": "/etc",
    "entries": [{"kind": "file", "path": "/etc/ours", "text": "ours"}],
    "mounts": [
        {"destination": f"/etc/{path.name}", "source": str(path), "options": options}
        for path in sorted(host.iterdir())
    ],
}

def shown(name, tree):
    target = os.open(place / name, os.O_PATH)
    mounts.place(tree, target)
    below = f" {place / name}"
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    found = {}
    for path in sorted((place / name).iterdir()):
        state = path.stat()
        found[path.name] = [
            None if path.is_dir() else path.read_bytes()[:20].decode(),
            oct(state.st_mode & 0o7777), state.st_mtime_ns,
            any(f"{below}/{path.name} " in line for line in lines),
        ]
    try:
        (place / name / "more").touch()
    except OSError as error:
        found["error"] = error.errno
    return found

first = shown("one", sources.tree(order))
(host / "small").write_text("changed")
later = shown("two", sources.tree(order, 3600))
os.system(f"umount -l {place / 'two'}")
anew = shown("two", sources.tree(order))
still = (place / "one" / "small").read_text()

dev = mounts.clone_tree(sources.dev)
(place / "dev").mkdir()
mounts.place(dev, os.open(place / "dev", os.O_PATH))
(place / "dev" / "null").write_bytes(b"x" * 10)
with open(place / "dev" / "zero", "rb") as zero:
    nothing = zero.read(3)
devices = {
    name: [os.major(state.st_rdev), os.minor(state.st_rdev), oct(state.st_mode)]
    for name in ("null", "zero", "full", "random", "urandom", "tty")
    for state in [os.stat(place / "dev" / name)]
}
print(json.dumps([first, later["small"][0], anew["small"][0], still, nothing == bytes(3), devices]))
"""


@pytest.fixture
def said(tmp_path: Path) -> list[Any]:
    host = tmp_path / "host"
    (host / "folder").mkdir(parents=True)
    (host / "folder" / "inside").touch()
    for name, text, mode in (
        ("small", "small", 0o644),
        ("program", "#!", 0o4755),
        ("secret", "secret", 0o600),
        ("large", "l" * (128 << 10) + "l", 0o644),
    ):
        (host / name).write_text(text)
        os.chmod(host / name, mode)
        os.utime(host / name, ns=(1, 1_000_000_000_000_000_007))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2], timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout)
    return found


def test_small_files_are_copies_and_all_else_mounts(said: list[Any]) -> None:
    first = said[0]
    when = 1_000_000_000_000_000_007
    assert first["small"] == ["small", "0o644", when, False]
    assert first["program"] == ["#!", "0o755", when, False]
    assert first["secret"] == ["secret", "0o600", when, True]
    assert first["large"] == ["l" * 20, "0o644", when, True]
    assert first["folder"][3] is True
    assert first["ours"][0] == "ours"
    assert first["error"] == 30  # read-only


def test_a_copy_is_of_what_the_host_has_when_a_container_is_made(said: list[Any]) -> None:
    _, later, anew, still, *_ = said
    assert later == "small"  # asked again too soon
    assert anew == "changed"
    assert still == "small"


def test_devices_are_those_of_the_host(said: list[Any]) -> None:
    *_, nothing, devices = said
    assert nothing
    host = {name: os.stat(f"/dev/{name}").st_rdev for name in devices}
    assert devices == {
        name: [os.major(number), os.minor(number), "0o20666"] for name, number in host.items()
    }
