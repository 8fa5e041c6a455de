"""Corpus group H: what code in a container reaches by its network, and what it must not.

Each test has the number of its entry. The world around is made of namespaces (`network_world`): an
internet in which every address answers and every packet is written down, and a host with listeners
on its loopback. One hostile program for each kind of network tries everything at once; the tests
look at what came of it inside, and at the canaries outside. For root and for an ordinary user.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import network_world as world
import pytest
from network_world import World
from ordinary_user import OrdinaryUser

from sandbox_kernel.network import firewall

pytestmark = pytest.mark.root  # it makes the namespaces, also for the ordinary user
TESTS = Path(__file__).parents[1]
PROBE = (TESTS / "network_probe.py").read_text()
EVIL, GOOD = "evil.example", "good.example"
HIDDEN = (*world.METADATA, *world.PRIVATE)
LITERALS = {  # of 169.254.169.254
    "decimal": "2852039166", "hexadecimal": "0xa9fea9fe", "octal": "0251.0376.0251.0376",
    "two parts": "169.16689662", "mapped": "[::ffff:169.254.169.254]",
    "mapped hex": "[::ffff:a9fe:a9fe]",
}  # fmt: skip
SIX = ("2606:99::1", "fd00:ec2::254", "fe80::1", "2002:a9fe:a9fe::1", "64:ff9b::a9fe:a9fe", "::1")


class Who(NamedTuple):
    """A user of the host, who runs the command there."""

    world: World
    user: OrdinaryUser | None

    def command(self, *words: str, **variables: str) -> list[str]:
        """The argv of the command, run by the user in the host, with these variables."""
        python = self.user.python if self.user else sys.executable
        given = [f"{name}={value}" for name, value in variables.items()]
        argv = ["/usr/bin/env", *given, python, "-m", "sandbox_kernel.cli.main", *words]
        return self.world.command(self.user.command(argv) if self.user else argv)

    def run(self, *words: str) -> str:
        """What it printed. Fails when it fails."""
        return self._output(self.command(*words))

    def python(self, code: str) -> str:
        """What a program of the user printed, that uses the library."""
        argv = [self.user.python if self.user else sys.executable, "-c", code]
        return self._output(self.world.command(self.user.command(argv) if self.user else argv))

    @staticmethod
    def _output(argv: list[str]) -> str:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=90, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def attempt(self, options: list[str], attempts: dict[str, list[object]]) -> dict[str, str]:
        """What came of attempts in a container with these options."""
        words = ["run", *options, "--env", f"ATTEMPTS={json.dumps(attempts)}", "host"]
        found: dict[str, str] = json.loads(self.run(*words, "python3", "-c", PROBE))
        return found


@pytest.fixture(scope="module", params=["root", "ordinary"])
def who(request: pytest.FixtureRequest) -> Iterator[Who]:
    user = request.getfixturevalue("ordinary_user") if request.param == "ordinary" else None
    with World() as made:
        found = Who(made, user)
        names(made)
        yield found
        found.run("pool", "stop")


def names(made: World) -> None:
    made.name(GOOD, world.PUBLIC)
    made.name("metadata.example", world.METADATA[0])
    made.name("loopback.example", "127.0.0.1")
    made.name("inside.example", world.PRIVATE[0])
    made.name("alias.example", alias="metadata.example")
    made.name("many.example", *world.PRIVATE, world.PUBLIC, *world.METADATA)
    made.name("rebinding.example", world.PUBLIC, ttl=0)
    made.name("rebinding.example", world.PRIVATE[0], ttl=0)
    made.name(f"{GOOD}.{EVIL}", world.OTHER)
    made.name(EVIL, world.OTHER)


def everywhere() -> dict[str, list[object]]:
    """What must fail in every network."""
    tried: dict[str, list[object]] = {
        "the host": ["tcp", world.HOST, 8888],
        "the host by udp": ["udp", world.HOST, 9999],
        "the gateway": ["gateway", "tcp", 8888],
        "the gateway by udp": ["gateway", "udp", 9999],
        "docker at the gateway": ["gateway", "tcp", 2375],
        "an abstract socket": ["abstract", world.ABSTRACT[1:]],
        "a redirect": ["http", f"http://{GOOD}/to/http://{world.METADATA[0]}/"],
    }
    for address in ("127.0.0.1", "0.0.0.0", "::1", "::ffff:127.0.0.1"):
        tried[f"loopback {address}"] = ["tcp", address, 8888]
    for address in (*HIDDEN, *SIX):
        tried[f"tcp {address}"] = ["tcp", address, 80]
        tried[f"udp {address}"] = ["udp", address, 9999]
    for notation, text in LITERALS.items():
        tried[f"metadata {notation}"] = ["http", f"http://{text}/"]
    for name in ("metadata", "loopback", "inside", "alias"):
        tried[f"name {name}"] = ["http", f"http://{name}.example/"]
    return tried


class Outcome(NamedTuple):
    """What came of it: inside; at the internet; at the host; who was asked for which name."""

    inside: dict[str, str]
    reached: set[tuple[str, str, int]]
    canaries: dict[str, int]
    asked: set[str]


def tried(who: Who, options: list[str], attempts: dict[str, list[object]]) -> Outcome:
    who.world.forget()
    names(who.world)
    inside = who.attempt(options, attempts)
    reached = set(who.world.packets()) - {(world.NAME_SERVER, "udp", 53)}
    return Outcome(inside, reached, who.world.canaries(), set(who.world.asked()))


def got(outcome: Outcome) -> dict[str, str]:
    return {what: said for what, said in outcome.inside.items() if said.startswith("reached")}


@pytest.fixture(scope="module")
def open_way(who: Who) -> Outcome:
    """With a way out and no list."""
    own: dict[str, list[object]] = {
        "good": ["http", f"http://{GOOD}/"],
        "many": ["name", "many.example"],
        "rebinding": ["twice", "rebinding.example"],
        "udp": ["udp", world.PUBLIC, 123],
    }
    return tried(who, ["--network", "bridge"], own | everywhere())


LISTED = (f"{GOOD}:80", "many.example:80", "rebinding.example:80", "alias.example:80",
    "metadata.example:80", "loopback.example:80", "inside.example:80")  # fmt: skip
RESOLVERS = ("8.8.8.8", "45.10.9.9")


@pytest.fixture(scope="module")
def listed(who: Who) -> Outcome:
    """With a way out, by an allow-list."""
    own: dict[str, list[object]] = {
        "good": ["http", f"http://{GOOD}/"],
        "many": ["name", "many.example"],
        "rebinding": ["twice", "rebinding.example"],
        "another port": ["tcp", world.PUBLIC, 443],
        "a proxy's port": ["tcp", world.PUBLIC, 8080],
        "quic": ["udp", world.PUBLIC, 443],
        "another address": ["tcp", world.OTHER, 80],
        "an allowed name in the head": ["http", f"http://{world.OTHER}/", GOOD],
        "a longer name": ["http", f"http://{GOOD}.{EVIL}/"],
        "another name": ["http", f"http://{EVIL}/"],
        "a tunnel": ["name", f"{'secret' * 8}.{EVIL}"],
    }
    for address in RESOLVERS:
        own[f"dns {address}"] = ["udp", address, 53]
        for port in (53, 853, 443):
            own[f"dns {address} {port}"] = ["tcp", address, port]
    words = [word for entry in LISTED for word in ("--allow", entry)]
    return tried(who, words, own | everywhere())


@pytest.fixture(scope="module")
def named(who: Who) -> Outcome:
    """In a network between containers."""
    own: dict[str, list[object]] = {
        "good": ["http", f"http://{GOOD}/"],
        "another address": ["tcp", world.OTHER, 80],
        "a name": ["name", EVIL],
    }
    return tried(who, ["--network", "h-class"], own | everywhere())


@pytest.fixture(params=["open", "listed", "named"])
def outcome(
    request: pytest.FixtureRequest, open_way: Outcome, listed: Outcome, named: Outcome
) -> Outcome:
    """What came of it in each kind of network."""
    return {"open": open_way, "listed": listed, "named": named}[request.param]


def test_the_way_out_is_open_where_it_should_be(open_way: Outcome, listed: Outcome) -> None:
    """Else all the others prove nothing."""
    assert got(open_way).keys() >= {"good", "udp"}
    assert got(listed).keys() >= {"good"}


@pytest.mark.cve("host loopback through the gateway")
def test_90_no_listener_of_the_host_is_reached(outcome: Outcome) -> None:
    assert outcome.canaries == {}
    for what in ("the host", "the gateway", "an abstract socket", "loopback 127.0.0.1"):
        assert what not in got(outcome)


def test_91_no_metadata_service_is_reached_in_any_notation(outcome: Outcome) -> None:
    assert not {at for at, _, _ in outcome.reached} & set(world.METADATA)
    assert not [what for what in got(outcome) if what.startswith("metadata")]
    assert "a redirect" not in got(outcome)


def test_92_a_name_that_leads_to_a_private_address_leads_nowhere(outcome: Outcome) -> None:
    assert not {at for at, _, _ in outcome.reached} & set(HIDDEN)
    assert not [what for what in got(outcome) if what.startswith("name ")]


def test_92_of_many_addresses_only_public_ones_are_told(open_way: Outcome, listed: Outcome) -> None:
    for outcome in (open_way, listed):
        assert outcome.inside["many"] == f"reached {world.PUBLIC}"
        assert "rebinding" not in got(outcome)


def test_92_names_that_only_look_like_an_allowed_one_are_asked_of_nobody(listed: Outcome) -> None:
    assert not got(listed).keys() & {"a longer name", "another name"}
    assert not [name for name in listed.asked if EVIL in name]


def test_93_the_address_decides_and_not_what_is_said_to_it(listed: Outcome) -> None:
    assert not got(listed).keys() & {
        "another port", "a proxy's port", "quic", "another address", "an allowed name in the head",
    }  # fmt: skip
    assert listed.reached == {(world.PUBLIC, "tcp", 80)}


def test_94_ipv6_is_off(outcome: Outcome) -> None:
    assert not [what for what in got(outcome) if what.split()[-1] in SIX]
    assert not [packet for packet in outcome.reached if ":" in packet[0]]


def test_95_there_is_no_other_resolver_under_a_list(listed: Outcome) -> None:
    assert not [what for what in got(listed) if what.startswith("dns")]
    assert not {at for at, _, _ in listed.reached} & set(RESOLVERS)
    assert "a tunnel" not in got(listed)


def test_a_network_between_containers_has_no_way_out(named: Outcome) -> None:
    assert named.reached == set()
    assert named.asked == set()
    assert not got(named)


# -- neighbours -----------------------------------------------------------------------------------

LISTENER = """
import socket
opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
opened.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
opened.bind(("", 9999))
kept = socket.create_server(("", 8080))
while True:
    data, source = opened.recvfrom(100)
    print(source[0], data.decode(), flush=True)
    opened.sendto(b"heard", source)
