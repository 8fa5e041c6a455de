"""What it costs to be there: the import, and the memory of relay, launcher and an idle kernel."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
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
    what = "one more idle kernel: what the PSS of all processes together grows by"
    yield Size(what, _growth_of_a_plain_one(), "x ipykernel", 1 / 3)
    yield Size(
        "one more idle kernel, PSS of all its processes", _of_a_plain_one(), "x ipykernel", 1 / 3
    )


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
    """Of one that is no fork of a template: it has all of its pages for itself."""
    kernels.no_holder()
    with kernels.started(kernels.SANDBOX) as kernel:
        for _ in range(100):
            kernels._cell(kernel, "print('x' * 1000)", 1001)
        return _resident(_started_last(kernels.SANDBOX))


def _growth_of_a_plain_one() -> float:
    """What all processes together take more with each further sandbox kernel, by the same of plain
    ipykernels. There are two already; of each its first cell has run."""
    plain = _growth(kernels.PLAIN, lambda: None)
    sandbox = _growth(kernels.SANDBOX, kernels.warm_holder)
    kernels.no_holder()
    return sandbox / plain


def _growth(argv: list[str], prepare: Callable[[], None]) -> float:
    """MiB for each kernel that is started beside two."""
    with ExitStack() as stack:

        def start(count: int) -> float:
            for _ in range(count):
                prepare()
                kernel = stack.enter_context(kernels.started(argv))
                kernels._cell(kernel, "print('x')", 2)
            prepare()
            return _settled()

        before = start(2)
        return (start(FURTHER) - before) / FURTHER


FURTHER = 3
STILL_MIB = 0.1


def _settled() -> float:
    """The memory of all these processes, when it does not change any more. MiB."""
    last = -1.0
    while abs((now := _shares(_ours())) - last) > STILL_MIB:
        last = now
        time.sleep(1)
    return now


def _ours() -> set[int]:
    """Kernels, which are children of this process, and all that the project has started: holder,
    makers, templates, relays, and what waits in containers for the next kernel."""
    found = set(psutil.Process().children(recursive=True))
    for process in psutil.process_iter(["name"]):
        if process.info["name"].startswith("sandbox-"):
            with suppress(psutil.NoSuchProcess):  # it has ended since it was listed
                found |= {process, *process.children(recursive=True)}
    return {process.pid for process in found}


def _of_a_plain_one() -> float:
    """A sandbox kernel beside two like it, by a plain ipykernel beside one like it."""
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(kernels.started(kernels.PLAIN))
        plain = _shares((_started_last(kernels.PLAIN),))
    with ExitStack() as stack:
        for _ in range(3):
            kernels.warm_holder()
            kernel = stack.enter_context(kernels.started(kernels.SANDBOX))
        face = _started_last(kernels.SANDBOX)
        (relay,) = (
            process.pid
            for process in psutil.process_iter(["name"])
            if process.info["name"] == "sandbox-relay"
            and psutil.Process(face).cmdline()[-1] in " ".join(process.cmdline())
        )
        inside = _processes_of(kernels._text(kernel, NAME).strip())
        kernels.warm_holder()
        sandbox = _shares((face, relay, *inside))
    kernels.no_holder()
    return sandbox / plain


NAME = "import socket; print(socket.gethostname())"


def _started_last(argv: list[str]) -> int:
    """The kernel that Jupyter, which is us, started last with this argv."""
    found = [
        process for process in psutil.Process().children() if process.cmdline()[1:3] == argv[1:3]
    ]
    return int(max(found, key=lambda process: process.create_time()).pid)


def _processes_of(container: str) -> set[int]:
    """All processes of a container of the holder: pid 1 and the kernel."""
    holder = client.find_holder()
    assert holder is not None
    channel = holder.connect()
    try:
        groups = channel.request("inspect", {"container": container})["groups"]
    finally:
        channel.close()
    lists = [Path(group, "cgroup.procs").read_text().split() for group in groups.values()]
    found = {int(pid) for pids in lists for pid in pids}
    assert len(found) == 2, found
    return found


def _shares(pids: Iterable[int]) -> float:
    """The sum of their PSS (proc_pid_smaps(5)): pages that n processes have count 1/n. MiB."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        (pss,) = (line for line in lines if line.startswith("Pss:"))
        total += int(pss.split()[1])
    return total / 1024


def _launcher_mib() -> float:
    """Of one that has made these and nothing else, whatever was measured before."""
    client.end_shared()
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
