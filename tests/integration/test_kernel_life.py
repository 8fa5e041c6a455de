"""Promises of the sandbox kernel's life: interrupts, limits, death, restart, shutdown."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty

import kernels
import psutil
import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.connect import write_connection_file
from kernel_promises import *  # noqa: F403
from kernels import Kernel, text_of

HANGS = (
    "import ctypes, signal\n"
    "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    "print('hanging', flush=True)\n"
    "ctypes.PyDLL(None).sleep(60)\n"  # with the interpreter's lock, so that nothing inside answers
)


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with kernels.started() as one:
        yield one


def error_of(outputs: list) -> dict:
    return next(m["content"] for m in outputs if m["msg_type"] == "error")


def test_20_73_no_outer_key_is_inside(kernel: Kernel) -> None:
    key = kernel.client.session.key.decode()
    code = (
        "import os, glob\n"
        "found = [open('/proc/self/environ').read(), open('/proc/self/cmdline').read()]\n"
        "kernel = get_ipython().kernel\n"
        "print(kernel.session.key.decode(), *found, os.getcwd())"
    )
    assert key not in text_of(kernel.run(code)[1])


def test_37_very_many_lines_are_cut_with_one_notice_and_the_relay_stays_small() -> None:
    with kernels.started(output_limit="1m") as kernel:
        _, outputs = kernel.run("for i in range(150_000): print('a line', i)")
        assert sum("output cut" in str(m["content"]) for m in outputs) == 1
        assert len(text_of(outputs)) < 2 << 20
        assert text_of(kernel.run("print('still here')")[1]) == "still here\n"
        _, outputs = kernel.run("print('x' * (200 << 20))")
        assert sum("output cut" in str(m["content"]) for m in outputs) == 1
        _, outputs = kernel.run("import os; os.write(1, b'\\xff\\xfe bytes\\n')")
        with open(f"/proc/{kernel.pid}/status", encoding="ascii") as status:
            peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
        assert peak < 120 << 10


def test_a_hung_call_is_ended_after_the_grace_and_jupyter_restarts_the_kernel() -> None:
    with kernels.started(interrupt_grace="1s") as kernel:
        cell = kernel.client.execute(HANGS)
        behind = kernel.client.execute("print('behind')")
        kernel.wait_for("stream", "hanging")
        began = time.monotonic()
        assert kernel.control("interrupt_request", {})["content"]["status"] == "ok"
        assert kernel.control("kernel_info_request", {})["content"]["status"] == "ok"
        assert time.monotonic() - began < 1

        reply, outputs = kernel.finish(cell)
        assert reply["content"]["ename"] == "Killed"
        assert "did not stop within 1 s" in error_of(outputs)["evalue"]
        assert kernel.finish(behind)[0]["content"]["status"] == "aborted"
        assert kernel.manager.provisioner.process.wait(10) == 1  # type: ignore[union-attr]
        kernel.manager.restart_kernel(now=True)
        kernel.client.wait_for_ready(timeout=kernels.SECONDS)
        assert text_of(kernel.run("print('again')")[1]) == "again\n"


BEFORE_ITS_CODE = """
import os, signal
def interrupt():
    get_ipython().events.unregister('pre_execute', interrupt)
    os.kill(os.getpid(), signal.SIGINT)
get_ipython().events.register('pre_execute', interrupt)
"""
DAWDLES = """
import asyncio
async def late(*_):
    await asyncio.sleep(0.2)
    return True
