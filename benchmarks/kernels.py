"""The sandbox kernel beside plain ipykernel: start, empty cell, much output, one large display.

Both are started by `jupyter_client` with the same interpreter, and what arrived is counted: a
kernel that loses or cuts output fails here instead of being fast.

The very first start is measured with `wait_for_ready`, as programs start a kernel. Of a warm one
that would measure little else: libzmq tries to connect again after 100 to 200 ms, at random, and
`wait_for_ready` ends with 200 ms in which nothing may come. So there the client of both kernels
tries each millisecond, and asks for its cell as soon as `kernel_info` is answered.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import zmq
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager

from benchmarks.pairs import Pair, measure
from sandbox_kernel.kernel import stub
from sandbox_kernel.runtime import client as launchers

Start = Callable[[list[str]], AbstractContextManager[BlockingKernelClient]]

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
    starts = max(5, rounds // 4)
    what = "start of a kernel to its first result"
    yield _starts(f"very first {what}", no_holder, started, 1.25, starts)
    yield _starts(f"{what}, with a warm holder", warm_holder, first_answer, 1 / 3, starts)
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


def _starts(
    what: str, prepare: Callable[[], None], start: Start, bound: float, rounds: int
) -> Pair:
    """Starts of both in turn; before each the holder is as `prepare` makes it.

    A container is fresh: none has the name of another, nor what another left, and its limits are
    in force.
    """
    ours: list[float] = []
    theirs: list[float] = []
    seen: set[str] = set()
    for _ in range(rounds):
        for argv, seconds in ((SANDBOX, ours), (PLAIN, theirs)):
            prepare()
            begin = time.perf_counter()
            with start(argv) as client:
                _cell(client, "print('ready')", len("ready\n"))
                seconds.append(time.perf_counter() - begin)
                if argv is SANDBOX:
                    name = _text(client, FRESH)
                    assert name not in seen, f"container {name} was there before"
                    seen.add(name)
                    limits = _text(client, "%sandbox")
                    assert "memory" in limits, limits
                    assert "yes" in limits, limits
                    until(lambda: launchers.find_holder() is not None)
    no_holder()
    return Pair(what, "ipykernel", tuple(ours), tuple(theirs), bound)


FRESH = """
import os, socket
assert not os.path.exists("/tmp/marker")
open("/tmp/marker", "w").close()
print(socket.gethostname(), os.readlink("/proc/self/ns/pid"))
"""


def no_holder() -> None:
    """As on a machine that was just started."""
    launchers.stop_holder()
    until(lambda: launchers.find_holder() is None)


def warm_holder() -> None:
    """One that has a kernel ready, and a relay template beside it."""
    if _is_warm():
        return
    # There may be one that nobody has asked yet: the kernel that started it was ended just then.
    with first_answer(SANDBOX) as client:
        _cell(client, "", 0)
        until(_is_warm)


def _is_warm() -> bool:
    holder = launchers.find_holder()
    if holder is None or not any(template["ready"] for template in holder.pool()):
        return False
    path = stub.place(stub.identity())
    channel = stub.connect(path) if path else None
    if channel is None:
        return False
    channel.close()
    return True


def until(true: Callable[[], object]) -> None:
    """Wait for something that comes by itself."""
    end = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


@contextmanager
def first_answer(argv: list[str]) -> Iterator[BlockingKernelClient]:
    """A client of a new kernel that has answered `kernel_info`."""
    with zmq.Context() as context:
        context.setsockopt(zmq.RECONNECT_IVL, 1)
        context.setsockopt(zmq.LINGER, 0)
        with _connected(argv, context) as client:
            asked = client.kernel_info()
            client.get_iopub_msg(timeout=SECONDS)
            while client.get_shell_msg(timeout=SECONDS)["parent_header"]["msg_id"] != asked:
                pass
            yield client


@contextmanager
def started(argv: list[str], **environment: str) -> Iterator[BlockingKernelClient]:
    """A client of a new kernel that is ready, as programs get it."""
    with _connected(argv, environment=environment) as client:
        client.wait_for_ready(timeout=SECONDS)
        yield client


@contextmanager
def _connected(
    argv: list[str],
    context: zmq.Context[zmq.Socket[bytes]] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
) -> Iterator[BlockingKernelClient]:
    manager = KernelManager()
    manager._kernel_spec = KernelSpec(
        argv=argv, language="python", display_name="benchmark", env=dict(environment or {})
    )
    manager.start_kernel(stderr=subprocess.DEVNULL)
    client = manager.client(**({"context": context} if context else {}))
    client.start_channels(hb=context is None)
    try:
        yield client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


def _text(client: BlockingKernelClient, code: str) -> str:
    """What a cell printed and displayed."""
    texts = []

    def hear(message: dict[str, Any]) -> None:
        content = message["content"]
        assert message["msg_type"] != "error", content
        texts.append(content.get("text") or content.get("data", {}).get("text/plain", ""))

    client.execute_interactive(code, output_hook=hear, timeout=SECONDS)
    return "".join(texts)


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
