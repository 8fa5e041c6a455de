"""What is mounted on the machine while a launcher runs: who sees it, and who lets it go again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# The launcher is that of this program, in a mount namespace whose mounts have peers, as systemd's.
PROGRAM = """
import subprocess, sys
import sandbox_kernel
from sandbox_kernel.runtime import client

folder = sys.argv[1]
mounts = [f"{folder}:/seen"]
disk = f"{folder}/disk"
look = "import os; print(os.listdir('/seen/disk'))"

def launcher_has_it():
    with open(f"/proc/{client.shared().pid}/mountinfo") as lines:
        return any(disk in line for line in lines)

with sandbox_kernel.Sandbox(mount=mounts) as before:
    print(before.run(look).stdout, end="")
    subprocess.run(["mount", "-t", "tmpfs", "none", disk], check=True)
    open(f"{disk}/file", "w").close()
    print(before.run(look).stdout, end="")
    print(sandbox_kernel.run(look, mount=mounts).check().stdout, end="")
    print(launcher_has_it())
    subprocess.run(["umount", disk], check=True)
    print(launcher_has_it())
"""


@pytest.mark.root
def test_a_disk_of_later_is_seen_by_containers_of_later_and_can_be_taken_away(
    tmp_path: Path,
) -> None:
    (tmp_path / "disk").mkdir()
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", 'mount --make-rshared / && exec "$@"', "sh",
         sys.executable, "-c", PROGRAM, str(tmp_path)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["[]", "[]", "['file']", "True", "False"], done.stderr
