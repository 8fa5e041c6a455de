"""What a kernel goes through, gone in its template: all of it, and it leaves nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import asyncio, builtins, json, linecache, os, signal, sys, tempfile, threading
from sandbox_kernel.inside import application, ways

app = application.made()
app.begin()
tempfile.gettempdir()

def state():
    policy = asyncio.get_event_loop_policy()
    return [
        sorted(os.listdir("/proc/self/fd")), dict(os.environ), sorted(vars(builtins)), sys.argv,
        os.listdir("/proc/self/task"), os.listdir(tempfile.gettempdir()), os.getcwd(),
        id(sys.stdout), id(sys.displayhook),
        policy._local._loop if hasattr(policy, "_local") else None, sorted(linecache.cache),
        app.prepared.user_ns, app.prepared.execution_count,
        str(signal.getsignal(signal.SIGINT)),
    ]

before = state()
ways.go(app.prepared)
print(json.dumps([[str(one) for one in state()], [str(one) for one in before]]))
"""


def test_what_is_gone_ahead_can_be_gone_and_leaves_nothing_behind(tmp_path: Path) -> None:
    folders = {name: str(tmp_path) for name in ("HOME", "TMPDIR", "IPYTHONDIR")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2], timeout=60,
        env={**os.environ, **folders},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    after, before = json.loads(done.stdout)
    assert after == before
