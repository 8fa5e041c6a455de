"""Faults that have to do with control groups, on v2: see tests/faults.py."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest

import sandbox_kernel
from sandbox_kernel import errors
from sandbox_kernel.runtime import client

SECONDS = 60.0


@pytest.mark.fault(1)
def test_a_launcher_that_is_killed_takes_its_containers_with_it_and_the_next_sweeps_v2() -> None:
    with sandbox_kernel.Sandbox() as sandbox:
        (group,) = map(Path, sandbox.container.cgroup_paths().values())
        assert group.is_dir()
        launcher = psutil.Process(client.shared().pid)
        below = launcher.children(recursive=True)
        launcher.kill()
        assert psutil.wait_procs(below, timeout=SECONDS)[1] == []
        with pytest.raises(errors.SandboxError):
            sandbox.run("6 * 7", check=True)
    assert sandbox_kernel.run("6 * 7").check().text == "42"
    assert not group.exists()


@pytest.mark.fault(4)
def test_a_cell_that_stopped_itself_is_ended_at_its_time_on_v2() -> None:
    found = sandbox_kernel.run(
        "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", timeout="3s"
    )
    assert found.error is not None
    assert found.error.name == "TimedOut"


@pytest.mark.fault(19)
@pytest.mark.parametrize("what", ["frozen", pytest.param("moved", marks=pytest.mark.root)])
def test_a_container_that_somebody_else_froze_or_moved_can_be_ended_on_v2(what: str) -> None:
    with sandbox_kernel.Sandbox(stop_timeout="500ms") as sandbox:
        inside = psutil.Process(sandbox.container.pid)
        (group,) = map(Path, sandbox.container.cgroup_paths().values())
        if what == "frozen":
            (group / "cgroup.freeze").write_text("1")
        else:
            (group.parents[1] / "cgroup.procs").write_text(str(inside.pid))
        begin = time.monotonic()
    assert time.monotonic() - begin < SECONDS
    assert psutil.wait_procs([inside], timeout=SECONDS)[1] == []
    assert not group.exists()
