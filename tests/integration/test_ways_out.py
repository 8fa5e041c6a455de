"""The way out of a container: that it ends with who holds it, and that a list acts at once.

In a host and an internet of the test's own (`network_world`), for root and for an ordinary user.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

import network_world as world
import pytest
from awaiting import until
from network_world import World
from ordinary_user import OrdinaryUser

pytestmark = pytest.mark.root  # it makes the namespaces, also for the ordinary user
GOOD = "good.example"
TALK = f"""
import socket, sys
talk = socket.create_connection(({GOOD!r}, 80), 10)
print("connected", flush=True)
sys.stdin.readline()
talk.settimeout(3)
try:
    talk.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
    print("answered" if talk.recv(100) else "ended")
except OSError:
    print("cut")
"""
REACH = f"""
import socket
try:
    print(socket.create_connection(({GOOD!r}, 80), 5) and "reached")
except OSError as error:
    print(type(error).__name__, error.errno)
"""
HOLDER = """
import json
from sandbox_kernel.network import protocol
from sandbox_kernel.network.client import Holder
found = Holder.find()
print(json.dumps(found and found.about["pid"]))
"""


class Who(NamedTuple):
    """A user of the host."""

    world: World
    user: OrdinaryUser | None

    def argv(self, *words: str) -> list[str]:
        python = self.user.python if self.user else sys.executable
        argv = [python, *words]
        return self.user.command(argv) if self.user else argv

    def python(self, code: str) -> str:
        done = self.world.run(self.argv("-c", code))
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def command(self, *words: str) -> str:
        done = self.world.run(self.argv("-m", "sandbox_kernel.cli.main", *words))
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def reach(self, *options: str) -> str:
        words = ("run", "--network", "bridge", *options, "host", "python3", "-c", REACH)
        return self.command(*words).strip()

    def holder(self) -> int:
        found = json.loads(self.python(HOLDER))
        assert found, "there is no holder"
        return int(found)

    def links(self) -> list[str]:
        """The links of the host that are ours."""
        done = self.world.run(["/bin/sh", "-c", "cat /proc/net/dev"])
        names = [line.split(":")[0].strip() for line in done.stdout.splitlines()[2:]]
        return [name for name in names if name.startswith("sandbox-")]

    def passes_on(self) -> str:
        read = "cat /proc/sys/net/ipv4/conf/uplink/forwarding"
        return self.world.run(["/bin/sh", "-c", read]).stdout.strip()


@pytest.fixture(params=["root", "ordinary"])
def who(request: pytest.FixtureRequest) -> Iterator[Who]:
    user = request.getfixturevalue("ordinary_user") if request.param == "ordinary" else None
    with World() as made:
        made.name(GOOD, world.PUBLIC)
        made.run(["/bin/sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward"])
        found = Who(made, user)
        yield found
        found.command("pool", "stop")


def test_the_machine_passes_packets_on_only_while_there_is_a_way_out(who: Who) -> None:
    root = who.user is None
    assert who.passes_on() == "0"
    assert who.reach() == "reached"
    who.command("pool", "stop")
    until(lambda: who.passes_on() == "0" and not who.links())
    name = who.command("run", "--detach", "--network", "bridge", "host", "sleep", "60").strip()
    assert (len(who.links()), who.passes_on()) == ((1, "1") if root else (0, "0"))
    os.kill(who.holder(), signal.SIGKILL)
    until(lambda: not who.links())
    # The kernel takes the holder's namespace away when it has time; until then nobody answers.
    asks = ("exec", name, "python3", "-c", REACH.replace(GOOD, world.PUBLIC))
    until(lambda: "OSError" in who.command(*asks))
    assert who.reach("--allow", f"{GOOD}:80") == "reached"
    who.command("rm", "--force", name)
    who.command("pool", "stop")
    until(lambda: who.passes_on() == "0" and not who.links())


def test_a_narrower_list_cuts_at_once_and_a_wider_one_lets_through(who: Who) -> None:
    words = ("run", "-i", "--name", "talker", "--network", "bridge", "--allow", f"{GOOD}:80")
    code = ("host", "python3", "-c", TALK)
    argv = who.world.command(who.argv("-m", "sandbox_kernel.cli.main", *words, *code))
    outcomes = []
    for change in ((), ("--disallow", f"{GOOD}:80"), ("--allow", "other.example:81")):
        with subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == "connected\n"
            if change:
                who.command("net", "change", *change, "talker")
            process.stdin.write("go\n")
            process.stdin.flush()
            outcomes.append(process.stdout.readline().strip())
    assert outcomes == ["answered", "cut", "answered"]


def test_what_is_dropped_is_told_with_its_reason(who: Who) -> None:
    code = """