"""


@contextmanager
def service(who: Who, name: str, network: str) -> Iterator[str]:
    """A container that listens and writes down who spoke to it; its address."""
    options = ["--detach", "--network", network, "--name", name, "--wait-port", "8080"]
    who.run("run", *options, "host", "python3", "-c", LISTENER)
    try:
        members = json.loads(who.run("net", "inspect", network))[0]["containers"]
        yield next(each["address"] for each in members.values() if each["name"] == name)
    finally:
        who.run("rm", "--force", name)


def test_96_who_pretends_to_be_another_one_is_not_heard(who: Who) -> None:
    with service(who, "h-victim", "h-class") as victim:
        other = victim.rpartition(".")[0] + ".200"
        attempts: dict[str, list[object]] = {
            "honest": ["udp", victim, 9999],
            "by name": ["udp", "h-victim", 9999],
            "another's address": ["raw", other, victim, 9999, None, None],
            "another's hardware": ["raw", other, victim, 9999, "02:5b:00:00:00:09", None],
            "an outside address": ["raw", "9.9.9.9", victim, 9999, None, "ff:ff:ff:ff:ff:ff"],
            "arp": ["arp", other, victim],
            "broadcast": ["raw", other, "255.255.255.255", 9999, None, "ff" * 6],
            "multicast": ["udp", "224.0.0.251", 9999],
        }
        options = ["--network", "h-class", "--cap-add", "NET_RAW", "--cap-add", "NET_ADMIN"]
        inside = who.attempt(options, attempts)
        why = who.run("net", "watch", "--until-now", "--format", "json")

        assert inside["honest"] == inside["by name"] == "reached heard"
        assert "reached" not in inside["multicast"]
        heard = [line.partition(" ")[2] for line in who.run("logs", "h-victim").splitlines()]
        assert heard == ["hello", "hello"]
        assert {json.loads(line)["reason"] for line in why.splitlines()} >= {"spoofed"}


def test_96_containers_with_a_way_out_are_no_neighbours(who: Who) -> None:
    with service(who, "h-victim", "bridge") as victim:
        attempts: dict[str, list[object]] = {
            "tcp": ["tcp", victim, 8080],
            "udp": ["udp", victim, 9999],
            "out": ["http", f"http://{GOOD}/"],
        }
        inside = who.attempt(["--network", "bridge"], attempts)

        assert [what for what, said in inside.items() if said.startswith("reached")] == ["out"]
        assert who.run("logs", "h-victim") == ""


# -- floods, and the end of those who keep watch --------------------------------------------------


def test_98_a_flood_costs_the_others_nothing_that_they_notice(who: Who) -> None:
    flooding = PROBE.partition("if __name__")[0]
    flooding += f"""
