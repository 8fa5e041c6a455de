"""Networks of containers, for root and for an ordinary user: neighbours, ports, and their ends."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import sandbox_kernel
from sandbox_kernel import errors, policy, settings
from sandbox_kernel.container import Container, ProcessSpec
from sandbox_kernel.network import addresses, client, protocol
from sandbox_kernel.network.client import Holder
from sandbox_kernel.runtime.client import Launcher, shared

pytestmark = pytest.mark.everybody

# With a thread for each: who knocks to see whether it is there may be gone before it says goodbye.
SERVER = """
import http.server as h
h.ThreadingHTTPServer(('', 80), h.SimpleHTTPRequestHandler).serve_forever()
"""
TRY = """
import socket
def reach(host, port, seconds=5):
    try:
        socket.create_connection((host, port), seconds).close()
    except OSError as error:
        return type(error).__name__ + " " + str(error.errno)
    return "reached"
"""


@contextlib.contextmanager
def serving(name: str, network: str = "class", **options: object) -> Iterator[Container]:
    """A container with a web server that listens on port 80."""
    plan = policy.plan(settings.PROGRAM, name=name, network=network, **options)
    spec = ProcessSpec(argv=("python", "-c", SERVER), logged=True)
    with Container.create(plan, process=spec) as container:
        assert container.connected is not None
        wait = f"while reach({container.connected['address']!r}, 80, 1) != 'reached': pass"
        sandbox_kernel.run(TRY + wait, network=network, timeout=20).check()
        yield container


def found(code: str, **options: object) -> object:
    """What a cell in a network finds out, as `found`."""
    return sandbox_kernel.run(TRY + code, outputs=["found"], **options).check().outputs["found"]


def holder() -> Holder:
    there = Holder.find()
    assert there is not None
    return there


def test_containers_of_a_network_reach_each_other_by_name_and_nothing_else() -> None:
    code = """
import urllib.request
page = urllib.request.urlopen("http://web.", timeout=5).status
found = [page, reach("WEB", 80), reach("web", 81), reach("45.10.1.1", 80), reach("8.8.8.8", 53)]
"""
    with serving("web"):
        assert found(code, network="class") == [
            200, "reached", "ConnectionRefusedError 111", "OSError 113", "OSError 113",
        ]  # fmt: skip


def test_another_network_and_no_network_reach_it_neither_by_name_nor_by_address() -> None:
    with serving("web") as web:
        assert web.connected is not None
        address = web.connected["address"]
        code = f"found = [reach('web', 80, 2), reach({address!r}, 80, 2)]"
        assert found(code, network="other") == ["gaierror -2", "OSError 113"]
        assert found(code) == ["gaierror -3", "OSError 101"]


def test_the_files_that_say_whom_to_ask_are_ours_and_ipv6_is_off() -> None:
    code = """
found = [
    open("/etc/resolv.conf").read().split()[:2], open("/etc/hosts").read(),
    open("/proc/sys/net/ipv6/conf/all/disable_ipv6").read(),
    open("/sys/class/net/eth0/address").read()[:5],
]
"""
    assert found(code, network="class") == [
        ["nameserver", protocol.RESOLVER], "127.0.0.1\tlocalhost\n", "1\n", "02:5b",
    ]  # fmt: skip


def test_the_gateway_answers_names_and_nothing_else() -> None:
    code = """
gateway = socket.inet_ntoa(bytes.fromhex(open("/proc/net/route").read().split()[13])[::-1])
found = [reach(gateway, port, 2) for port in (22, 53, 8888)]
found += [reach("192.0.0.53", port, 2) for port in (22, 53)]
"""
    refused = "OSError 113"
    assert found(code, network="class") == [refused, refused, refused, refused, "reached"]


def test_a_container_of_a_network_is_ready_before_it_is_asked_for() -> None:
    options = {"network": "class", "warm": ["zipfile"]}
    for _ in range(2):
        sandbox_kernel.run("pass", **options).check()
    deadline = time.monotonic() + 30
    while not any(template["ready"] for template in shared().pool()):
        assert time.monotonic() < deadline
    code = """
