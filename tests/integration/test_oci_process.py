"""The OCI command line: how a process is run, what it joins by path, and what takes how long."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from awaiting import until
from oci_bundles import Bundle

# arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h
IOPRIO_GET = {"x86_64": 252, "aarch64": 31}
FILES = {"mount": "mnt", "network": "net"}


@pytest.mark.parametrize(
    ("kind", "priority", "seen"),
    [("IOPRIO_CLASS_RT", 2, 1 << 13 | 2), ("IOPRIO_CLASS_BE", 7, 2 << 13 | 7),
     ("IOPRIO_CLASS_IDLE", 0, 3 << 13)],
)  # fmt: skip
def test_the_priority_of_input_and_output(
    bundle: Bundle, kind: str, priority: int, seen: int
) -> None:
    config = bundle.config("sleep", "1000")
    config["process"]["ioPriority"] = {"class": kind, "priority": priority}
    libc = ctypes.CDLL(None, use_errno=True)
    with bundle.created(config) as name:
        bundle.ok("start", name)
        pid = bundle.state(name)["pid"]
        assert libc.syscall(IOPRIO_GET[os.uname().machine], 1, pid) == seen
    config["process"]["ioPriority"] = {"class": "IOPRIO_CLASS_OTHER", "priority": 0}
    done = bundle.run(config)
    assert done.returncode == 1 and "ioPriority.class" in done.stderr


@pytest.mark.parametrize(
    ("wanted", "policy", "priority", "nice"),
    [
        ({"policy": "SCHED_OTHER", "nice": 3}, os.SCHED_OTHER, 0, 3),
        ({"policy": "SCHED_BATCH", "nice": 5}, os.SCHED_BATCH, 0, 5),
        ({"policy": "SCHED_IDLE"}, os.SCHED_IDLE, 0, 0),
        ({"policy": "SCHED_BATCH", "flags": ["SCHED_FLAG_RESET_ON_FORK"]},
         os.SCHED_BATCH | os.SCHED_RESET_ON_FORK, 0, 0),
    ],
)  # fmt: skip
def test_the_policy_of_the_scheduler(
    bundle: Bundle, wanted: dict[str, Any], policy: int, priority: int, nice: int
) -> None:
    config = bundle.config("sleep", "1000")
    config["process"]["scheduler"] = wanted
    with bundle.created(config) as name:
        bundle.ok("start", name)
        pid = bundle.state(name)["pid"]
        assert os.sched_getscheduler(pid) == policy
        assert os.sched_getparam(pid).sched_priority == priority
        assert os.getpriority(os.PRIO_PROCESS, pid) == nice
    config["process"]["scheduler"] = {"policy": "SCHED_OTHERS"}
    done = bundle.run(config)
    assert done.returncode == 1 and "scheduler.policy" in done.stderr


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the word of another machine")
def test_the_personality_is_what_uname_says(bundle: Bundle) -> None:
    config = bundle.config("uname", "-m")
    assert bundle.output(config) == "x86_64\n"
    config["linux"]["personality"] = {"domain": "LINUX32"}
    assert bundle.output(config) == "i686\n"
    config["linux"]["personality"] = {"domain": "LINUX32", "flags": ["ADDR_NO_RANDOMIZE"]}
    done = bundle.run(config)
    assert done.returncode == 1 and "personality.flags" in done.stderr


@pytest.mark.parametrize(
    "kind", ["mount", "pid", "network", "ipc", "uts", "cgroup", "time", "user"]
)
def test_a_namespace_of_each_kind_is_joined_by_its_path(bundle: Bundle, kind: str) -> None:
    file = FILES.get(kind, kind)
    words = ["unshare", f"--{'net' if kind == 'network' else kind}", "--fork", "--kill-child"]
    if kind == "user":
        words.append("--map-root-user")
    with subprocess.Popen([*words, "sh", "-c", "echo made; exec sleep 1000"],
                          stdout=subprocess.PIPE, text=True) as other:  # fmt: skip
        assert other.stdout is not None and other.stdout.readline() == "made\n"
        first = int(Path(f"/proc/{other.pid}/task/{other.pid}/children").read_text())
        path = f"/proc/{first}/ns/{file}"
        theirs = os.readlink(path)
        assert theirs != os.readlink(f"/proc/self/ns/{file}")
        config = bundle.config("readlink", f"/proc/self/ns/{file}")
        if kind in ("user", "time"):
            config["linux"]["namespaces"].append({"type": kind})
        for entry in config["linux"]["namespaces"]:
            if entry["type"] == kind:
                entry["path"] = path
        if kind == "uts":
            del config["hostname"]  # it is theirs
        try:
            assert bundle.output(config) == f"{theirs}\n"
        finally:
            other.kill()


def test_a_hook_that_takes_too_long_is_ended_and_nothing_is_made(bundle: Bundle) -> None:
    config = bundle.config("true")
    for kind in ("createRuntime", "createContainer"):
        config["hooks"] = {kind: [{"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}]}
        started = time.monotonic()
        done = bundle.run(config)
        assert done.returncode == 1 and "it was not over after 1 s" in done.stderr
        assert 1 <= time.monotonic() - started < 20
    config["hooks"] = {"poststop": config["hooks"].popitem()[1]}
    done = bundle.run(config)  # the container is gone by then, so that is only said
    assert done.returncode == 0 and "warning" in done.stderr
    assert bundle.left() == []


def test_events_are_told_after_each_interval_until_the_end(bundle: Bundle) -> None:
    with bundle.created(bundle.config("sleep", "1000")) as name:
        bundle.ok("start", name)
        with subprocess.Popen([*bundle.argv, "events", "--interval", "100ms", name],
                              stdout=subprocess.PIPE, text=True) as events:  # fmt: skip
            assert events.stdout is not None
            events.stdout.readline()
            started = time.monotonic()
            lines = [json.loads(events.stdout.readline()) for _ in range(3)]
            assert 0.25 < time.monotonic() - started < 20
            assert {(line["type"], line["id"]) for line in lines} == {("stats", name)}
            assert all(line["data"]["pids"]["current"] >= 1 for line in lines)
            bundle.ok("kill", name, "KILL")
            until(lambda: bundle.state(name)["status"] == "stopped")
            assert events.wait(20) == 0
        for wrong in ("soon", "1", "-1s", "1s2"):
            assert bundle.call("events", "--interval", wrong, name).returncode == 1
