"""The sandbox kernel beside plain ipykernel: start, empty cell, much output, one large display.

Both are started by `jupyter_client` with the same interpreter, and what arrived is counted: a
kernel that loses or cuts output fails here instead of being fast.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager

from benchmarks.pairs import Pair, measure

SECONDS = 120.0
PLAIN = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
SANDBOX = [sys.executable, "-m", "sandbox_kernel", "-f", "{connection_file}"]

STREAM_BYTES, DISPLAY_BYTES = 100_000_000, 50_000_000
STREAM = f"""
import subprocess
import sys
for _ in range({STREAM_BYTES} // 100_000):
    sys.stdout.write(("x" * 99 + "\\n") * 1000)
"""
DISPLAY = f"display({{'text/plain': 'x' * {DISPLAY_BYTES}}}, raw=True)"


def pairs(rounds: int) -> Iterator[Pair]:
    """The pairs of this module; `rounds` of the quick ones, fewer of those that take seconds."""
    yield measure(
        "start of a kernel to its first result",
        lambda: answer(SANDBOX),
        "ipykernel",
        lambda: answer(PLAIN),
        bound=1.25,
        rounds=max(5, rounds // 4),
        warm=1,
    )
    with ExitStack() as stack:
        sandbox = stack.enter_context(started(SANDBOX))
        plain = stack.enter_context(started(PLAIN))
        yield measure(
            "empty cell",
            lambda: _cell(sandbox, "", 0),
            "ipykernel",
            lambda: _cell(plain, "", 0),
            bound=1.2,
            rounds=rounds * 10,
            warm=20,
        )
        for what, code, size in (
            ("100 MB of stream output", STREAM, STREAM_BYTES),
            ("a 50 MB display message", DISPLAY, DISPLAY_BYTES),
        ):
            yield measure(
                what,
                lambda code=code, size=size: _cell(sandbox, code, size),  # type: ignore[misc]
                "ipykernel",
                lambda code=code, size=size: _cell(plain, code, size),  # type: ignore[misc]
                bound=1.3,
                rounds=max(3, rounds // 8),
                warm=1,
            )


@contextmanager
def started(argv: list[str], **environment: str) -> Iterator[BlockingKernelClient]:
    """A client of a new kernel that is ready."""
    manager = KernelManager()
    manager._kernel_spec = KernelSpec(
        argv=argv, language="python", display_name="benchmark", env=environment
    )
    manager.start_kernel(stderr=subprocess.DEVNULL)
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=SECONDS)
        yield client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


def answer(argv: list[str], **environment: str) -> None:
    """What a user waits for: from asking for a kernel to the answer of a first cell."""
    with started(argv, **environment) as client:
        _cell(client, "print('ready')", len("ready\n"))


def _cell(client: BlockingKernelClient, code: str, size: int) -> None:
    """Run a cell to its end, and count what it printed or displayed."""
    msg_id = client.execute(code)
    arrived = 0
    while True:
        message = client.get_iopub_msg(timeout=SECONDS)
        if message["parent_header"].get("msg_id") != msg_id:
            continue
        content = message["content"]
        if message["msg_type"] == "stream":
            arrived += len(content["text"])
        elif message["msg_type"] == "display_data":
            arrived += len(content["data"]["text/plain"])
        elif content.get("execution_state") == "idle":
            break
    while client.get_shell_msg(timeout=SECONDS)["parent_header"]["msg_id"] != msg_id:
        pass
    assert arrived == size, f"{arrived} of {size} bytes arrived"
