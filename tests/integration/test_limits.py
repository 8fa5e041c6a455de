"""Every limit on real containers of this machine; the promises stand in `limit_promises.py`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from limit_promises import *  # noqa: F403

from sandbox_kernel import engine, errors
from sandbox_kernel.engine import Sandbox

pytestmark = pytest.mark.everybody

MIB = 1 << 20
# O_DIRECT: what lies in the page cache already would cost no reading.
READ = """
import mmap, os
buffer = mmap.mmap(-1, 1 << 20)
file = os.open("/data/file", os.O_RDONLY | os.O_DIRECT)
read = 0
while count := os.readv(file, [buffer]):
    read += count
print(read)
"""
WRITE = """
import mmap, os
buffer = mmap.mmap(-1, 1 << 20)
file = os.open("/data/new", os.O_WRONLY | os.O_CREAT | os.O_DIRECT, 0o600)
for _ in range(3):
    os.write(file, buffer)
print("written")
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder on a disk with a file of 3 MiB, and the name of the disk."""
    folder = Path("/var/tmp") / f"sandbox-kernel-test-{os.getpid()}"
    folder.mkdir(mode=0o755)
    file = folder / "file"
    file.write_bytes(os.urandom(3 * MIB))
    numbers = f"{os.major(folder.stat().st_dev)}:{os.minor(folder.stat().st_dev)}"
    name = Path(f"/sys/dev/block/{numbers}").resolve().name
    os.sync()
    try:
        yield folder, f"/dev/{name}"
    finally:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


@pytest.mark.root
def test_device_read_bps(disk: tuple[Path, str]) -> None:
    folder, device = disk
    mount = f"{folder}:/data:ro"
    with Sandbox(mount=mount, device_read_bps=f"{device}:1m") as made:
        assert made.limits()["device_read_bps"][0].endswith(f" {MIB}")
        begin = time.monotonic()
        assert made.run(READ).stdout == f"{3 * MIB}\n"
        assert time.monotonic() - begin > 1.5
        made.set_limits(device_read_bps=f"{device}:1g")
        begin = time.monotonic()
        assert made.run(READ).stdout == f"{3 * MIB}\n"
        assert time.monotonic() - begin < 1.5


@pytest.mark.root
def test_device_write_bps(disk: tuple[Path, str]) -> None:
    folder, device = disk
    with Sandbox(mount=f"{folder}:/data", device_write_bps=f"{device}:1m") as made:
        assert made.limits()["device_write_bps"][0].endswith(f" {MIB}")
        begin = time.monotonic()
        assert made.run(WRITE).stdout == "written\n"
        assert time.monotonic() - begin > 1.5


def test_a_device_that_is_none_is_refused() -> None:
    for asked in ("/dev/nothing:1m", "/dev/null:1m"):
        with pytest.raises(errors.InvalidOption, match="--device-read-bps"):
            engine.run("print('started')", device_read_bps=asked)