import sys
found = ["zipfile" in sys.modules, socket.gethostbyname(socket.gethostname())[:3]]
"""
    warm, address = found(code, **options)  # type: ignore[misc] # a list of two
    assert warm
    assert address in ("10.", "172", "192", "100")


def test_a_published_port_leads_in_and_is_bound_where_it_was_said() -> None:
    with serving("web", publish=["80"]) as web:
        assert web.connected is not None
        (port,) = web.connected["published"]
        assert port["address"] == "127.0.0.1"
        address = f"http://127.0.0.1:{port['port']}/"
        assert urllib.request.urlopen(address, timeout=10).status == 200
        with pytest.raises(errors.InvalidOption, match="it is taken"):
            sandbox_kernel.run("pass", network="class", publish=[f"{port['port']}:80"])
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(address, timeout=10)
    with serving("web", publish=[f"{port['port']}:80"]):
        assert urllib.request.urlopen(address, timeout=10).status == 200


def test_the_gateway_keeps_its_hardware_address_while_others_come_and_go() -> None:
    """A bridge without one of its own takes the lowest of its ports; what is sent then is lost."""
    code = f"{TRY}reach('192.0.0.53', 53)\nfound = open('/proc/net/arp').read()"
    others = policy.plan(settings.PROGRAM, network="class")
    with sandbox_kernel.Sandbox(network="class") as sandbox:
        for _ in range(2):
            table = sandbox.run(code, outputs=["found"]).check().outputs["found"]
            gateway, _, _, hardware, *_ = table.splitlines()[1].split()
            assert hardware == addresses.hardware_address("02:5b", gateway)
            Container.create(others).close()


def test_many_bytes_pass_a_published_port_both_ways_and_its_ends_are_told() -> None:
    code = (
        "import socket; s = socket.create_server(('', 80)); c = s.accept()[0]; n = 0\n"
        "while d := c.recv(1 << 16): n += len(d)\n"
        # Its end would be that of its network, with what lies in its sockets still.
        "c.sendall(b'x' * n); c.close(); s.accept()"
    )
    plan = policy.plan(settings.PROGRAM, network="class", publish=["80"])
    with Container.create(plan, process=ProcessSpec(argv=("python", "-c", code))) as container:
        assert container.connected is not None
        port = container.connected["published"][0]["port"]
        count, sent = 3 << 20, b"y" * (3 << 20)
        while True:
            with socket.create_connection(("127.0.0.1", port), 10) as connection:
                connection.settimeout(10)
                try:
                    connection.sendall(sent)
                    connection.shutdown(socket.SHUT_WR)
                    got = 0
                    while data := connection.recv(1 << 16):
                        got += len(data)
                except OSError:
                    continue  # it does not listen yet
                if got:
                    break
        assert got == count


def test_a_container_shares_the_network_of_another_one() -> None:
    with serving("web"):
        assert found("found = reach('127.0.0.1', 80)", network="container:web") == "reached"


def test_a_name_is_given_once_in_a_network_whoever_asks() -> None:
    plan = policy.plan(settings.PROGRAM, name="web", network="class")
    launcher = Launcher()
    try:
        with serving("web"), pytest.raises(errors.StepFailed, match="has a container of this name"):
            Container.create(plan, launcher=launcher)
    finally:
        launcher.close()


def test_a_slow_link_is_slow_each_way() -> None:
    code = """
import time, urllib.request, threading
def serve(port):
    listener = socket.create_server(("", port)); accepted = listener.accept()[0]
    while accepted.recv(1 << 16): pass
    accepted.close()
"""
    sink = code + "serve(81)"
    plan = policy.plan(settings.PROGRAM, name="sink", network="class", bandwidth="8mbit")
    spec = ProcessSpec(argv=("python", "-c", TRY + sink))
    with Container.create(plan, process=spec):
        send = """
import time
while True:
    try: s = socket.create_connection(("sink", 81), 5); break
    except ConnectionRefusedError: pass
start = time.monotonic()
s.sendall(b"x" * 1500000)
s.shutdown(1)
s.recv(1)
found = time.monotonic() - start
"""
        taken = found(send, network="class")
    assert isinstance(taken, float)
    assert taken > 1.0  # 12 megabits at 8 a second, but for what the queue holds


def test_what_this_kernel_lacks_is_said_with_the_option() -> None:
    try:
        sandbox_kernel.run("pass", network="class", latency="10ms", cold=True).check()
    except errors.LimitNotEnforceable as error:
        assert "CONFIG_NET_SCH_NETEM" in str(error)  # where it has it, it works


def test_networks_are_made_described_and_removed() -> None:
    with Holder.start() as there:
        made = there.ask(protocol.Create(name="lab"))
        assert (made["kept"], made["outside"], made["containers"]) == (True, False, {})
        with pytest.raises(errors.StepFailed, match="there is one of this name"):
            there.ask(protocol.Create(name="lab"))
        with serving("web", network="lab") as web:
            assert list(there.ask(protocol.Inspect(name="lab"))["containers"]) == [web.id]
            with pytest.raises(errors.StepFailed, match="containers are in it: web"):
                there.ask(protocol.Remove(name="lab"))
        there.ask(protocol.Remove(name="lab"))
        with pytest.raises(errors.StepFailed, match="there is no such network"):
            there.ask(protocol.Inspect(name="lab"))
    client.stop()
    assert Holder.find() is None


def test_one_more_network_for_a_container_that_lives() -> None:
    with serving("web") as web, holder() as there:
        link = there.ask(protocol.Connect(container=web.id, network="second"))
        assert link["interface"] == "eth1"
        assert found("found = reach('web', 80)", network="second") == "reached"
        there.ask(protocol.Disconnect(container=web.id, network="second"))
        assert found("found = reach('web', 80)", network="second") == "gaierror -2"
        assert found("found = reach('web', 80)", network="class") == "reached"


@pytest.mark.fault(3)
def test_without_its_holder_a_container_has_no_network_and_the_next_one_has() -> None:
    code = "import os; found = sorted(os.listdir('/sys/class/net'))"
    with serving("web") as web, holder() as there:
        os.kill(there.about["pid"], signal.SIGKILL)
        deadline = time.monotonic() + 40
        while time.monotonic() < deadline:
            spec = ProcessSpec(
                argv=("python", "-c", "import os; print(os.listdir('/sys/class/net'))"), logged=True
            )
            process = web.run(spec)
            assert process.wait(10).status == 0
            said = b"".join(data for _, data in web.logs())
            if b"['lo']" in said:
                break
        else:
            pytest.fail(f"it still has a link: {said!r}")
        assert found(code, network="class") == ["eth0", "lo"]


LOOK_UP = """
import socket, sys, time
begun = time.monotonic()
try:
    found = socket.gethostbyname(sys.argv[1])
