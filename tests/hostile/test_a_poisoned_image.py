"""Corpus entry A 25: an image whose libraries and start-up files are poisoned (CVE-2019-14271).

They may do in the container what they like. No process of the host may open one of them, least of
all one that then resolves a name or starts a Python. strace(1) looks at every process.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from sandbox_kernel import policy
from sandbox_kernel.container import Container, ProcessSpec, changes, copying
from sandbox_kernel.runtime import client

POISONED = (
    "lib/x86_64-linux-gnu/libnss_files.so.2",
    "lib/x86_64-linux-gnu/libnss_poisoned.so.2",
    "etc/ld.so.preload",
    "etc/nsswitch.conf",
    "usr/lib/python3/sitecustomize.py",
    "usr/lib/x86_64-linux-gnu/gconv/gconv-modules",
    "usr/bin/python3",
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "image"
    for program in ("/bin/sh", "/usr/bin/id"):
        needed = subprocess.run(
            ["/usr/bin/ldd", program], capture_output=True, text=True, check=True
        ).stdout
        for source in [program, *(word for word in needed.split() if word.startswith("/"))]:
            place = made / source.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, place)
    for name in POISONED:
        place = made / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("poison\n")
        place.chmod(0o755)
    (made / "etc/passwd").write_text("root:x:0:0:poison:/:/bin/sh\nsomebody:x:7:7::/:/bin/sh\n")
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(folder.stat().st_mode | 0o055)
    return made


@pytest.mark.cve("CVE-2019-14271")
def test_a25_poisoned_files_are_opened_by_no_process_of_the_host(
    root: Path, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    assert client.shared().about["driver"]  # it runs
    hosts = (client.shared().pid, os.getpid())
    # Without -f: what they fork lives in the container, and may do there what it likes.
    looking = subprocess.Popen(
        ["/usr/bin/strace", "-qq", "-e", "trace=open,openat,openat2,execve", "-o", trace,
         *(word for pid in hosts for word in ("-p", str(pid)))],
    )  # fmt: skip
    try:
        wait_until_traced(hosts, looking)
        plan = policy.plan("program", image=f"dir:{root}", user="somebody", workdir="/")
        script = "exec 3</etc/nsswitch.conf 4</lib/x86_64-linux-gnu/libnss_poisoned.so.2; id"
        with Container.create(plan) as made:
            inside = made.run(ProcessSpec(argv=("/bin/sh", "-c", script)))
            assert inside.wait(30).status == 0
            inside.close()
            changes.changes(made)
            out = str(tmp_path / "out")
            copying.copy_out(made, "/etc", out, most_bytes=1 << 20, most_files=100)
    finally:
        looking.terminate()
        looking.wait(10)
    said = trace.read_text(errors="replace")
    assert '"upper"' in said or "image" in said  # it did look at them
    for name in POISONED:
        found = [line for line in said.splitlines() if f'{Path(name).name}"' in line]
        assert found == [], name
    assert (tmp_path / "out/ld.so.preload").read_text() == "poison\n"


def wait_until_traced(pids: tuple[int, ...], tracer: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    for pid in pids:
        while f"TracerPid:\t{tracer.pid}\n" not in Path(f"/proc/{pid}/status").read_text():
            assert tracer.poll() is None, "strace ended"
            assert time.monotonic() < deadline, "strace did not attach"
            time.sleep(0.01)
