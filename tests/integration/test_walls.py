"""`--runtime`: the same plan behind the walls of another OCI runtime."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest
from commands import COMMAND, command, output_of
from kernels import started

import sandbox_kernel
from sandbox_kernel import container, errors, policy
from sandbox_kernel.runtime import client, walls

RUNTIMES = ("runc", "runsc")
each_runtime = pytest.mark.parametrize("runtime", (*RUNTIMES, "vm"))
FACTS = """
import ctypes, json, os
status = dict(line.split(':', 1) for line in open('/proc/self/status'))
libc = ctypes.CDLL(None, use_errno=True)
facts = {
    'capabilities': [int(status.get('Cap' + k, '0'), 16) for k in ('Eff', 'Prm', 'Bnd', 'Amb')],
    'seccomp': int(status.get('Seccomp', 0)), 'gains': libc.prctl(39, 0, 0, 0, 0),
    'first': open('/proc/1/comm').read().strip(), 'uid': os.getuid(),
    'home': os.path.exists('/root/.bashrc'),
    'unshare': libc.unshare(0x10000000), 'mount': libc.mount(b'x', b'/tmp', b'tmpfs', 0, b''),
    'descriptors': sorted(int(n) for n in os.listdir('/proc/self/fd')),
    'masked': not os.path.exists('/proc/interrupts') or not open('/proc/interrupts').read(1),
    'shown': os.path.exists('/sys/fs/cgroup/memory'),
    'host': (open('/proc/self/uid_map').read().split() or ['', ''])[1],
    'kernel': os.uname().release,
}
"""


@pytest.fixture(scope="module", params=RUNTIMES)
def sandbox(request: pytest.FixtureRequest) -> Iterator[sandbox_kernel.Sandbox]:
    """One container of each for all that fits in one."""
    with sandbox_kernel.Sandbox(runtime=request.param, memory="256m", pids_limit=100) as made:
        made.run("pass", files={"given": b""}, check=True)  # an agent stays from here on
        yield made
    client.end_shared()


def test_a_cell_has_the_walls_that_the_plan_names(sandbox: sandbox_kernel.Sandbox) -> None:
    facts = sandbox.run(FACTS, outputs=["facts"], check=True).outputs["facts"]
    assert facts["capabilities"] == [0, 0, 0, 0]
    assert (facts["gains"], facts["home"], facts["uid"]) == (1, False, 0)
    assert set(facts["descriptors"]) <= set(range(9))
    assert facts["masked"] and not facts["shown"]
    if sandbox.plan.runtime == "runsc":  # a kernel of its own, which is not this machine's
        assert facts["kernel"] != os.uname().release
    else:
        assert facts["host"] != "0"  # root inside is nobody outside
        assert (facts["unshare"], facts["mount"]) == (-1, -1)
        assert (facts["seccomp"], facts["first"]) == (2, "sandbox-init")


@pytest.mark.everybody
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


@each_runtime
def test_memory_over_the_limit_ends_the_cell_and_says_so(runtime: str) -> None:
    result = sandbox_kernel.run("b = bytearray(512 << 20)", runtime=runtime, memory="128m")
    # Where the whole machine is as large as the limit, its kernel refuses before ours ends it.
    name = "MemoryError" if runtime == "vm" else "OutOfMemory"
    assert result.error is not None and result.error.name == name


@each_runtime
def test_a_timeout_ends_the_code(runtime: str) -> None:
    result = sandbox_kernel.run("while True: pass", runtime=runtime, timeout="1s")
    assert result.error is not None and result.error.name == "TimedOut"


@each_runtime
def test_the_command_passes_status_streams_and_mounts_on(runtime: str, tmp_path: Path) -> None:
    (tmp_path / "note").write_text("from outside")
    tmp_path.chmod(0o755)
    words = ["run", "--runtime", runtime, "--mount", f"{tmp_path}:/data", "--user", "7:8",
             "--workdir", "/data", "--env", "X=y", "host"]  # fmt: skip
    script = "cat note; echo $X; id -u; id -g; pwd; echo oh >&2; exit 7"
    done = command(*words, "sh", "-c", script)
    assert (done.returncode, done.stderr) == (7, "oh\n")
    assert done.stdout == "from outsidey\n7\n8\n/data\n"
    assert command(*words, "no-such-program").returncode == 127
    assert command(*words, "/data/note").returncode == 126


@each_runtime
def test_a_kernel_takes_it_when_the_user_lets_it(
    runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sandbox-kernel").mkdir()
    settings = tmp_path / "sandbox-kernel/config.toml"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with pytest.raises(errors.NotAllowed, match="embedded"):
        policy.plan(runtime=runtime)
    settings.write_text(f'[ceiling]\nruntime = ["embedded", "{runtime}"]\n')
    policy.plan(runtime=runtime)
    with started(runtime=runtime) as running:
        reply, outputs = running.run("x = 20; print(open('/proc/self/uid_map').read())\nx + 1")
        assert reply["content"]["status"] == "ok" and "'21'" in str(outputs)
        interrupted = running.client.execute("print('on', flush=True)\nwhile True: pass")
        running.wait_for("stream", "on")
        running.control("interrupt_request", {})
        assert running.finish(interrupted)[0]["content"]["ename"] == "KeyboardInterrupt"
        assert running.run("x")[0]["content"]["status"] == "ok"


@pytest.mark.everybody
def test_a_cell_in_a_machine_of_its_own() -> None:
    """Another kernel, which is as large as the limit, with all that a cell is given."""
    code = f"""{FACTS}