get_ipython().kernel.should_handle = late
"""


def test_an_interrupt_before_the_code_of_a_cell_stops_it() -> None:
    with kernels.started() as kernel:
        kernel.run(BEFORE_ITS_CODE)
        reply, outputs = kernel.run("print('runs')\nwhile True: pass")
        assert (reply["content"]["ename"], text_of(outputs)) == ("KeyboardInterrupt", "")
        kernel.run(DAWDLES)  # ipykernel ignores a signal until it has looked at the request
        cell = kernel.client.execute("while True: pass")
        kernel.wait_for("status", "busy")
        kernel.control("interrupt_request", {})
        assert kernel.finish(cell)[0]["content"]["ename"] == "KeyboardInterrupt"
        assert text_of(kernel.run("print('next')")[1]) == "next\n"


def test_a_cell_over_its_time_is_told_so() -> None:
    with kernels.started(timeout="1s") as kernel:
        reply, outputs = kernel.run("while True: pass")
        assert reply["content"]["ename"] == "TimedOut"
        assert "limit is 1 s" in error_of(outputs)["evalue"]
        assert text_of(kernel.run("print('next')")[1]) == "next\n"


@pytest.mark.fault(11)
def test_27_out_of_memory_is_an_error_with_limit_and_peak_and_a_fresh_kernel_follows() -> None:
    with kernels.started(memory="200m") as kernel:
        kernel.run("left_behind = 1")
        reply, outputs = kernel.run("x = bytearray(1 << 30)")
        assert reply["content"]["ename"] == "OutOfMemory"
        assert "the limit is 200 MiB" in error_of(outputs)["evalue"]
        kernel.manager.provisioner.process.wait(10)  # type: ignore[union-attr]
        kernel.manager.restart_kernel(now=True)
        kernel.client.wait_for_ready(timeout=kernels.SECONDS)
        assert kernel.run("left_behind")[0]["content"]["ename"] == "NameError"


def test_a_process_that_ends_itself_is_reported() -> None:
    with kernels.started() as kernel:
        reply, _ = kernel.run("import os; os._exit(3)")
        assert reply["content"]["ename"] == "Killed"
        assert "status 3" in reply["content"]["evalue"]


def test_a_kernel_whose_jupyter_was_killed_while_it_started_ends(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    file, _ = write_connection_file(str(tmp_path / "connection.json"), key=b"some key")
    command = [word.replace("{connection_file}", file) for word in kernels.ARGV]
    kernel = subprocess.Popen(command, env=os.environ | {"JPY_PARENT_PID": str(gone.pid)})
    try:
        assert kernel.wait(kernels.SECONDS) == 0
    finally:
        kernel.kill()


def test_exit_ends_the_kernel_in_order() -> None:
    with kernels.started() as kernel:
        reply, _ = kernel.run("exit()")
        assert reply["content"]["status"] == "ok"
        assert kernel.manager.provisioner.process.wait(10) == 0  # type: ignore[union-attr]


def test_shutdown_is_quick_although_the_inside_hangs() -> None:
    with kernels.started() as kernel:
        kernel.client.execute(HANGS)
        kernel.wait_for("stream", "hanging")
        began = time.monotonic()
        assert kernel.control("shutdown_request", {"restart": False})["content"]["status"] == "ok"
        kernel.manager.provisioner.process.wait(10)  # type: ignore[union-attr]
        assert time.monotonic() - began < 2.5


def test_what_can_not_start_tells_the_first_cell_why() -> None:
    with kernels.started(image="dir:/proc/sys") as kernel:
        reply, outputs = kernel.run("1")
        assert reply["content"]["status"] == "error"
        assert "Python" in error_of(outputs)["evalue"] or "image" in error_of(outputs)["evalue"]


def test_one_that_may_have_too_few_processes_to_start_names_the_limit() -> None:
    with kernels.started(pids_limit="4") as kernel:
        _, outputs = kernel.run("1")
        assert error_of(outputs)["ename"] == "TooManyProcesses"
        assert "the limit is 4" in error_of(outputs)["evalue"]


def test_one_whose_launcher_is_killed_while_it_starts_ends_and_the_next_is_whole() -> None:
    starting = kernels.Starting()
    relay = psutil.Process(starting.manager.provisioner.process.pid)  # type: ignore[union-attr]
    deadline = time.monotonic() + kernels.SECONDS
    while not any(child.name() == "sandbox-init" for child in relay.children(recursive=True)):
        assert time.monotonic() < deadline
    (launcher,) = (each for each in relay.children() if each.name() == "sandbox-launch")
    launcher.kill()
    assert starting.manager.provisioner.process.wait(10) == 1  # type: ignore[union-attr]
    starting.manager.restart_kernel(now=True)
    with starting.ready() as kernel:
        assert text_of(kernel.run("print('whole')")[1]) == "whole\n"


@pytest.mark.parametrize("argv", [kernels.ARGV, kernels.CELLS], ids=["sandbox", "cells"])
def test_one_that_waits_for_its_image_hears_that_it_is_to_end(
    argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks for `kernel_info` waits for what the image's name means, and nobody else does."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        registry = f"127.0.0.1:{silent.getsockname()[1]}"
        settings = tmp_path / "sandbox-kernel/config.toml"
        settings.parent.mkdir()
        settings.write_text(f"image = '{registry}/some/image:1'\n")
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
        starting = kernels.Starting(argv)
        client = starting.manager.client()
        client.start_channels()
        process = starting.manager.provisioner.process  # type: ignore[union-attr]
        silent.settimeout(kernels.SECONDS)
        connection, _ = silent.accept()
        with connection:
            client.kernel_info()
            time.sleep(0.5)  # it has come there, and no answer tells so
            starting.manager.shutdown_kernel()
        client.stop_channels()
        starting.manager.cleanup_resources()
    assert process.returncode == 0


def test_sandbox_shows_and_changes_the_live_limits(kernel: Kernel) -> None:
    reply, outputs = kernel.run("%sandbox --memory 700m\nprint('and the rest')")
    assert reply["content"]["status"] == "ok"
    shown = next(m["content"]["data"]["text/plain"] for m in outputs if "data" in m["content"])
    assert "memory" in shown
    assert "700" in shown
    assert text_of(outputs) == "and the rest\n"

    reply, outputs = kernel.run("%sandbox --memory banana")
    assert reply["content"]["ename"] == "InvalidOption"
    assert "banana" in error_of(outputs)["evalue"]
    assert len(error_of(outputs)["traceback"]) == 1


def another_client(kernel: Kernel) -> BlockingKernelClient:
    """Of somebody else: with a session of its own, and so another identity on the sockets."""
    client = BlockingKernelClient(connection_file=kernel.manager.connection_file)
    client.load_connection_file()
    client.start_channels()
    return client


@pytest.mark.fault(24)
def test_80_storms_and_clients_that_vanish_never_wedge_it() -> None:
    starting = kernels.Starting()
    for _ in range(3):  # before it answers for the first time
        starting.manager.interrupt_kernel()
        starting.manager.restart_kernel(now=True)
    with starting.ready() as kernel:
        gone = another_client(kernel)
        gone.execute("while True: print('x' * 1000)")
        kernel.wait_for("stream")
        gone.stop_channels()  # in the middle of its output
        for _ in range(20):
            kernel.client.session.send(
                kernel.client.control_channel.socket,
                kernel.client.session.msg("interrupt_request", {}),
            )
        reply, _ = kernel.run("1 + 1")
        assert reply["content"]["status"] in ("ok", "aborted")
        kernel.manager.restart_kernel(now=True)
        kernel.client.wait_for_ready(timeout=kernels.SECONDS)
        other = another_client(kernel)
        try:
            asked = [client.execute("print(6 * 7)") for client in (kernel.client, other)]
            assert text_of(kernel.finish(asked[0])[1]) == "42\n"
            reply = other.get_shell_msg(timeout=kernels.SECONDS)
            assert reply["parent_header"]["msg_id"] == asked[1]
        finally:
            other.stop_channels()


@contextmanager
def one_who_asks(argv: list[str]) -> Iterator[Kernel]:
    """A kernel, and a client whose socket for requests alone is there."""
    manager = kernels.Starting(argv).manager
    client = manager.client()
    client.start_channels(iopub=False, stdin=False, hb=False, control=False)
    try:
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel()


@pytest.mark.parametrize("argv", [kernels.ARGV, kernels.CELLS], ids=["kernel", "cells"])
def test_what_a_client_asks_before_it_listens_is_done_when_it_does(argv: list[str]) -> None:
    """Its sockets connect each in its own time: nothing of its first request is lost."""
    with one_who_asks(argv) as kernel:
        asked = kernel.client.kernel_info()  # which needs no container
        with pytest.raises(Empty):
            kernel.client.get_shell_msg(timeout=0.5)
        kernel.client.iopub_channel.start()
        _, outputs = kernel.finish(asked)
        assert [message["content"] for message in outputs] == [
            {"execution_state": "busy"}, {"execution_state": "idle"}
        ]  # fmt: skip


@pytest.mark.parametrize("argv", [kernels.ARGV, kernels.CELLS], ids=["kernel", "cells"])
def test_a_client_that_never_listens_is_answered(argv: list[str]) -> None:
    with one_who_asks(argv) as kernel:
        kernel.client.kernel_info()
        reply = kernel.client.get_shell_msg(timeout=kernels.SECONDS)
        assert reply["msg_type"] == "kernel_info_reply"
