"""Fresh: nothing that one cell did is visible to the next, unless it was asked to carry over."""

from __future__ import annotations

import json
import os
import secrets

import pytest

import sandbox_kernel

pytestmark = pytest.mark.everybody

LEAVE = """
import ctypes, json, os, socket, subprocess, sys
libc = ctypes.CDLL(None)
written = []
for folder, _, _ in os.walk("/"):
    if folder.split("/")[1] in ("proc", "sys"):
        continue
    try:
        with open(os.path.join(folder, mark), "w") as file:
            file.write(mark)
        written.append(folder)
    except OSError:
        pass
left = {"files": written}
left["queue"] = libc.msgget(0x5A5A, 0o1777)
left["memory"] = libc.shmget(0x5A5A, 4096, 0o1777)
listener = socket.socket(socket.AF_UNIX)
listener.bind("\\0" + mark)
listener.listen()
left["daemon"] = subprocess.Popen(
    ["/bin/sleep", "600"], start_new_session=True, pass_fds=[listener.fileno()]
).pid
os.environ["MARK"] = mark
sys.modules["json"].mark = mark
print(json.dumps(left))
"""
LOOK = """
import ctypes, json, os, socket, sys
libc = ctypes.CDLL(None)
seen = {"files": [], "environment": [n for n, v in os.environ.items() if mark in v]}
for folder, _, names in os.walk("/"):
    seen["files"] += [folder for name in names if name == mark]
seen["queue"] = libc.msgget(0x5A5A, 0)
seen["memory"] = libc.shmget(0x5A5A, 0, 0)
seen["socket"] = socket.socket(socket.AF_UNIX).connect_ex("\\0" + mark) == 0
seen["processes"] = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
seen["module"] = hasattr(json, "mark")
print(json.dumps(seen))
"""


@pytest.fixture(scope="module", autouse=True)
def _launcher_runs() -> None:
    """The launcher of this program is started now, not inside some test's count."""
    sandbox_kernel.run("pass").check()


def test_nothing_that_one_cell_did_is_seen_by_the_next() -> None:
    mark = f"mark-{secrets.token_hex(8)}"
    first = sandbox_kernel.run(LEAVE, inputs={"mark": mark}, memory="256m", check=True)
    left = json.loads(first.stdout)
    # the attempt was a real one
    assert {"/tmp", "/home/sandbox", "/dev/shm"} <= set(left["files"])
    assert left["queue"] >= 0
    assert left["memory"] >= 0

    second = sandbox_kernel.run(LOOK, inputs={"mark": mark}, memory="256m", check=True)

    seen = json.loads(second.stdout)
    processes = seen.pop("processes")
    assert len(processes) == 2
    assert seen == {
        "files": [], "environment": [], "queue": -1, "memory": -1, "socket": False,
        "module": False,
    }  # fmt: skip
    assert not any(os.path.exists(os.path.join(folder, mark)) for folder in left["files"])


def test_cells_of_one_sandbox_share_files_and_nothing_else() -> None:
    mark = f"mark-{secrets.token_hex(8)}"
    with sandbox_kernel.Sandbox(memory="256m") as sandbox:
        sandbox.run(LEAVE, inputs={"mark": mark}, check=True)
        seen = json.loads(sandbox.run(LOOK, inputs={"mark": mark}, check=True).stdout)

    assert "/tmp" in seen["files"]
    assert seen["environment"] == []
    assert seen["module"] is False
    assert seen["socket"] is False
    assert len(seen["processes"]) == 2


def test_a_failed_cell_leaves_no_less() -> None:
    mark = f"mark-{secrets.token_hex(8)}"
    for end in ("raise SystemExit(3)", "import os; os.kill(os.getpid(), 9)"):
        failed = sandbox_kernel.run(f"{LEAVE}\n{end}", inputs={"mark": mark})
        assert not failed.ok
        again = sandbox_kernel.run(LOOK, inputs={"mark": mark}, check=True)
        assert json.loads(again.stdout)["files"] == []
