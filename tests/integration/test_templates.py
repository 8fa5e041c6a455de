"""Cells forked from a template: they are warm, and share nothing that a cell can change."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from awaiting import until

import sandbox_kernel
from sandbox_kernel import engine, errors, policy
from sandbox_kernel.container import events as e
from sandbox_kernel.container import learning
from sandbox_kernel.container.cell import CellRequest
from sandbox_kernel.runtime import client

pytestmark = pytest.mark.everybody

FACTS = """
import json, os, sys
print(json.dumps({
    "namespaces": {n: os.readlink("/proc/self/ns/" + n) for n in os.listdir("/proc/self/ns")},
    "hostname": os.uname().nodename, "cwd": os.getcwd(), "argv": sys.argv,
    "environment": dict(os.environ), "open": sorted(os.listdir("/proc/self/fd")),
    "status": dict(line.strip().split(":", 1) for line in open("/proc/self/status")),
    "path": sys.path, "uid": os.getresuid(), "gid": os.getresgid(), "groups": os.getgroups(),
    "sid": os.getsid(0), "pid": os.getpid(), "files": sorted(os.listdir("/")),
    "mounts": sorted(line.split()[4] for line in open("/proc/self/mountinfo")),
    "limits": open("/proc/self/limits").read(),
    "processes": sorted(n for n in os.listdir("/proc") if n.isdigit()),
}))
"""


def warm(code: str, **options: Any) -> sandbox_kernel.Result:
    """A cell of which it is known that it was forked from a template."""
    return sandbox_kernel.run(code, **{"warm": ["numpy"], **options})


@pytest.fixture(autouse=True)
def _template() -> Iterator[None]:
    """Every test begins with a template that has a container ready."""
    client.stop_pool()
    learning.forget()  # what tests before this one have imported
    make_ready()
    yield


def pool() -> list[dict[str, Any]]:
    return client.shared().pool()


def one_is_ready() -> bool:
    return any(template["ready"] for template in pool())


def make_ready(**options: Any) -> None:
    """Ask until a template runs and a container waits in it."""
    for _ in range(2):
        warm("pass", **options).check()
    until(one_is_ready, why=pool)


def test_a_cell_finds_its_modules_imported_and_is_the_second_process() -> None:
    result = warm("import sys, os\nprint('numpy' in sys.modules, os.getpid())").check()

    assert result.stdout.split()[0] == "True"
    cold = sandbox_kernel.run("import sys; print('numpy' in sys.modules)", cold=True).check()
    assert cold.stdout == "False\n"


def test_a_warm_cell_is_in_the_same_place_as_a_cold_one() -> None:
    options = {"memory": "256m", "pids_limit": 64, "env": ["A=b"], "workdir": "/tmp"}
    make_ready(**options)

    hot = json.loads(warm(FACTS, **options).check().stdout)
    cold = json.loads(sandbox_kernel.run(FACTS, cold=True, **options).check().stdout)

    assert not set(hot["namespaces"].values()) & {
        os.readlink(f"/proc/self/ns/{name}")
        for name in os.listdir("/proc/self/ns")
        if name not in ("time", "time_for_children") or hot["namespaces"].get("time")
    }
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp",
                 "Uid", "Gid", "Groups", "SigBlk", "SigIgn", "Threads"):  # fmt: skip
        assert hot["status"][name] == cold["status"][name], name
    for name in ("cwd", "argv", "environment", "path", "uid", "gid", "groups", "files",
                 "mounts", "limits", "open"):  # fmt: skip
        assert hot[name] == cold[name], name
    assert hot["sid"] == hot["pid"]
    assert hot["processes"] == ["1", str(hot["pid"])]


DIRTY = """
import os, sys, random, socket, tempfile, uuid, threading, time, builtins
import numpy
open("/tmp/left", "w").write("x"); open("left", "w").write("x"); os.chdir("/tmp")
os.environ["LEFT"] = "x"
sys.modules["left"] = sys; numpy.left = builtins.left = 1; sys.path.insert(0, "/left")
open("/dev/shm/left", "w").write("x")
from multiprocessing import shared_memory
kept = shared_memory.SharedMemory("kept", create=True, size=64)
listening = socket.socket(); listening.bind(("127.0.0.1", 8765)); listening.listen()
import ctypes
libc = ctypes.CDLL(None)
print(libc.semget(77, 1, 0o1600) >= 0, libc.shmget(77, 64, 0o1600) >= 0)
print(libc.msgget(77, 0o1600) >= 0)
if os.fork() == 0:
    os.setsid(); time.sleep(600)
