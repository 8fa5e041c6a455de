"""Fifty kernels open at once, two hundred container cells from eight threads: nothing leaks."""

from __future__ import annotations

import gc
import os
import threading
from contextlib import ExitStack, suppress
from typing import NamedTuple

import kernels
import psutil
import pytest
from awaiting import until
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import sandbox_kernel
from sandbox_kernel import engine, policy
from sandbox_kernel.container import Container, ProcessSpec
from sandbox_kernel.container import events as e
from sandbox_kernel.container.cell import CellRequest
from sandbox_kernel.runtime import client

KERNELS = 50
THREADS = 8
CELLS = 200
MEBIBYTE = 1 << 20
SOCKETS = 2
"""Of a launcher without clients: to its program, and the one by which others find it."""
FIRST_NUMBER_TOO_HIGH = 1100
"""select(2) takes numbers below 1024."""


class Held(NamedTuple):
    """What a process has: descriptors, threads, bytes that are its own."""

    descriptors: int
    threads: int
    memory: int

    @classmethod
    def by(cls, pid: int) -> Held:
        process = psutil.Process(pid)
        return cls(process.num_fds(), process.num_threads(), process.memory_full_info().uss)

    def at_most(self, before: Held, *, grown: int) -> None:
        assert self[:2] == before[:2]
        assert self.memory - before.memory < grown


@pytest.mark.timeout(180)
def test_fifty_kernels_are_open_at_once_and_small_and_leave_nothing_open() -> None:
    with kernels.started() as first:
        assert kernels.text_of(first.run("print(1)")[1]) == "1\n"
    gc.collect()
    before = Held.by(os.getpid())
    with ExitStack() as stack:
        opened: list[kernels.Kernel] = []
        while len(opened) < KERNELS:
            some = [kernels.Starting() for _ in range(5)]
            opened += [stack.enter_context(one.ready()) for one in some]
        for number, kernel in enumerate(opened):
            assert kernels.text_of(kernel.run(f"print({number})")[1]) == f"{number}\n"
        relays = [psutil.Process(kernel.pid) for kernel in opened]
        launchers = [relay.children()[0] for relay in relays]
        sizes = {
            "relay": max(relay.memory_full_info().pss for relay in relays) / MEBIBYTE,
            "launcher": max(one.memory_full_info().pss for one in launchers) / MEBIBYTE,
        }
        print({name: f"{size:.1f} MiB" for name, size in sizes.items()})
        assert sizes["relay"] < 45
        assert sizes["launcher"] < 15
        everybody = [process for relay in relays for process in [relay, *relay.children(True)]]
    assert not psutil.wait_procs(everybody, timeout=10)[1]
    del opened, kernel, some
    gc.collect()
    Held.by(os.getpid()).at_most(before, grown=40 * MEBIBYTE)


def test_a_launcher_holds_more_containers_than_select_has_numbers_for() -> None:
    plan = policy.plan("program", image="host", memory="64m")
    with ExitStack() as stack:
        made = stack.enter_context(Container.create(plan))
        launcher = psutil.Process(client.shared().pid)
        while launcher.num_fds() < FIRST_NUMBER_TOO_HIGH:
            stack.enter_context(Container.create(plan))
        last = stack.enter_context(Container.create(plan))
        for container in (made, last):
            process = container.run(ProcessSpec(argv=("/bin/true",)))
            assert process.wait(20).status == 0
            process.close()
    assert client.shared().pid == launcher.pid
    client.stop_pool()
    assert launcher.num_fds() < FIRST_NUMBER_TOO_HIGH / 4


def test_200_cells_from_8_threads_leak_nothing() -> None:
    sandbox_kernel.run("pass").check()
    launcher = client.shared().pid
    shells = [_shell() for _ in range(THREADS)]
    failed: list[BaseException] = []
    _work(shells, 10 * THREADS, failed)  # what is made once is made now
    gc.collect()
    client.stop_pool()
    _put_away(launcher)
    before = [Held.by(os.getpid()), Held.by(launcher)]

    _work(shells, CELLS, failed)

    assert not failed
    gc.collect()
    client.stop_pool()
    _put_away(launcher)
    Held.by(os.getpid()).at_most(before[0], grown=8 * MEBIBYTE)
    # Python takes memory by the mebibyte, and the last events are kept.
    Held.by(launcher).at_most(before[1], grown=5 * MEBIBYTE // 2)
    assert client.shared().pid == launcher


def _put_away(launcher: int) -> None:
    """Until it has let go of the connection that was closed last, which takes it a moment, and of
    the network namespaces of containers that are over."""
    folder = f"/proc/{launcher}/fd"

    def links() -> list[str]:
        with suppress(FileNotFoundError):
            return [os.readlink(f"{folder}/{number}") for number in os.listdir(folder)]
        return []  # one was just closed

    def is_done() -> bool:
        found = links()
        networks = any(link.startswith("net:") for link in found)
        return sum(link.startswith("socket:") for link in found) == SOCKETS and not networks

    until(is_done)


def _work(shells: list[InteractiveShell], cells: int, failed: list[BaseException]) -> None:
    """So many cells, from a thread for each shell."""

    def run(shell: InteractiveShell) -> None:
        try:
            for number in range(cells // THREADS):
                _by_magic(shell, number) if number % 2 else _by_engine(number)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(shell,)) for shell in shells]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _shell() -> InteractiveShell:
    config = Config({"HistoryManager": {"enabled": False}})
    shell = InteractiveShell(config=config)
    shell.extension_manager.load_extension("sandbox_kernel")
    return shell


def _by_magic(shell: InteractiveShell, number: int) -> None:
    shell.user_ns["number"] = number
    shell.run_cell_magic("container", "--in number --out square", "square = number ** 2")
    assert shell.user_ns.pop("square") == number**2


def _by_engine(number: int) -> None:
    events = list(engine.start(policy.plan("program"), CellRequest(code=f"print({number})")))
    assert "".join(event.text for event in events if isinstance(event, e.Stdout)) == f"{number}\n"
    assert not any(isinstance(event, e.Error) for event in events)
