"""Every limit on containers with cgroup v2, as root and as a user with a delegated subtree."""

from __future__ import annotations

import os
import subprocess
import sysconfig
import tempfile
import textwrap
import time
from pathlib import Path

import pytest
from limit_promises import *  # noqa: F403
from ordinary_cgroup_user import SYSTEM_PYTHON

import sandbox_kernel
from sandbox_kernel.runtime import client
from sandbox_kernel.runtime.cgroups import delegation

pytestmark = pytest.mark.everybody

CHECKOUT = Path(__file__).resolve().parents[3]


def test_the_driver_is_that_of_v2() -> None:
    assert client.shared().about["driver"] == "v2"


def test_cells_are_forked_into_containers_with_limits_of_their_own() -> None:
    options = {"warm": ["decimal"], "memory": "128m", "pids_limit": 32}
    for _ in range(2):
        sandbox_kernel.run("pass", **options).check()
    end = time.monotonic() + 120
    while not any(template["ready"] for template in client.shared().pool()):
        assert time.monotonic() < end, client.shared().pool()
        time.sleep(0.1)

    result = sandbox_kernel.run("import sys; print('decimal' in sys.modules)", **options).check()

    assert result.stdout == "True\n"
    assert result.limits["memory"] == 128 << 20
    assert result.limits["pids_limit"] == 32
    client.stop_pool()


def test_a_file_larger_than_the_memory_is_no_end_of_memory() -> None:
    """Its copies in memory reach the limit, are dropped, and the kernel tells of each time."""
    code = """
        with open("/data/large", "wb") as file:
            for _ in range(96):
                file.write(bytes(1 << 20))
    """
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        mount = [f"source={folder},target=/data"]
        sandbox_kernel.run(textwrap.dedent(code), memory="64m", mount=mount).check()
        assert os.path.getsize(f"{folder}/large") == 96 << 20


@pytest.mark.root
def test_all_of_it_works_for_an_ordinary_user_with_a_delegated_subtree() -> None:
    """This module again, as `tester`, with the system's Python and the packages of the tests."""
    *commands, put_in = delegation.commands("tester", systemd=False)
    subprocess.run(["/bin/sh", "-e", "-c", "\n".join(commands)], check=True)
    place = Path(put_in.partition("> ")[2]).parent
    packages = f"{CHECKOUT}:{sysconfig.get_path('purelib')}"
    environment = [f"PYTHONPATH={packages}", "LANG=C.UTF-8", f"HOME={Path.home()}"]
    environment.append("SANDBOX_KERNEL_TEST_MACHINE=cgroup2")
    Path("/tmp/tester").mkdir()
    os.chmod("/tmp/tester", 0o777)
    words = [
        *("/usr/bin/setpriv", "--reuid", "tester", "--regid", "tester", "--init-groups"),
        *(
            "--reset-env",
            "--",
            "/usr/bin/env",
            *environment,
            "HOME=/tmp/tester",
            SYSTEM_PYTHON,
            "-B",
        ),
    ]

    def run(group: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        move_in = 'echo $$ > "$0"; exec "$@"'
        return subprocess.run(
            ["/bin/sh", "-c", move_in, str(group / "cgroup.procs"), *words, *arguments],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )

    # The first launcher makes the group that user processes then live in; it stays.
    first = run(
        place, "-c", "from sandbox_kernel.runtime import client; print(client.shared().about)"
    )
    assert "'driver': 'v2'" in first.stdout, first.stderr
    done = run(place / "launcher", "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__)
    (place / "launcher").rmdir()
    place.rmdir()
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