facts['memory'] = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
facts['files'] = os.listdir('/.sandbox-passed') if os.access('/.sandbox-passed', 7) else 'none'
total = array.sum(); bigger = array * 2
with open('out', 'w') as file: file.write(open('in').read() * 2)
"""
    array = numpy.arange(5000)
    with sandbox_kernel.Sandbox(runtime="vm", memory="256m", user="7:8", workdir="/tmp") as made:
        result = made.run(
            code,
            inputs={"array": array},
            files={"in": b"text"},
            outputs=["facts", "bigger"],
            files_out=["out"],
        )
        later = made.run("print(open('out').read()); 1 / 0")
    assert result.error is None, result.error.traceback
    assert later.error is not None and later.error.name == "ZeroDivisionError"
    assert later.stdout == "texttext\n"
    facts = result.outputs["facts"]
    assert facts["kernel"] != os.uname().release
    assert facts["capabilities"] == [0, 0, 0, 0]
    assert (facts["gains"], facts["home"], facts["uid"], facts["files"]) == (1, False, 7, "none")
    assert 128 << 20 < facts["memory"] < 256 << 20
    assert (result.outputs["bigger"] == array * 2).all() and result.files == {"out": b"texttext"}


@pytest.mark.parametrize("runtime", walls.OWN_KERNEL)
def test_what_a_kernel_of_its_own_can_t_enforce_is_refused_by_the_option(runtime: str) -> None:
    refused = [({"network": "bridge"}, "--network"), ({"pids_limit": 20}, "--pids-limit")]
    if runtime == "vm":
        refused.append(({"memory": "64m"}, "--memory"))
    for options, named in refused:
        with pytest.raises(errors.InvalidOption, match=named):
            sandbox_kernel.run("1", runtime=runtime, **options)


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


@pytest.mark.parametrize(
    ("runtime", "victim"),
    [("runc", "launcher"), ("runsc", "keeper"), ("runsc", "launcher"), ("vm", "keeper")],
)
def test_whoever_is_killed_nothing_stays(runtime: str, victim: str) -> None:
    program = subprocess.Popen(
        [*COMMAND, "run", "--runtime", runtime, "--name", "killed", "host", "sleep", "1000"],
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
        # A keeper that is just starting the wall has a child of its name.
        pid = min(pid for pid, name in outside.items() if name == names[victim])
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
