"""The cgroup drivers as the user `tester`: with the system's Python, as they need nothing else."""

from __future__ import annotations

import subprocess
from pathlib import Path

SYSTEM_PYTHON = "/usr/bin/python3"
PACKAGE = Path(__file__).resolve().parents[1]
AS_THE_USER = """
import os, sys, signal
sys.path.insert(0, sys.argv[1])
from sandbox_kernel import errors
from sandbox_kernel.runtime import cgroups
driver = cgroups.choose()
if driver.name == "none":
    print(driver.reason)
    raise SystemExit
support = driver.support()
resources = {"memory": {"limit": 33554432}, "pids": {"limit": 5}}
if not support["memory_swap"]:
    resources["memory"]["swap"] = 33554432
if not support["cpuset_cpus"]:
    resources["cpu"] = {"cpus": "0"}
group = driver.create("launcher/c", resources)
print(driver.name, group.limits()["memory"], group.limits()["pids_limit"])
run = group.child("run-1")
def join(group, pid):
    for entrance in group.entrances():
        os.write(entrance, str(pid).encode())
go, come = os.pipe()
child = os.fork()
if not child:
    os.read(go, 1)
    eaten = []
    while True:
        eaten.append(bytearray(b"x" * 1048576))
join(run, child)
os.write(come, b"x")
print(os.waitpid(child, 0)[1], group.oom_kills() > 0)
rest = os.fork()
if not rest:
    while True:
        signal.pause()
join(run, rest)
group.kill()
print(os.waitpid(rest, 0)[1])
run.remove()
group.remove()
print(all(not os.path.exists(path) for path in group.paths().values()))
"""
WITH_LIMITS = ["33554432 5", "9 True", "9", "True"]


def run_as_tester(*, into: Path | None = None) -> list[str]:
    """The lines that the program above says. `into`: the group that root puts it into first."""
    known = subprocess.run(["/usr/bin/id", "tester"], capture_output=True, check=False)
    if known.returncode != 0:
        subprocess.run(["/usr/sbin/useradd", "--create-home", "tester"], check=True)
    identity = ["--reuid", "tester", "--regid", "tester", "--init-groups"]
    program = [SYSTEM_PYTHON, "-I", "-S", "-c", AS_THE_USER, str(PACKAGE)]
    move = 'echo $$ > "$0"; exec "$@"'
    done = subprocess.run(
        ["/bin/sh", "-c", move, str(into or "/dev/null"), "/usr/bin/setpriv", *identity, *program],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd="/",
    )
    assert done.stderr == ""
    return done.stdout.splitlines()