except OSError as error:
    found = error.strerror
print(found, "late" if time.monotonic() - begun > 5 else "in time")
"""


def looked_up(container: Container, name: str) -> str:
    """What a program in a container that lives finds for a name, and whether it had to wait."""
    process = container.run(ProcessSpec(argv=("python", "-c", LOOK_UP, name), logged=True))
    assert process.wait(30).status == 0
    return b"".join(data for _, data in container.logs()).decode().splitlines()[-1]


def has_the_socket_for_names(pid: int) -> bool:
    """Whether it is this process that answers at the address that containers ask."""
    address = int.from_bytes(socket.inet_aton(protocol.RESOLVER), sys.byteorder)
    rows = [line.split() for line in Path(f"/proc/{pid}/net/udp").read_text().splitlines()]
    (inode,) = [row[9] for row in rows if row[1] == f"{address:08X}:0035"]
    return f"socket:[{inode}]" in [os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir()]


@pytest.mark.fault(14)
def test_names_are_answered_by_the_holder_itself_and_after_it_is_killed_by_the_next_one() -> None:
    """No process by itself answers them, which could die alone and leave networks without names."""
    first, second = (
        policy.plan(settings.PROGRAM, name=name, network="class") for name in ("web", "asker")
    )
    with Container.create(first) as web, Container.create(second) as asker:
        assert web.connected is not None
        assert looked_up(asker, "web") == f"{web.connected['address']} in time"
        with holder() as there:
            killed = psutil.Process(there.about["pid"])
            if os.getuid() == 0:  # others may not look
                assert has_the_socket_for_names(killed.pid)
                assert killed.children() == []
            killed.kill()
        deadline = time.monotonic() + 40
        while (answer := looked_up(asker, "web")) != "Temporary failure in name resolution in time":
            assert time.monotonic() < deadline, answer

        third = policy.plan(settings.PROGRAM, name="later", network="class")
        with Container.create(third) as later, holder() as there:
            assert there.about["pid"] != killed.pid
            assert later.connected is not None
            assert looked_up(later, "later") == f"{later.connected['address']} in time"
            assert looked_up(later, "web") == "Name or service not known in time"
            with pytest.raises(errors.NoSuchContainer, match="start it anew"):
                there.ask(protocol.Connect(container=asker.id, network="class"))
    client.stop()
    assert Holder.find() is None


def test_a_killed_launcher_leaves_nothing_in_the_holder() -> None:
    plan = policy.plan(settings.PROGRAM, name="web", network="class", publish=["80"])
    spec = ProcessSpec(argv=("python", "-c", SERVER))
    launcher = Launcher()
    container = Container.create(plan, process=spec, launcher=launcher)
    with holder() as there:
        assert there.ask(protocol.Plugged(container=container.id))["published"]
        os.kill(launcher.pid, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while there.ask(protocol.Networks())["networks"]:
            assert time.monotonic() < deadline
    container.close()
    launcher.close()
    Launcher().close()  # which sweeps


@pytest.mark.whoever
@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({"network": "no such/name"}, "option `network`"),
        ({"network": "class", "publish": ["99999:80"]}, "option `publish`"),
        ({"network": "class", "publish": ["127.0.0.1:80:80/udp"]}, "option `publish`"),
        ({"network": "class", "bandwidth": "fast"}, "option `bandwidth`"),
        ({"network": "class", "loss": "200%"}, "option `loss`"),
        ({"network": "class", "allow": ["a.example:443"]}, "allow"),
        ({"publish": ["8080:80"]}, "publish"),
    ],
)
def test_wrong_options_are_refused_in_one_line(options: dict[str, object], allowed: str) -> None:
    with pytest.raises(errors.InvalidOption, match=allowed) as caught:
        sandbox_kernel.run("pass", **options)
    assert "\n" not in str(caught.value)
