"""What it costs to be there: the import, and the memory of the relay and of the launcher."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from benchmarks import kernels
from benchmarks.pairs import Size
from sandbox_kernel import policy
from sandbox_kernel.container import Container, ProcessSpec
from sandbox_kernel.runtime import client

HEAVY = ("IPython", "pyroute2", "zmq", "traitlets", "ipywidgets", "jupyter_client")


def sizes(rounds: int) -> Iterator[Size]:
    """The amounts of this module."""
    yield Size("`import sandbox_kernel`, above an empty Python", _import_ms(rounds), "ms", 60)
    yield Size("memory of the relay of a kernel that ran cells", _relay_mib(), "MiB", 45)
    yield Size("memory of the launcher after 100 containers", _launcher_mib(), "MiB", 15)


def _import_ms(rounds: int) -> float:
    check = f"import sys, sandbox_kernel; sys.exit(any(m in sys.modules for m in {HEAVY}))"
    subprocess.run([sys.executable, "-c", check], check=True)
    took: dict[str, list[float]] = {"pass": [], "import sandbox_kernel": []}
    for _ in range(rounds):
        for code, seconds in took.items():
            begin = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            seconds.append(time.perf_counter() - begin)
    empty, full = (statistics.median(seconds) for seconds in took.values())
    return 1000 * (full - empty)


def _relay_mib() -> float:
    with kernels.started(kernels.SANDBOX) as kernel:
        for _ in range(100):
            kernels._cell(kernel, "print('x' * 1000)", 1001)
        (relay,) = [
            process
            for process in psutil.Process().children(recursive=True)
            if process.cmdline()[1:3] == ["-m", "sandbox_kernel"]
        ]
        return _resident(relay.pid)


def _launcher_mib() -> float:
    plan = policy.plan("program", image="host")
    for _ in range(100):
        container = Container.create(plan, process=ProcessSpec(argv=("/bin/true",)))
        assert container.process is not None
        container.process.wait(30)
        container.remove()
    return _resident(client.shared().pid)


def _resident(pid: int) -> float:
    """VmRSS of proc_pid_status(5): all pages, those shared with others too. MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(f"no memory is known of process {pid}")
