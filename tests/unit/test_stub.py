"""What a stub is after its start, as a program and, where that can't be, as a Python."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from awaiting import until

from sandbox_kernel.kernel import stub
from sandbox_kernel.linux import machine_code

NATIVE, OTHER = os.uname().machine, "riscv64"
CODE = """
import _signal, _socket, os, sys
from sandbox_kernel.kernel import stub
from sandbox_kernel.linux import machine_code, stub_process
if sys.argv[2] not in machine_code.MACHINES:
    of = stub_process.machine_code.of
    stub_process.machine_code.of = lambda programs, machine: of(programs, sys.argv[2])
_signal.signal(_signal.SIGINT, stub._pass_on)
channel = _socket.socket(fileno=int(sys.argv[1]))
channel.send(b"here")
sys.exit(stub._stay(channel))
"""


@contextmanager
def staying(machine: str) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """A stub whose relay is who asks, on a kind of processor."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        argv = [sys.executable, "-c", CODE, str(theirs.fileno()), machine]
        process = subprocess.Popen(argv, pass_fds=[theirs.fileno()])
        theirs.close()
        ours.settimeout(20)
        try:
            assert ours.recv(4) == b"here"
            until_it_stays(process.pid, python=machine != NATIVE)
            yield process, ours
        finally:
            process.kill()
            process.wait()


def until_it_stays(pid: int, *, python: bool) -> None:
    def stays() -> bool:
        status = Path(f"/proc/{pid}/status").read_text()
        facts = dict(line.partition(":\t")[::2] for line in status.splitlines())
        return caught(facts) if python else facts["Name"] == "sandbox-stub"

    until(stays)


def caught(facts: dict[str, str]) -> bool:
    """Whether SIGTERM has a handler, and neither signal is blocked."""
    bits = 1 << signal.SIGTERM - 1
    return bool(int(facts["SigCgt"], 16) & bits and not int(facts["SigBlk"], 16) & bits)


@pytest.mark.parametrize("machine", [NATIVE, OTHER])
def test_it_passes_on_signals_and_ends_with_the_status_of_the_relay(machine: str) -> None:
    with staying(machine) as (process, relay):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            process.send_signal(number)
            assert relay.recv(8) == bytes((number,))
        assert process.poll() is None
        relay.sendall(stub.ENDED + bytes((3,)))
        relay.close()
        assert process.wait(20) == 3


@pytest.mark.parametrize("said", [b"", stub.ENDED, b"x\0"])
@pytest.mark.parametrize("machine", [NATIVE, OTHER])
def test_a_relay_that_ends_without_a_word_is_lost(machine: str, said: bytes) -> None:
    with staying(machine) as (process, relay):
        relay.sendall(said)
        relay.close()
        assert process.wait(20) == stub.LOST_STATUS


@pytest.mark.parametrize("machine", [NATIVE, OTHER])
def test_it_survives_a_stop_and_a_relay_that_does_not_read(machine: str) -> None:
    with staying(machine) as (process, relay):
        process.send_signal(signal.SIGSTOP)
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGTERM)
        assert relay.recv(8) == bytes((signal.SIGTERM,))
        for _ in range(2000):
            process.send_signal(signal.SIGINT)
        assert process.poll() is None
        relay.sendall(stub.ENDED + b"\0")
        relay.close()
        assert process.wait(20) == 0


def test_it_is_a_page_of_machine_code_with_the_words_it_was_started_with() -> None:
    assert NATIVE in machine_code.MACHINES, "there is a program for this kind of processor"
    with staying(NATIVE) as (process, _):
        words = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
        assert words[0] == os.fsencode(sys.executable)
        assert words[1:3] == [b"-c", CODE.encode()]
        rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
        (pss,) = (int(line.split()[1]) for line in rollup.splitlines() if line[:4] == "Pss:")
        assert pss < 100  # KiB