flood("{world.PUBLIC}", 80, 900)
print("full", flush=True)
while True:
    try:
        name("x.{GOOD}")
    except OSError:
        pass
"""
    options = ["--detach", "--network", "bridge", "--name", "h-flood", "--ulimit", "nofile=1024"]
    who.run("run", *options, "host", "python3", "-c", flooding)
    try:
        inside = who.attempt(["--allow", f"{GOOD}:80"], {"good": ["http", f"http://{GOOD}/"]})

        assert inside["good"].startswith("reached")
    finally:
        who.run("rm", "--force", "h-flood")


FLOWS = f"""
import socket, time
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
    for port in range(20000, 26000):
        opened.sendto(b"one more", ("{world.PUBLIC}", port))
    print("full", flush=True)
    time.sleep(600)
"""


def test_98_nobody_fills_the_table_of_flows(who: Who) -> None:
    """Six thousand at once: those above the bound are refused, and others have theirs."""
    options = ["--detach", "--network", "bridge", "--name", "h-flows"]
    who.world.forget()
    names(who.world)
    who.run("run", *options, "host", "python3", "-c", FLOWS)
    deadline = time.monotonic() + 30
    try:
        while who.run("logs", "h-flows") != "full\n":
            assert time.monotonic() < deadline
        why = who.run("net", "watch", "h-flows", "--until-now", "--format", "json")
        inside = who.attempt(["--network", "bridge"], {"good": ["http", f"http://{GOOD}/"]})
    finally:
        who.run("rm", "--force", "h-flows")
        who.run("pool", "stop")

    assert "too-many-flows" in {json.loads(line)["reason"] for line in why.splitlines()}
    # By their ports: packets of the flood before may be counted late.
    flows = {(at, port) for at, protocol, port in who.world.packets() if protocol == "udp"}
    assert 0 < sum(at == world.PUBLIC for at, _ in flows) <= firewall.MOST_FLOWS + 100
    assert inside["good"].startswith("reached")


HOLDER = "from sandbox_kernel.network.client import Holder as h; print(h.find().about['pid'])"


@pytest.mark.fault(3)
def test_98_when_the_holder_is_killed_there_is_no_network(who: Who) -> None:
    speaking = f"""