"""

LOOK = """
import os, sys, socket, builtins, ctypes, errno
import numpy
libc = ctypes.CDLL(None, use_errno=True)
found = []
def see(what, there):
    if there: found.append(what)
see("file", os.path.exists("/tmp/left") or os.path.exists("left"))
see("directory", os.getcwd() == "/tmp")
see("variable", "LEFT" in os.environ)
see("module", "left" in sys.modules or hasattr(numpy, "left") or hasattr(builtins, "left"))
see("path", "/left" in sys.path)
see("shared memory", os.listdir("/dev/shm"))
see("port", socket.socket().connect_ex(("127.0.0.1", 8765)) == 0)
see("semaphore", libc.semget(77, 1, 0o600) >= 0)
see("segment", libc.shmget(77, 64, 0o600) >= 0)
see("queue", libc.msgget(77, 0o600) >= 0)
see("process", len([n for n in os.listdir("/proc") if n.isdigit()]) > 2)
print(found)
"""


def test_two_consecutive_cells_share_nothing() -> None:
    assert warm(DIRTY).check().stdout.split() == ["True"] * 3
    until(one_is_ready, why=pool)

    assert warm(LOOK).check().stdout == "[]\n"


RANDOM = """
import random, uuid, tempfile, os, ssl, json, secrets
import numpy
print(json.dumps([random.random(), numpy.random.random(),
    float(numpy.random.default_rng().random()), str(uuid.uuid4()), str(uuid.uuid1()),
    tempfile.mktemp(), ssl.RAND_bytes(8).hex(), secrets.token_hex(8)]))
