"""`--strict`: each of its walls is tried from inside, with it and without, cold and forked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kernels
import pytest
from awaiting import until

import sandbox_kernel
from sandbox_kernel import container, errors, policy
from sandbox_kernel.container.process import ProcessSpec
from sandbox_kernel.linux import landlock
from sandbox_kernel.runtime import client

COMMAND = str(Path(sys.executable).with_name("sandbox-kernel"))

TRIED = r"""
import ctypes, errno, json, os, socket
libc = ctypes.CDLL(None, use_errno=True)
pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
libc.mmap.restype = libc.shmat.restype = pointer
libc.mmap.argtypes = (pointer, size, number, number, number, ctypes.c_long)
libc.mprotect.argtypes = (pointer, size, number)

def c(result):
    if ctypes.c_long(result or 0).value == -1:
        raise OSError(ctypes.get_errno(), 'failed')
    return result

def tried(do):
    try:
        do()
    except OSError as error:
        return errno.errorcode[error.errno]
    return 'ok'

def protected():
    c(libc.mprotect(c(libc.mmap(None, 4096, 3, 0x22, -1, 0)), 4096, 5))

def moved():
    os.makedirs('/tmp/one')
    open('/tmp/one/file', 'w').close()
    os.rename('/tmp/one/file', '/tmp/file')
    os.link('/tmp/file', '/tmp/one/again')

def library():
    name = next(line.split()[-1] for line in open('/proc/self/maps') if 'libc' in line)
    file = os.open(name, os.O_RDONLY)
    c(libc.mmap(None, 4096, 5, 2, file, 0))

callback = ctypes.CFUNCTYPE(number, number)(lambda value: value + 1)
import numpy
facts = {
    'write and execute': tried(lambda: c(libc.mmap(None, 4096, 7, 0x22, -1, 0))),
    'anonymous executed': tried(lambda: c(libc.mmap(None, 4096, 5, 0x22, -1, 0))),
    'written, then executed': tried(protected),
    'shared executed': tried(lambda: c(libc.shmat(c(libc.shmget(0, 4096, 0o700)), None, 0x8000))),
    'memory file': tried(lambda: os.memfd_create('code')),
    'TCP': tried(lambda: socket.socket(socket.AF_INET)),
    'TCP 6': tried(lambda: socket.socket(socket.AF_INET6)),
    'netlink': tried(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)),
    'own text written': tried(lambda: open('/proc/self/mem', 'r+b')),
    'pid 1 seen': str('1' in os.listdir('/proc')),
    'machine seen': str(bool(open('/proc/zoneinfo').read(1))),
    'memory': tried(lambda: c(libc.mmap(None, 4096, 3, 0x22, -1, 0))),
    'a library': tried(library),
    'unix sockets': tried(socket.socketpair),
    'files moved': tried(moved),
    'memory counted': str('MemTotal' in open('/proc/meminfo').read()),
    'terminal': tried(os.openpty),
    'callback': str(callback(1)),
    'numpy': str(numpy.linalg.inv(numpy.eye(20)).sum()),
}
print(json.dumps(facts))
"""
WALLS = {
    "write and execute": "EACCES",
    "anonymous executed": "EACCES",
    "written, then executed": "EACCES",
    "shared executed": "EACCES",
    "memory file": "EPERM",
    "TCP": "EAFNOSUPPORT",
    "TCP 6": "EAFNOSUPPORT",
    "netlink": "EAFNOSUPPORT",
    "own text written": "EROFS",
    "pid 1 seen": "False",
    "machine seen": "False",
}
"""What is closed by it alone."""
KEPT = {
    "memory": "ok", "a library": "ok", "unix sockets": "ok", "files moved": "ok",
    "memory counted": "True", "terminal": "ok", "callback": "2", "numpy": "20.0",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _own_pool() -> Iterator[None]:
    client.stop_pool()
    yield
    client.end_shared()


def facts_of(result: sandbox_kernel.Result) -> dict[str, str]:
    assert result.ok, result.stderr
    found: dict[str, str] = json.loads(result.stdout)
    return found


@pytest.mark.everybody
def test_without_it_what_it_closes_is_open() -> None:
    found = facts_of(sandbox_kernel.run(TRIED, cold=True))

    assert {name: found[name] for name in WALLS} == {
        name: "True" if answer == "False" else "ok" for name, answer in WALLS.items()
    }
    assert KEPT.items() <= found.items()


@pytest.mark.everybody
def test_each_wall_stands_in_a_cell_that_was_started_from_nothing() -> None:
    assert facts_of(sandbox_kernel.run(TRIED, strict=True, cold=True)) == WALLS | KEPT


@pytest.mark.everybody
def test_each_wall_stands_in_a_cell_that_was_forked() -> None:
    def ready() -> bool:
        found: bool = any(template["ready"] for template in client.shared().pool())
        return found

    for _ in range(2):
        sandbox_kernel.run("pass", strict=True, warm=["numpy"])
    until(ready, why="no template got ready")
    code = "import sys\nassert 'numpy' in sys.modules, 'not forked'\n" + TRIED
    assert facts_of(sandbox_kernel.run(code, strict=True, warm=["numpy"])) == WALLS | KEPT
    # A cell that is not strict gets none of these containers.
    found = facts_of(sandbox_kernel.run(TRIED, warm=["numpy"]))
    assert found["write and execute"] == found["own text written"] == "ok"


LOOKED = r"""
import errno, json, os, sys
def tried(do):
    try:
        return do()
    except OSError as error:
        return errno.errorcode[error.errno]