import socket, time
while True:
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
            opened.sendto(b"on", ("{world.PUBLIC}", 123))
    except OSError:
        pass
    time.sleep(0.01)
"""
    words = ["run", "--detach", "--network", "bridge", "--name", "h-left", "host", "python3", "-c"]
    who.run(*words, speaking)
    try:
        assert packets_come(who, seconds=10)
        os.kill(int(who.python(HOLDER)), signal.SIGKILL)

        assert not packets_come(who, seconds=0.5)
        inside = who.attempt(["--network", "bridge"], {"good": ["http", f"http://{GOOD}/"]})
        assert inside["good"].startswith("reached")
        assert not packets_come(who, seconds=0.2)
    finally:
        who.run("rm", "--force", "h-left")
        who.run("pool", "stop")


def packets_come(who: Who, *, seconds: float) -> bool:
    """Whether there come more than were on their way, within so long."""
    time.sleep(0.1)
    before = who.world.reached(world.PUBLIC, 123)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if who.world.reached(world.PUBLIC, 123) > before:
            return True
        time.sleep(0.02)
    return False


# -- ports ----------------------------------------------------------------------------------------

CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3)"


def test_97_only_declared_ports_lead_in_and_on_loopback_only(who: Who) -> None:
    """Whatever it listens on: nothing but what was published, and that for this machine alone."""
    options = ["--publish", "18080:8080", "--name", "h-open", "--wait-port", "8080"]
    who.run("run", "--detach", "--network", "h-open", *options, "host", "python3", "-c", LISTENER)
    try:
        words = ["run", "--network", "h-open", "--publish", "18080:80", "host", "true"]
        taken = subprocess.run(who.command(*words), capture_output=True, text=True, check=False)
        here = who.world.run([sys.executable, "-c", CONNECT, "127.0.0.1", "18080"])
        other = who.world.run([sys.executable, "-c", CONNECT, "127.0.0.1", "8080"])
        outside = who.world.from_internet([sys.executable, "-c", CONNECT, world.HOST, "18080"])
    finally:
        who.run("rm", "--force", "h-open")
        who.run("pool", "stop")

    assert here.returncode == 0, here.stderr
    assert other.returncode != 0
    assert "ConnectionRefusedError" in outside.stderr
    assert taken.returncode == 125
    assert "--publish" in taken.stderr
    assert taken.stderr.count("\n") == 1


def test_97_a_privileged_port_is_for_root_and_on_loopback_only(who: Who) -> None:
    """The holder of a user's networks binds what he may, and no container gets more by it."""
    options = ["--publish", "443:8080", "--name", "h-low", "--wait-port", "8080"]
    words = ["run", "--detach", "--network", "h-low", *options, "host", "python3", "-c", LISTENER]
    try:
        began = subprocess.run(who.command(*words), capture_output=True, text=True, check=False)
        here = who.world.run([sys.executable, "-c", CONNECT, "127.0.0.1", "443"])
        outside = who.world.from_internet([sys.executable, "-c", CONNECT, world.HOST, "443"])
    finally:
        subprocess.run(who.command("rm", "--force", "h-low"), capture_output=True, check=False)
        who.run("pool", "stop")

    assert "ConnectionRefusedError" in outside.stderr
    if who.user is None:
        assert began.returncode == 0, began.stderr
        assert here.returncode == 0, here.stderr
    else:
        assert began.returncode == 125
        assert "a port from 1024 on: lower ones are for root" in began.stderr
        assert began.stderr.count("\n") == 1
        assert "ConnectionRefusedError" in here.stderr


