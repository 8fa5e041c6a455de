"""`--runtime`: the same plan behind the walls of another OCI runtime."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import COMMAND, command, output_of
from kernels import started

import sandbox_kernel
from sandbox_kernel import container, errors, policy
from sandbox_kernel.runtime import client, walls

RUNTIME = "runc"
FACTS = """
import ctypes, json, os
status = dict(line.split(':', 1) for line in open('/proc/self/status'))
libc = ctypes.CDLL(None, use_errno=True)
facts = {
    'capabilities': [int(status['Cap' + kind], 16) for kind in ('Eff', 'Prm', 'Bnd', 'Amb')],
    'seccomp': int(status['Seccomp']), 'gains': int(status['NoNewPrivs']),
    'first': open('/proc/1/comm').read().strip(), 'uid': os.getuid(),
    'links': sorted(os.listdir('/sys/class/net')), 'home': os.path.exists('/root/.bashrc'),
    'unshare': libc.unshare(0x10000000), 'mount': libc.mount(b'x', b'/tmp', b'tmpfs', 0, b''),
    'descriptors': sorted(int(n) for n in os.listdir('/proc/self/fd')),
    'masked': open('/proc/interrupts', 'rb').read(1) == b'', 'shown': os.listdir('/sys/fs/cgroup'),
    'host': open('/proc/self/uid_map').read().split()[1],
}
"""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[sandbox_kernel.Sandbox]:
    """One container of runc for all that fits in one."""
    with sandbox_kernel.Sandbox(runtime=RUNTIME, memory="256m", pids_limit=64) as made:
        made.run("pass", files={"given": b""}, check=True)  # an agent stays from here on
        yield made
    client.end_shared()


def test_a_cell_has_the_walls_that_the_plan_names(sandbox: sandbox_kernel.Sandbox) -> None:
    facts = sandbox.run(FACTS, outputs=["facts"], check=True).outputs["facts"]
    assert facts["capabilities"] == [0, 0, 0, 0]
    assert (facts["seccomp"], facts["gains"], facts["first"]) == (2, 1, "sandbox-init")
    assert (facts["links"], facts["home"], facts["uid"]) == (["lo"], False, 0)
    assert (facts["unshare"], facts["mount"]) == (-1, -1)
    assert set(facts["descriptors"]) <= set(range(9))
    assert facts["masked"] and facts["shown"] == []
    assert facts["host"] != "0"  # root inside is nobody outside


def test_values_displays_and_files_cross_as_with_our_own(sandbox: sandbox_kernel.Sandbox) -> None:
    code = (
        "print('out')\nimport sys; print('err', file=sys.stderr)\nb = a * 2\n"
        "with open('f', 'w') as file: file.write('x')\nb"
    )
    result = sandbox.run(code, inputs={"a": 21}, outputs=["b"], files_out=["f"], check=True)
    assert (result.stdout, result.stderr, result.text) == ("out\n", "err\n", "42")
    assert (result.outputs, result.files) == ({"b": 42}, {"f": b"x"})


def test_limits_are_those_of_the_plan_and_change_while_it_lives(
    sandbox: sandbox_kernel.Sandbox,
) -> None:
    assert sandbox.container.limits()["memory"] == 256 << 20
    assert sandbox.container.set_limits(memory="300m")["memory"] == 300 << 20


def test_memory_over_the_limit_ends_the_cell_and_says_so() -> None:
    result = sandbox_kernel.run("b = bytearray(512 << 20)", runtime=RUNTIME, memory="128m")
    assert result.error is not None and result.error.name == "OutOfMemory"


def test_an_interrupt_and_a_timeout_end_the_code() -> None:
    result = sandbox_kernel.run("while True: pass", runtime=RUNTIME, timeout="300ms")
    assert result.error is not None and result.error.name == "TimedOut"


def test_the_command_passes_status_streams_and_mounts_on(tmp_path: Path) -> None:
    (tmp_path / "note").write_text("from outside")
    tmp_path.chmod(0o755)
    words = ["run", "--runtime", RUNTIME, "--mount", f"{tmp_path}:/data", "--user", "7:8",
             "--workdir", "/data", "--env", "X=y", "host"]  # fmt: skip
    script = "cat note; echo $X; id -u; id -g; pwd; echo oh >&2; exit 7"
    done = command(*words, "sh", "-c", script)
    assert (done.returncode, done.stderr) == (7, "oh\n")
    assert done.stdout == "from outsidey\n7\n8\n/data\n"
    assert command(*words, "no-such-program").returncode == 127
    assert command(*words, "/data/note").returncode == 126


def test_a_kernel_and_a_magic_take_it_when_the_user_lets_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sandbox-kernel").mkdir()
    settings = tmp_path / "sandbox-kernel/config.toml"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with pytest.raises(errors.NotAllowed, match="embedded"):
        policy.plan(runtime=RUNTIME)
    settings.write_text(f'[ceiling]\nruntime = ["embedded", "{RUNTIME}"]\n')
    policy.plan(runtime=RUNTIME)
    with started(runtime=RUNTIME) as running:
        reply, outputs = running.run("x = 20; print(open('/proc/1/comm').read())\nx + 1")
        assert reply["content"]["status"] == "ok"
        assert "sandbox-init" in str(outputs) and "'21'" in str(outputs)
        interrupted = running.client.execute("while True: pass")
        running.wait_for("execute_input")
        running.control("interrupt_request", {})
        assert running.finish(interrupted)[0]["content"]["ename"] == "KeyboardInterrupt"
        assert running.run("x")[0]["content"]["status"] == "ok"


def test_what_is_not_here_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walls, "FOLDERS", ("/nowhere",))
    with pytest.raises(errors.HostLacks, match="apt-get install crun"):
        sandbox_kernel.run("1", runtime="crun")
    assert walls.found()["runc"]


def test_a_runtime_that_others_may_change_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runc").write_text("#!/bin/sh\n")
    (tmp_path / "runc").chmod(0o777)
    monkeypatch.setattr(walls, "FOLDERS", (str(tmp_path),))
    with pytest.raises(errors.HostLacks, match="chmod go-w"):
        walls.find("runc")


@pytest.mark.parametrize("victim", ["launcher", "keeper"])
def test_whoever_is_killed_nothing_stays(victim: str) -> None:
    program = subprocess.Popen(
        [*COMMAND, "run", "--runtime", RUNTIME, "--name", "killed", "host", "sleep", "1000"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 30
        while not (found := [c for c in container.list_all() if _is_there(c)]):
            assert time.monotonic() < deadline, "it did not start"
            time.sleep(0.02)
        outside = _processes_of(program.pid)
        names = {"launcher": "sandbox-launch", "keeper": "sandbox-keeper"}
        (pid,) = [pid for pid, name in outside.items() if name == names[victim]]
        first = found[0].pid
        assert first
        os.kill(pid, signal.SIGKILL)
        assert program.wait(30) != 0
        while os.path.exists(f"/proc/{first}") or _processes_of(program.pid):
            assert time.monotonic() < deadline, "something of it lives on"
            time.sleep(0.02)
    finally:
        program.kill()
        program.wait()
        assert program.stderr is not None
        program.stderr.close()
    output_of("run", "host", "true")  # the next start takes away what is left


def _is_there(listed: container.Listed) -> bool:
    return listed.name == "killed" and listed.state == "running" and bool(listed.pid)


def _processes_of(root: int) -> dict[int, str]:
    """Processes below one, with their names."""
    parents, names = {}, {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(") ")
            except OSError:
                continue
            names[int(entry)] = fields[0].partition("(")[2]
            parents[int(entry)] = int(fields[2].split()[1])
    below: dict[int, str] = {}
    for pid in parents:
        at = pid
        while at in parents and at != root:
            at = parents[at]
        if at == root and pid != root:
            below[pid] = names[pid]
    return below