"""


@pytest.mark.whoever
def test_random_numbers_and_temporary_names_are_each_cells_own() -> None:
    options = {"warm": ["numpy", "ssl", "uuid", "tempfile", "random", "secrets"]}
    make_ready(**options)

    rows = [json.loads(warm(RANDOM, **options).check().stdout) for _ in range(6)]

    for column in zip(*rows, strict=True):
        assert len(set(column)) == len(rows), column


@pytest.mark.whoever
def test_no_container_is_given_twice() -> None:
    seen: list[str] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            for _ in range(8):
                result = warm("open('/mine', 'x').close()", memory="64m").check()
                seen.append(result.container_id)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not failed
    assert len(set(seen)) == len(seen) == 48


WITH_A_THREAD = """
import threading
threading.Thread(target=threading.Event().wait, daemon=True).start()
"""


@pytest.mark.whoever
def test_what_a_template_can_t_import_is_named_and_left_to_the_cell() -> None:
    missing = "no_such_module_here"
    modules = ["numpy", missing]

    def without() -> list[dict[str, Any]]:
        """The template that came after the one that could not import it."""
        found = client.shared().pool()
        return [t for t in found if missing in t["refused"] and t["state"] == "ready"]

    for _ in range(3):
        warm("pass", warm=modules).check()
    until(without, why=pool)

    (template,) = without()
    assert template["modules"] == ["numpy"]
    assert "ModuleNotFoundError" in template["refused"][missing]
    assert warm("import sys; print('numpy' in sys.modules)", warm=modules).stdout == "True\n"


def _interpreters() -> list[psutil.Process]:
    launcher = psutil.Process(client.shared().pid)
    return [
        process
        for process in launcher.children(recursive=True)
        if "sandbox_inside.template" in " ".join(process.cmdline())
    ]


def test_a_template_that_is_killed_takes_no_cell_with_it() -> None:
    running = sandbox_kernel.engine.start(
        sandbox_kernel.policy.plan("program", warm=["numpy"]),
        sandbox_kernel.engine.CellRequest(code="import time\ntime.sleep(1.5)\nprint('done')"),
    )
    texts: list[str] = []
    thread = threading.Thread(
        target=lambda: texts.extend(getattr(event, "text", "") for event in running)
    )
    thread.start()
    time.sleep(0.3)
    # The oldest is the template; what waits in containers was forked from it.
    template = min(_interpreters(), key=lambda process: process.create_time())

    template.send_signal(signal.SIGKILL)
    until(lambda: not template.is_running())
    assert warm("print(1)").check().stdout == "1\n"

    thread.join(20)
    assert texts and texts[0] == "done\n"
    make_ready()


def test_limits_hold_in_a_warm_container() -> None:
    make_ready(memory="64m", pids_limit=16)

    memory = warm("block = bytearray(256 << 20)", memory="64m", pids_limit=16)
    assert memory.error is not None
    assert isinstance(memory.error.failure, errors.OutOfMemory)

    until(one_is_ready, why=pool)
    children = warm(
        "import os, signal\nfor _ in range(1000):\n    os.fork() or signal.pause()",
        memory="64m", pids_limit=16, timeout=10,
    )  # fmt: skip
    assert children.error is not None
    assert warm("print(1)", memory="64m", pids_limit=16).check().stdout == "1\n"


def test_a_timeout_counts_from_the_cell_and_not_from_the_container() -> None:
    make_ready(timeout=2)
    time.sleep(2.2)

    assert warm("print(1)", timeout=2).check().stdout == "1\n"
    late = warm("import time; time.sleep(60)", timeout=2)
    assert late.error is not None
    assert isinstance(late.error.failure, errors.TimedOut)


@pytest.mark.whoever
def test_what_cells_import_again_and_again_is_ready_for_the_next() -> None:
    client.stop_pool()
    learning.forget()
    look = "import sys; print('numpy' in sys.modules)"
    assert sandbox_kernel.run(look).check().stdout == "False\n"
    for _ in range(2):
        sandbox_kernel.run("import numpy").check()

    until(lambda: sandbox_kernel.run(look).check().stdout == "True\n")

    learning.forget()


def test_what_is_ready_for_other_limits_is_given_these() -> None:
    client.stop_pool()  # what waits is of this kind alone
    make_ready(memory="256m")
    launcher = psutil.Process(client.shared().pid)
    there = {process.pid for process in launcher.children(recursive=True)}

    plan = policy.plan("program", warm=["numpy"], memory="256m", cpus=0.5, pids_limit=20)
    run = engine.start(plan, CellRequest(code="import os\nprint(os.getpid())"))
    events = list(run)

    assert run.container.pid in there
    assert any(isinstance(event, e.Stdout) for event in events)
    limits = run.limits()
    assert (limits["memory"], limits["cpus"], limits["pids_limit"]) == (256 << 20, 0.5, 20)


def test_what_is_ready_with_one_limit_more_is_given_to_nobody_else() -> None:
    client.stop_pool()  # what waits is of this kind alone
    make_ready(memory="256m", cpus=0.5)
    launcher = psutil.Process(client.shared().pid)
    there = {process.pid for process in launcher.children(recursive=True)}

    plan = policy.plan("program", warm=["numpy"], memory="256m")
    run = engine.start(plan, CellRequest(code="pass"))
    list(run)

    assert run.container.pid not in there
    assert run.limits()["cpus"] is None


@pytest.mark.parametrize(
    "place", ["IPython.display", "IPython.core.display_functions", "ipywidgets.widgets.interaction"]
)
def test_a_display_that_the_template_has_imported_is_shown(place: str) -> None:
    code = (
        f"import sys; print({place!r} in sys.modules)\nfrom {place} import display\n"
        "display('shown', display_id='a')"
    )
    client.stop_pool()
    make_ready(warm=[place])
    shown = warm(code, warm=[place]).check()
    assert shown.stdout == "True\n"
    assert [each.data["text/plain"] for each in shown.displays] == ["'shown'"]
