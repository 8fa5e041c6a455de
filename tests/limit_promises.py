"""What every limit promises, on real containers: set, read back, hit, changed live.

`tests/integration/test_limits.py` takes these for this machine, as root and as an ordinary user;
`tests/cgroup2/inside/test_containers.py` for the machine with cgroup v2, as both, too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from sandbox_kernel import engine, errors
from sandbox_kernel.engine import Sandbox
from sandbox_kernel.runtime import client

MIB = 1 << 20
EAT = "eaten = [bytearray(b'x' * (1 << 20)) for _ in range({})]\nprint('ate')"


def lacks(limit: str) -> str:
    """Why this machine can't enforce a limit; empty when it can."""
    return client.shared().about["support"][limit]


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(memory="128m", pids_limit=30, cpus=0.5, storage_size="16m") as made:
        yield made


def test_memory(sandbox: Sandbox) -> None:
    assert sandbox.limits()["memory"] == 128 * MIB
    result = engine.run(EAT.format(256), memory="64m")
    with pytest.raises(errors.OutOfMemory, match=r"64 MiB.*--memory") as caught:
        result.check()
    assert caught.value.limit == 64 * MIB
    assert caught.value.peak > 56 * MIB
    # live: what was too much fits now
    assert sandbox.set_limits(memory="512m")["memory"] == 512 * MIB
    assert sandbox.run(EAT.format(140)).stdout == "ate\n"


def test_memory_of_a_child_ends_all_of_the_container() -> None:
    """Nobody waits for what the kernel took a part of."""
    child_eats = f"""
import os, time
if not os.fork():
    {EAT.format(256).replace(chr(10), chr(10) + "    ")}
    os._exit(0)
time.sleep(200)
"""
    begin = time.monotonic()
    with pytest.raises(errors.OutOfMemory):
        engine.run(child_eats, memory="64m").check()
    assert time.monotonic() - begin < 100


def test_memory_swap(sandbox: Sandbox) -> None:
    if lacks("memory_swap"):
        with pytest.raises(errors.LimitNotEnforceable, match="--memory-swap"):
            engine.run("", memory="64m", memory_swap="96m")
        return
    assert sandbox.limits()["memory_swap"] == 128 * MIB
    changed = sandbox.set_limits(memory="64m", memory_swap="96m")
    assert (changed["memory"], changed["memory_swap"]) == (64 * MIB, 96 * MIB)


def test_cpus(sandbox: Sandbox) -> None:
    spin = "import time\nend = time.monotonic() + {}\nwhile time.monotonic() < end: pass"
    assert sandbox.limits()["cpus"] == 0.5
    result = engine.run(spin.format(2), cpus=0.1)  # less than it gets beside whatever others do
    assert result.error is None
    assert result.usage["throttled_seconds"] > 0.5
    assert sandbox.set_limits(cpus=1)["cpus"] == 1


def test_cpu_shares(sandbox: Sandbox) -> None:
    for asked in (512, 2048):  # v2 counts in weights, which are coarser
        assert sandbox.set_limits(cpu_shares=asked)["cpu_shares"] == pytest.approx(asked, rel=0.05)


def test_cpuset_cpus() -> None:
    if lacks("cpuset_cpus"):
        with pytest.raises(errors.LimitNotEnforceable, match=r"--cpuset-cpus.*not "):
            engine.run("", cpuset_cpus="0")
        return
    one = str(min(os.sched_getaffinity(0)))
    with Sandbox(cpuset_cpus=one) as made:
        assert made.limits()["cpuset_cpus"] == one
        ran = made.run("import os; print(os.sched_getaffinity(0))")
        assert ran.stdout == f"{{{one}}}\n"
    with pytest.raises(errors.InvalidOption, match="--cpuset-cpus"):
        engine.run("", cpuset_cpus="4000")


def test_pids_limit(sandbox: Sandbox) -> None:
    fork = "import os, signal\nfor _ in range(60):\n    os.fork() or signal.pause()\nprint('all')"
    assert sandbox.limits()["pids_limit"] == 30
    result = sandbox.run(fork)
    assert result.error is not None
    with pytest.raises(errors.TooManyProcesses, match=r"30.*--pids-limit"):
        result.check()
    assert sandbox.set_limits(pids_limit=100)["pids_limit"] == 100
    assert sandbox.run(fork).stdout == "all\n"


def test_the_fewest_processes_that_may_be_asked_for_are_enough() -> None:
    for _ in range(3):  # the first is made cold
        assert engine.run("6 * 7", pids_limit=4).check().text == "42"
    with pytest.raises(errors.InvalidOption, match="from 4 to"):
        engine.run("6 * 7", pids_limit=3)


def test_ulimit() -> None:
    ran = engine.run(
        "import os\nkept = []\n"
        "try:\n    while True: kept.append(os.dup(0))\n"
        "except OSError as error: print(error.strerror, len(kept) < 64)",
        ulimit="nofile=64",
    )
    assert ran.stdout == "Too many open files True\n"


def test_storage_size(sandbox: Sandbox) -> None:
    result = sandbox.run("open('f', 'wb').write(bytes(64 << 20))")
    with pytest.raises(errors.NoSpace, match=r"16 MiB.*--storage-size"):
        result.check()
    with pytest.raises(errors.InvalidOption, match="--storage-size"):
        sandbox.set_limits(storage_size="1g")


def test_timeout() -> None:
    begin = time.monotonic()
    result = engine.run("import time; time.sleep(600)", timeout=1)
    assert time.monotonic() - begin < 30
    with pytest.raises(errors.TimedOut, match=r"1 s.*--timeout"):
        result.check()


def test_a_limit_that_is_given_and_can_not_be_held_starts_nothing() -> None:
    if not lacks("memory"):
        with pytest.raises(errors.InvalidOption, match="--device-read-bps"):
            engine.run("print('started')", device_read_bps="/dev/null:1m")
        return
    with pytest.raises(errors.LimitNotEnforceable, match=r"--memory.*doctor"):
        engine.run("print('started')", memory="64m")
