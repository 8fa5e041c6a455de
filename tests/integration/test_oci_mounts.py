"""The OCI command line: what is mounted, seen from inside and from the machine around it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from commands import COMMAND
from oci_bundles import Bundle

# A mount namespace whose mounts all have peers, as systemd makes them, and what is mounted in it
# before and after a command. The command's own status is the script's.
SHARED = """
mount --make-rshared /
cat /proc/self/mountinfo >"$1/before"
folder=$1; shift
"$@"
status=$?
cat /proc/self/mountinfo >"$folder/after"
exit $status
"""


def on_a_shared_machine(folder: Path, argv: list[str]) -> subprocess.CompletedProcess[str]:
    """Run it where `/` is shared; what it mounted may not be left there."""
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", SHARED, "sh", str(folder), *argv],
        capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (folder / "after").read_text() == (folder / "before").read_text()
    return done


def test_a_machine_whose_mounts_are_shared_sees_none_of_a_container(
    bundle: Bundle, tmp_path: Path
) -> None:
    (tmp_path / "source").mkdir()
    config = bundle.config("grep", "-c", "shared:", "/proc/self/mountinfo")
    config["mounts"] += [
        {"destination": "/bound", "type": "bind", "source": str(tmp_path / "source"),
         "options": ["rbind"]},
        {"destination": "/bound/in", "type": "tmpfs", "source": "tmpfs"},
    ]  # fmt: skip
    bundle.write(config)
    (tmp_path / "source/in").mkdir()
    argv = [*bundle.argv, "run", "--bundle", str(bundle.folder), "one"]
    done = on_a_shared_machine(tmp_path, argv)
    assert (done.stdout, done.stderr) == ("0\n", "")


@pytest.mark.parametrize("more", [(), ("--strict",)])
def test_the_embedded_runtime_leaves_none_there_either(
    tmp_path: Path, more: tuple[str, ...]
) -> None:
    (tmp_path / "source").mkdir()
    argv = [*COMMAND, "run", *more, "--volume", f"{tmp_path}/source:/bound", "host", "sh", "-c",
            "grep -c shared: /proc/self/mountinfo"]  # fmt: skip
    done = on_a_shared_machine(tmp_path, argv)
    assert (done.stdout, done.stderr) == ("0\n", "")
