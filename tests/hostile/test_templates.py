"""The threats that `runtime/templates.py` names: a hostile image in it, and a hostile cell."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from awaiting import until

import sandbox_kernel
from sandbox_kernel.runtime import client

MODULE = "hostile_module_of_a_test"
START = """
import sys, os
template = sys.modules["sandbox_inside.template"]
"""

# What a module of the image does to the template when it is imported there, and what of the child
# the launcher then finds to be wrong.
HOSTILE = {
    "capabilities are kept": (
        "template.give_up = lambda: None",
        "CapPrm",
    ),
    "there is no filter": ("template.install = lambda program: None", "Seccomp_filters"),
    "a descriptor stays open": (
        "kept = os.pipe()\nos.closerange = lambda *_: None\nos.set_inheritable(kept[0], True)",
        "open in it are",
    ),
    "memory is shared": ("import mmap\nkept = mmap.mmap(-1, 4096)", "is shared"),
    "the group is not entered": (
        "write = os.write\nos.write = lambda number, data: data == b'0' or write(number, data)",
        "another control group",
    ),
    "a namespace is not joined": (
        "setns = template.setns\n"
        "template.setns = lambda number, flag: 0 if flag == 0x40000000"
        " else setns(number, flag)",
        "network namespace",
    ),
    "a thread is started": (
        "import threading\nnew_seeds = template.new_seeds\n"
        "def more():\n"
        "    threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "    new_seeds()\n"
        "template.new_seeds = more",
        "Threads",
    ),
}


def pool() -> list[dict[str, Any]]:
    return client.shared().pool()


def one_is_ready() -> bool:
    return any(template["ready"] for template in pool())


@pytest.fixture
def module() -> Iterator[Path]:
    """A module of the image `host`, which is this environment."""
    path = Path(sysconfig.get_path("purelib")) / f"{MODULE}.py"
    client.stop_pool()
    yield path
    client.stop_pool()
    path.unlink(missing_ok=True)


def events(kind: str) -> list[dict]:
    channel = client.shared().connect()
    try:
        return [e for e in channel.request("events", {})["events"] if e["kind"] == kind]
    finally:
        channel.close()


@pytest.mark.parametrize("how", HOSTILE)
def test_a_child_that_differs_in_one_point_gets_nothing_of_a_caller(how: str, module: Path) -> None:
    code, found = HOSTILE[how]
    module.write_text(START + code)
    look = f"import sys; print({MODULE!r} in sys.modules)"
    before = len(events("template-distrusted"))

    for _ in range(2):
        assert sandbox_kernel.run(look, warm=[MODULE]).check().stdout == "False\n"
    until(lambda: len(events("template-distrusted")) > before)

    assert found in events("template-distrusted")[-1]["why"]
    # It never forks again, and who asks gets a container all the same.
    assert sandbox_kernel.run(look, warm=[MODULE]).check().stdout == "False\n"
    assert not any(template["ready"] for template in client.shared().pool())


def test_a_module_of_the_image_reaches_nothing_from_the_template(module: Path) -> None:
    """It runs with what a cell has, and without the caller's files."""
    module.write_text(
        START + "import json, socket\n"
        "facts = {'files': sorted(os.listdir('/')), 'home': os.listdir(os.path.expanduser('~')),\n"
        "    'status': open('/proc/self/status').read(), 'net': socket.if_nameindex(),\n"
        "    'processes': [open('/proc/%s/comm' % n).read().strip()\n"
        "        for n in os.listdir('/proc') if n.isdigit()]}\n"
        "errors = []\n"
        "for path in ('/proc/1/mem', '/proc/1/root/etc/shadow', '/proc/1/fd/0', '/etc/shadow'):\n"
        "    try: open(path, 'rb').read(1); errors.append(path)\n"
        "    except OSError: pass\n"
    )
    show = f"import {MODULE} as m; print(m.errors, m.facts)"

    for _ in range(2):
        sandbox_kernel.run("pass", warm=[MODULE]).check()
    until(one_is_ready, why=pool)
    text = sandbox_kernel.run(f"import sys\nassert {MODULE!r} in sys.modules\n{show}",
        warm=[MODULE], mount=[f"{module.parent}:/given:ro"]).check().stdout  # fmt: skip

    assert text.startswith("[] ")
    assert "given" not in text
    assert "CapPrm:\\t0000000000000000" in text
    assert "CapBnd:\\t0000000000000000" in text
    assert "[(1, 'lo')]" in text
    assert "Seccomp:\\t2" in text


KILLER = """
import os, signal
for number in (1, os.getppid(), 2, 3, 4, 5, 6, 7, 8):
    if number not in (0, os.getpid()):
        try: os.kill(number, signal.SIGKILL)
        except OSError: pass
os.kill(-1, signal.SIGKILL)
"""


def test_a_cell_reaches_neither_its_template_nor_its_siblings_nor_the_launcher() -> None:
    client.stop_pool()
    for _ in range(2):
        sandbox_kernel.run("pass", warm=["numpy"]).check()
    until(one_is_ready, why=pool)
    launcher = psutil.Process(client.shared().pid)
    (before,) = client.shared().pool()

    sibling = sandbox_kernel.engine.start(
        sandbox_kernel.policy.plan("program", warm=["numpy"]),
        sandbox_kernel.engine.CellRequest(code="import time; time.sleep(1); print('whole')"),
    )
    sandbox_kernel.run(KILLER, warm=["numpy"])

    assert "whole\n" in [getattr(event, "text", "") for event in sibling]
    (after,) = client.shared().pool()
    assert after["container"] == before["container"]
    assert after["state"] == "ready"
    assert client.shared().pid == launcher.pid
    assert sandbox_kernel.run("print(1)", warm=["numpy"]).check().stdout == "1\n"


def test_a_cell_has_the_declared_environment_whatever_a_module_did_to_it(module: Path) -> None:
    module.write_text("import os\nos.environ['LEFT'] = '1'\ndel os.environ['LANG']\n")
    look = (
        f"import os, sys\nprint({MODULE!r} in sys.modules, "
        "os.environ.get('LEFT'), os.environ['LANG'])"
    )

    for _ in range(2):
        sandbox_kernel.run("pass", warm=[MODULE]).check()
    until(one_is_ready, why=pool)

    assert sandbox_kernel.run(look, warm=[MODULE]).check().stdout == "True None C.UTF-8\n"
    given = sandbox_kernel.run(look, warm=[MODULE], env=["LEFT=right"]).check().stdout
    assert given.endswith(" right C.UTF-8\n")