import socket
for address, port in (("45.10.1.2", 443), ("169.254.169.254", 80)):
    try: socket.create_connection((address, port), 3)
    except OSError: pass
input()
"""
    words = (
        "run",
        "-i",
        "--name",
        "dropped",
        "--network",
        "bridge",
        "--allow",
        f"{GOOD}:80",
        "host",
    )
    argv = who.argv("-m", "sandbox_kernel.cli.main", *words, "python3", "-c", code)
    with subprocess.Popen(who.world.command(argv), stdin=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        told = """
import json
from sandbox_kernel.observe import networks
drops = networks.drops("dropped")["drops"]
print(json.dumps([[drop["reason"], drop["destination"], drop["port"]] for drop in drops]))
"""
        found: list[object] = []

        def both() -> bool:
            done = who.world.run(who.argv("-c", told))
            found[:] = json.loads(done.stdout) if done.returncode == 0 else []
            return len(found) >= 2

        until(both, 30)
        process.stdin.write("\n")
        process.stdin.flush()
    assert ["not-allowed", "45.10.1.2", 443] in found
    assert ["private", "169.254.169.254", 80] in found


@pytest.mark.parametrize("who", ["ordinary"], indirect=True)  # root has another way out
def test_without_pasta_or_after_its_end_there_is_no_way_out(who: Who) -> None:
    name = who.command("run", "--detach", "--network", "bridge", "host", "sleep", "60").strip()
    holder = who.holder()
    pasta = [pid for pid in _below(holder) if _name(pid).startswith("pas")]
    assert len(pasta) == 1
    os.kill(pasta[0], signal.SIGKILL)
    reach = REACH.replace(GOOD, world.PUBLIC)
    until(lambda: "OSError" in who.command("exec", name, "python3", "-c", reach))
    assert who.reach() == "reached"  # the next one has another
    who.command("rm", "--force", name)
    hide = ["/bin/mount", "--bind", "/dev/null", os.path.realpath("/usr/bin/pasta")]
    who.world.run(hide, check=True)
    who.command("pool", "stop")
    words = ("run", "--network", "bridge", "host", "true")
    done = who.world.run(who.argv("-m", "sandbox_kernel.cli.main", *words))
    assert done.returncode == 125
    assert "there is no `pasta`" in done.stderr
    assert "apt-get install passt" in done.stderr


def test_a_holder_that_is_killed_at_any_time_leaves_nothing(who: Who) -> None:
    words = ("run", "--network", "bridge", "host", "true")
    argv = who.world.command(who.argv("-m", "sandbox_kernel.cli.main", *words))
    for moment in (0.0, 0.1, 0.4):
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            until(lambda running=process: _holders(who.world) or running.poll() is not None)
            time.sleep(moment)
            for pid in _holders(who.world):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.communicate(timeout=60)
    assert who.reach() == "reached"
    who.command("pool", "stop")
    until(lambda: who.passes_on() == "0" and not who.links() and not _holders(who.world))


def _holders(made: World) -> list[int]:
    """Holders one of whose threads is in the network of this host."""
    host = os.stat(f"/proc/{made.host.pid}/ns/net").st_ino
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if _name(int(pid)) == "sandbox-network":
                tasks = os.listdir(f"/proc/{pid}/task")
                if host in [os.stat(f"/proc/{pid}/task/{t}/ns/net").st_ino for t in tasks]:
                    found.append(int(pid))
    return found


def _below(pid: int) -> list[int]:
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as file:
            for child in map(int, file.read().split()):
                found += [child, *_below(child)]
    return found


def _name(pid: int) -> str:
    with open(f"/proc/{pid}/comm") as file:
        return file.read().strip()
