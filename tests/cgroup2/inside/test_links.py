"""Slow and lossy links: this machine's kernel has `netem`. It has no rules for packets."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import sandbox_kernel
from sandbox_kernel import errors

pytestmark = pytest.mark.root

LINKS = """
import json, socket, time
from sandbox_kernel.linux import processes
from sandbox_kernel.network import links, netlink, shaping, spaces
from sandbox_kernel.network.protocol import Shape

def far_end():
    processes.unshare(processes.CLONE_NEWNET)
    return spaces.open_own()

def configure():
    route, index = netlink.route(), socket.if_nametoindex("there")
    links.add_address(route, index, "10.1.1.2", 24)
    links.switch_on(route, index)
    return route, index

def serve():
    return socket.create_server(("10.1.1.2", 80))

here, other = spaces.Spaces(), spaces.Outside()
route = netlink.route()
index = links.add_pair(route, "here", "there", other.call(far_end), "10.1.1.1", 24)
there = other.call(configure)
listener = other.call(serve)
talk = socket.create_connection(("10.1.1.2", 80), 30)
answers = listener.accept()[0]

def trip(shape, *, both):
    shaping.shape(route, index, shape)
    other.call(lambda: shaping.shape(*there, shape if both else Shape()))
    taken = []
    for _ in range(3):
        begin = time.monotonic()
        talk.sendall(b"x"); answers.recv(1); answers.sendall(b"y"); talk.recv(1)
        taken.append(time.monotonic() - begin)
    return min(taken)

slow = Shape(latency=0.3, bandwidth=10_000_000)
found = [trip(slow, both=False), trip(slow, both=True), trip(Shape(), both=True)]
shaping.shape(route, index, Shape(loss=1.0))
talk.sendall(b"x")
answers.settimeout(2)
try:
    answers.recv(1)
    lost = False
except TimeoutError:
    lost = True
print(json.dumps([*found, lost]))
"""


def test_a_link_delays_and_loses_each_way_and_is_changed_while_it_is_used() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LINKS], capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr
    one_way, both_ways, fast, lost = json.loads(done.stdout)
    assert 0.3 <= one_way < 0.6
    assert 0.6 <= both_ways < 3
    assert fast < 0.3
    assert lost


def test_without_rules_for_packets_there_is_no_network_and_it_is_said_why() -> None:
    with pytest.raises(errors.HostLacks, match="nf_tables") as caught:
        sandbox_kernel.run("pass", network="class")
    assert "\n" not in str(caught.value)