other = int(sys.argv[1]) if len(sys.argv) > 1 else 0
print(json.dumps({
    'led out': tried(lambda: os.close(os.open('etc/passwd', os.O_RDONLY, dir_fd=7))),
    'seen': sum(name.isdigit() for name in os.listdir('/proc')),
    'environment': tried(lambda: len(open('/proc/2/environ').read()) > 0),
    'signalled': tried(lambda: os.kill(2, 0)),
}))
"""


def looked(strict: bool) -> dict[str, Any]:
    """What a run sees of another one in its container, and of a folder that leaked into it."""
    plan = policy.plan("program", strict=strict, memory="256m")
    pipe = os.pipe()
    output, written = os.pipe()
    waiting = ProcessSpec(
        argv=("/bin/sh", "-c", "echo; read line"), descriptors={0: pipe[0], 1: written}
    )
    folder = os.open("/", os.O_PATH)
    try:
        with container.Container.create(plan) as made:
            first = made.run(waiting)
            assert os.read(output, 1) == b"\n"  # nobody sees an environment before it executes
            spec = ProcessSpec(
                argv=(sys.executable, "-c", LOOKED), descriptors={1: written, 2: 2, 7: folder}
            )
            second = made.run(spec)
            assert second.wait().status == 0
            os.close(written)
            written = -1
            first.kill()
            found: dict[str, Any] = json.loads(os.read(output, 4096))
            return found
    finally:
        for descriptor in (*pipe, folder, output, written):
            if descriptor >= 0:
                os.close(descriptor)


@pytest.mark.everybody
def test_a_run_sees_nothing_of_another_and_a_leaked_folder_leads_nowhere() -> None:
    assert looked(strict=False) == {
        "led out": None, "seen": 3, "environment": True, "signalled": None,
    }  # fmt: skip
    found = looked(strict=True)
    assert found["led out"] == "EACCES"
    assert found["seen"] == 1
    assert found["environment"] in ("ENOENT", "EACCES")
    assert found["signalled"] == ("EPERM" if landlock.version() >= 6 else None)


def test_what_is_mounted_writable_is_not_executed(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\necho executed\n")
    script.chmod(0o755)
    code = (
        "import subprocess\n"
        "open('/data/written', 'w').write('x')\n"
        "try: print(subprocess.run(['/data/script'], capture_output=True, text=True).stdout)\n"
        "except PermissionError: print('refused')"
    )

    def said(how: str, **options: Any) -> str:
        mount = f"{tmp_path}:/data{how}"
        return sandbox_kernel.run(code, mount=[mount], cold=True, **options).stdout.strip()

    assert said("") == "executed"
    assert said("", strict=True) == "refused"
    assert (tmp_path / "written").read_text() == "x"
    assert "executed" in sandbox_kernel.run(
        code.replace("open('/data/written', 'w').write('x')\n", ""),
        mount=[f"{tmp_path}:/data:ro"], cold=True, strict=True,
    ).stdout  # fmt: skip


PLOT = "%matplotlib inline\nimport matplotlib.pyplot as plot\nplot.plot([1, 2]); plot.show()"
FORK = (
    "import os\nchild = os.fork()\n"
    "if child == 0:\n    print('of a fork', flush=True)\n    os._exit(0)\nos.wait()"
)


@pytest.mark.everybody
def test_a_kernel_has_its_walls_and_draws_and_calls_programs() -> None:
    with kernels.started(strict=True) as kernel:
        reply, outputs = kernel.run(PLOT)
        assert reply["content"]["status"] == "ok", reply
        shown = [m["content"]["data"] for m in outputs if "data" in m["content"]]
        assert any("image/png" in data for data in shown)
        assert kernels.text_of(kernel.run("!echo from a shell")[1]).strip() == "from a shell"
        code = TRIED.replace("print(json.dumps(facts))", "print(json.dumps(facts), flush=True)")
        found = json.loads(kernels.text_of(kernel.run(code)[1]))
        assert found == WALLS | KEPT
        assert kernels.text_of(kernel.run(FORK)[1]) == "of a fork\n"
        # Its debugger needs a port, so there is none, and nothing ends when it is asked for.
        content = kernel.control("kernel_info_request", {})["content"]
        assert not content["debugger"] and "debugger" not in content["supported_features"]
        kernel.control("debug_request", {"seq": 1, "type": "request", "command": "initialize"})
        assert kernels.text_of(kernel.run("print('on')")[1]) == "on\n"


def test_states_of_cells_are_carried_over() -> None:
    with kernels.cells_started(strict=True, mode="carry") as kernel:
        kernel.run("kept = 1")
        found = json.loads(kernels.text_of(kernel.run(TRIED)[1]))
        assert found == WALLS | KEPT
        assert kernels.text_of(kernel.run("print(kept)")[1]) == "1\n"


def test_a_kernel_without_landlock_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(landlock, "version", lambda: 0)
    with pytest.raises(errors.HostLacks, match=r"--strict.*no Landlock.*lsm="):
        sandbox_kernel.run("pass", strict=True, memory="111m")
    assert sandbox_kernel.run("print(1)", memory="111m").stdout == "1\n"


def test_the_command_shows_it_in_the_plan_and_runs_it() -> None:
    def said(*words: str) -> str:
        return subprocess.run([COMMAND, *words], capture_output=True, text=True, check=False).stdout

    assert any(
        line.split()[:2] == ["strict", "yes"] for line in said("plan", "--strict").splitlines()
    )
    code = "import os; print('1' in os.listdir('/proc'))"
    assert said("run", "--strict", "host", sys.executable, "-c", code) == "False\n"
