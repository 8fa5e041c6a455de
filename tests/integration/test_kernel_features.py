"""Promises about what a notebook needs beside cells: comms, subshells, the debugger, displays."""

from __future__ import annotations

from collections.abc import Iterator

import feature_promises
import kernels
import pytest
from feature_promises import *  # noqa: F403
from kernels import Kernel


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with kernels.started() as one:
        yield one


def test_the_debugger_stops_at_a_breakpoint(kernel: Kernel) -> None:
    feature_promises.stops_at_a_breakpoint(kernel)


def test_the_debuggers_call_stack_ends_in_the_cell() -> None:
    with kernels.started() as kernel:

        def ask(command: str, **arguments: object) -> dict:
            content = {"type": "request", "seq": 1, "command": command, "arguments": arguments}
            return kernel.control("debug_request", content)["content"]

        ask("initialize", adapterID="", pathFormat="path", linesStartAt1=True)
        ask("attach")
        code = "def f():\n    return 1\nf()"
        path = ask("dumpCell", code=code)["body"]["sourcePath"]
        ask("setBreakpoints", breakpoints=[{"line": 2}], source={"path": path})
        ask("configurationDone")
        cell = kernel.client.execute(code)
        thread = kernel.wait_for("debug_event", "stopped")["content"]["body"]["threadId"]
        frames = ask("stackTrace", threadId=thread)["body"]["stackFrames"]
        assert [frame["name"] for frame in frames] == ["f", "<module>"]
        ask("continue", threadId=thread)
        assert kernel.finish(cell)[0]["content"]["status"] == "ok"
