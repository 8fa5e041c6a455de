"""Whatever is killed by SIGKILL while cells run: nothing is left, nobody else is hurt, all goes on.

A hundred kills: eight Jupyter servers, eight each of relays, launchers, makers, pid 1 and kernels
inside; then 52 of launchers, makers, pid 1 and cells of a program, at moments from the first system
call on.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import kernels
import leftovers
import psutil
import pytest
from jupyter_servers import JupyterServer

import sandbox_kernel
from sandbox_kernel import engine, errors, policy
from sandbox_kernel.container.cell import CellRequest
from sandbox_kernel.runtime import client, state

pytestmark = pytest.mark.root  # makes groups and processes of a stranger
SERVERS = 8
CELLS = 52
GONE_SECONDS = 10.0
BUSY = """\
import os, time
for _ in range(2):
    if os.fork() == 0:
        os.setsid()
        time.sleep(600)
print('on', flush=True)
while True:
    time.sleep(0.01)
    print('and on')
"""
BYSTANDER = """\
import sys, sandbox_kernel
with sandbox_kernel.Sandbox() as sandbox:
    sandbox.run("open('note', 'w').write('mine')", check=True)
    print(sandbox.container.pid, flush=True)
    sys.stdin.readline()
    print(sandbox.run("print(open('note').read())", check=True).stdout)
"""


@pytest.fixture
def bystander() -> Iterator[None]:
    """Another program with a container, and a stranger's process in a stranger's group."""
    program = subprocess.Popen(
        [sys.executable, "-c", BYSTANDER],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert program.stdin
    assert program.stdout
    init = psutil.Process(int(program.stdout.readline()))
    stranger = psutil.Popen(["sleep", "600"])
    groups = [Path(top).parent / f"stranger-{os.getpid()}" for top in _tops()]
    for group in groups:
        group.mkdir()
        with contextlib.suppress(OSError):  # cpuset takes nobody before it is set up
            (group / "cgroup.procs").write_text(str(stranger.pid))
    try:
        yield
        assert init.is_running()
        assert program.communicate("go on\n", timeout=30)[0] == "mine\n\n"
        assert stranger.is_running()
        assert all(group.is_dir() for group in groups)
    finally:
        stranger.kill()
        stranger.wait()
        program.kill()
        program.wait()
        for group in groups:
            group.rmdir()


def _tops() -> set[str]:
    """The top-level directory of ours in each hierarchy of control groups."""
    sandbox_kernel.run("pass").check()
    with sandbox_kernel.Sandbox() as sandbox:
        paths = sandbox.container.cgroup_paths().values()
    return {path[: path.index("/sandbox-kernel") + len("/sandbox-kernel")] for path in paths}


def gone(processes: list[psutil.Process]) -> None:
    """All of them end, by themselves."""
    _, alive = psutil.wait_procs(processes, timeout=GONE_SECONDS)
    assert not alive


def nothing_left(before: leftovers.Snapshot) -> None:
    """After the next start, which works."""
    code = "import sandbox_kernel; print(sandbox_kernel.run('6 * 7').check().text)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "42\n"
    assert leftovers.settled(leftovers.keeper_pid(), before, program=os.getpid()) == []
    runtime = Path(state.runtime_folder())
    assert not list(runtime.glob("relay-*"))
    leases = {file.stat().st_ino for file in (runtime / "ids").glob("*")}
    for line in Path("/proc/locks").read_text().splitlines():
        _, kind, *_, pid, place, _, _ = line.split()
        if kind == "FLOCK" and int(place.split(":")[2]) in leases:
            assert psutil.pid_exists(int(pid)), f"the lease {line} has no living owner"


@pytest.mark.fault(2)
@pytest.mark.fault(3)
@pytest.mark.timeout(180)
def test_a_killed_server_relay_launcher_pid_1_or_kernel_leaves_nothing(
    tmp_path: Path, bystander: None
) -> None:
    kernels.install(tmp_path, "sandbox")
    before = leftovers.take(leftovers.keeper_pid(), program=os.getpid())
    with contextlib.ExitStack() as servers:
        coming = _server(tmp_path, 0, servers)
        for number in range(1, SERVERS + 1):
            server, coming = coming, _server(tmp_path, number, servers)
            server.wait()
            with contextlib.ExitStack() as clients:
                chains = _busy_kernels(server, clients)
                everybody = [process for chain in chains for process in chain[0].children(True)]
                for which, chain in enumerate(chains):
                    below = chain[0].children(recursive=True)
                    chain[which].kill()
                    gone([process for process in below if process not in chain[:which]])
                server.kill()
                gone(everybody)

    nothing_left(before)


def _server(folder: Path, number: int, servers: contextlib.ExitStack) -> JupyterServer:
    """The next one starts while this one is at work."""
    server = JupyterServer(folder / f"server-{number}", folder)
    servers.callback(server.kill)
    return server


def _busy_kernels(server: JupyterServer, clients: contextlib.ExitStack) -> list:
    """Relay, launcher, maker, pid 1 and ipykernel of five kernels, each of which runs a cell."""
    names = [server.start_kernel("sandbox") for _ in range(5)]
    chains = []
    for name in names:
        one = clients.enter_context(server.client(name))
        one.execute(BUSY)
        while "on\n" not in str(one.get_iopub_msg(timeout=30)["content"].get("text")):
            pass
        chain = [server.relay(name)]
        while len(chain) < 3:
            chain.append(chain[-1].children()[0])
        chain += chain[-1].children()
        chains.append(chain)
    return chains


@pytest.mark.fault(1)
@pytest.mark.timeout(120)
def test_a_launcher_pid_1_or_cell_killed_at_any_moment_leaves_nothing(bystander: None) -> None:
    sandbox_kernel.run("pass").check()
    before = leftovers.take(leftovers.keeper_pid(), program=os.getpid())
    for number in range(CELLS):
        ended: list[object] = []
        thread = threading.Thread(target=_run_a_cell, args=(ended,), daemon=True)
        thread.start()
        thread.join(number / CELLS * 0.08)
        deadline = time.monotonic() + 30
        while thread.is_alive():  # what was killed may have been a passing helper
            assert time.monotonic() < deadline
            with contextlib.suppress(psutil.NoSuchProcess):
                launcher = psutil.Process(client.shared().pid)
                chain = [launcher, *launcher.children(recursive=True)]
                chain[min(number % 4, len(chain) - 1)].kill()
            thread.join(2)
        assert isinstance(ended[0], errors.SandboxError), ended

    client.stop_pool()  # what the launcher that lives now has begun to keep ready
    nothing_left(before)
    assert sandbox_kernel.run("6 * 7").text == "42"


def _run_a_cell(ended: list[object]) -> None:
    try:
        running = engine.start(policy.plan("program"), CellRequest(code=BUSY))
        found = [event.failure for event in running if hasattr(event, "failure")]
        ended.append(found[-1] if found else None)
    except errors.SandboxError as error:
        ended.append(error)
