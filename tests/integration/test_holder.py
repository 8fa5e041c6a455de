"""The warm holder: a kernel is ready before it is asked for, and nothing depends on it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import kernels
import psutil
import pytest
from awaiting import until

import sandbox_kernel
from sandbox_kernel.runtime import client

pytestmark = pytest.mark.everybody


@pytest.fixture(autouse=True)
def _none_before() -> Iterator[None]:
    client.stop_holder()
    yield
    client.stop_holder()


def holder_pool() -> list[dict]:
    found = client.find_holder()
    return found.pool() if found else []


def one_is_ready() -> bool:
    return any(template["ready"] for template in holder_pool())


def first_kernel() -> None:
    """It starts the holder, which then has one ready."""
    with kernels.started(holder=True) as kernel:
        assert kernels.text_of(kernel.run("print(1)")[1]) == "1\n"
        until(one_is_ready, why=holder_pool)


def container_of(kernel: kernels.Kernel) -> str:
    return kernels.text_of(kernel.run("import socket; print(socket.gethostname())")[1]).strip()


def test_a_kernel_finds_one_ready_and_it_is_a_fresh_one() -> None:
    first_kernel()
    seen = set()
    for _ in range(3):
        until(one_is_ready, why=holder_pool)
        with kernels.started(holder=True) as kernel:
            # No launcher of its own: what it runs in was there.
            assert psutil.Process(kernel.pid).children() == []
            assert kernels.text_of(kernel.run("print('left' in globals())")[1]) == "False\n"
            kernel.run("left = 1; open('/tmp/left', 'w').close()")
            assert "512" in str(kernel.run("%sandbox")[1])  # its limits, read back
            seen.add(container_of(kernel))
    assert len(seen) == 3


def test_limits_of_a_kernel_that_was_ready_are_its_own() -> None:
    with kernels.started(holder=True, memory="128m") as kernel:
        kernel.run("pass")
        until(one_is_ready, why=holder_pool)
    with kernels.started(holder=True, memory="128m") as kernel:
        reply, outputs = kernel.run("block = bytearray(512 << 20)")
        assert reply["content"]["ename"] == "OutOfMemory"
        assert "128 MiB" in str(outputs)


@pytest.mark.fault(3)
def test_a_killed_holder_ends_its_kernels_with_the_cause_and_the_next_start_is_whole() -> None:
    first_kernel()
    with kernels.started(holder=True) as kernel:
        kernel.run("x = 1")
        found = client.find_holder()
        assert found is not None
        (launcher,) = (
            process
            for process in psutil.process_iter(["cmdline"])
            if found.folder.rpartition("/")[2] in " ".join(process.info["cmdline"] or [])
        )
        asked = kernel.client.execute("import time; time.sleep(60)")
        kernel.wait_for("execute_input", "sleep(60)")
        launcher.kill()
        reply, _ = kernel.finish(asked)
        assert reply["content"]["ename"] == "Killed"
        assert "the launcher ended" in reply["content"]["evalue"]

    first_kernel()
    until(one_is_ready, why=holder_pool)


def test_the_command_shows_warms_and_stops_the_holder() -> None:
    def pool(*words: str) -> str:
        command = [sys.executable, "-m", "sandbox_kernel.cli.main", "pool", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    assert "no warm holder" in pool("status")
    pool("warm")
    until(one_is_ready, why=holder_pool)
    (template,) = json.loads(pool("status", "--format", "json"))
    assert template["ready"] >= 1
    assert "ipykernel.kernelapp" in template["modules"]
    pool("stop")
    assert client.find_holder() is None
    assert "no warm holder" in pool("status")


@pytest.mark.whoever
@pytest.mark.fault(25)
def test_an_upgraded_package_does_not_speak_to_the_holder_of_before(tmp_path: Path) -> None:
    def pool(word: str, folder: Path) -> str:
        code = f"import sys; sys.argv[1:] = ['pool', {word!r}]; from sandbox_kernel.cli import main"
        command = [sys.executable, "-c", f"{code}; sys.exit(main.main())"]
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        return subprocess.run(
            command, check=True, capture_output=True, text=True, env=environment, cwd=folder
        ).stdout

    package = Path(sandbox_kernel.__file__).parent
    pool("warm", package.parent)
    before = client.find_holder()
    assert before is not None
    upgraded = tmp_path / "sandbox_kernel"
    shutil.copytree(package, upgraded, ignore=shutil.ignore_patterns("__pycache__"))
    assert "no warm holder" in pool("status", tmp_path)
    pool("warm", tmp_path)
    assert "no warm holder" not in pool("status", tmp_path)
    pool("stop", tmp_path)
    found = client.find_holder()
    assert found is not None
    assert found.folder == before.folder