# -- builds ---------------------------------------------------------------------------------------

KNOCK = r"""
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
int main(int count, char **words) {
    for (int i = 1; i + 1 < count; i += 2) {
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(words[i + 1]))};
        inet_aton(words[i], &to.sin_addr);
        int knocks = socket(AF_INET, SOCK_STREAM, 0);
        int failed = connect(knocks, (struct sockaddr *)&to, sizeof to);
        printf("%s %s %s\n", failed ? "lost" : "reached", words[i], words[i + 1]);
    }
}
"""


@pytest.fixture(scope="module")
def context() -> Iterator[Path]:
    """A folder for a build, with a program that knocks at addresses and needs nothing else."""
    with tempfile.TemporaryDirectory(prefix="sandbox-kernel-context-", dir="/var/tmp") as folder:
        made = Path(folder)
        made.chmod(0o755)
        compiler = ["/usr/bin/gcc", "-static", "-x", "c", "-", "-o", str(made / "knock")]
        subprocess.run(compiler, input=KNOCK, text=True, check=True)
        yield made


def build(
    who: Who, context: Path, line: str, *options: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    (context / "Containerfile").write_text(f"FROM scratch\nCOPY knock /knock\n{line}\n")
    (context / "Containerfile").chmod(0o644)
    words = who.command("build", *options, "--no-cache", str(context), **variables)
    return subprocess.run(words, capture_output=True, text=True, timeout=90, check=False)


@pytest.mark.skipif(
    "SANDBOX_KERNEL_TEST_MACHINE" in os.environ,
    reason="user-mode Linux has no nf_tables for bridges, so a container has no way out there",
)
def test_99_a_step_of_a_build_reaches_what_a_cell_of_the_same_plan_does(
    who: Who, context: Path
) -> None:
    """By the same policy: nothing, public addresses, or the package index alone."""
    places = (world.PUBLIC, world.OTHER, world.HOST, *HIDDEN)
    tried = [*((place, "80") for place in places), (world.HOST, "8888"), ("127.0.0.1", "8888")]
    line = f"RUN {json.dumps(['/knock', *(word for each in tried for word in each)])}"
    index = {"UV_DEFAULT_INDEX": f"http://{world.PUBLIC}/simple/"}
    for options, reached in (
        ((), set()),
        (("--network", "bridge"), {world.PUBLIC, world.OTHER}),
        (("--allow-from", "requirements"), {world.PUBLIC}),
    ):
        who.world.forget()
        done = build(who, context, line, *options, **index)
        said = done.stdout + done.stderr

        assert done.returncode == 0, said
        assert said.count(" 80\n") >= len(places)
        assert {w.split()[-2] for w in said.splitlines() if "reached" in w} == reached
        assert who.world.addresses() == reached
        assert not any(who.world.canaries().values())
    who.run("pool", "stop")


@pytest.mark.parametrize(
    "address",
    [f"http://{world.METADATA[0]}/a", "http://metadata.example/a", "http://inside.example/a",
     f"http://{GOOD}/to/http://{world.METADATA[0]}/a"],
)  # fmt: skip
def test_99_what_a_build_adds_from_elsewhere_is_public(
    who: Who, context: Path, address: str
) -> None:
    who.world.forget()
    names(who.world)
    done = build(who, context, f"ADD {address} /got")

    assert done.returncode != 0
    assert "public network" in done.stderr
    assert not who.world.addresses() & set(HIDDEN)
    assert not any(who.world.canaries().values())
