"""Promises about what a notebook needs beside cells: comms, subshells, the debugger, displays."""

from __future__ import annotations

from collections.abc import Iterator

import feature_promises
import kernels
import pytest
from feature_promises import *  # noqa: F403
from kernels import Kernel, text_of


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with kernels.started() as one:
        yield one


def test_the_debugger_stops_at_a_breakpoint(kernel: Kernel) -> None:
    feature_promises.stops_at_a_breakpoint(kernel)


def ask(kernel: Kernel, command: str, **arguments: object) -> dict:
    content = {"type": "request", "seq": 1, "command": command, "arguments": arguments}
    return kernel.control("debug_request", content)["content"]


DEBUGPY = "import sys; print('debugpy.server' in sys.modules)"


def test_debugpy_is_loaded_when_somebody_looks_at_variables() -> None:
    with kernels.started() as kernel:
        assert kernel.control("kernel_info_request", {})["content"]["debugger"]
        kernel.run("found = 'by the debugger'")
        assert text_of(kernel.run(DEBUGPY)[1]) == "False\n"
        variables = ask(kernel, "inspectVariables")["body"]["variables"]
        (one,) = [one for one in variables if one["name"] == "found"]
        assert (one["type"], one["value"]) == ("str", "'by the debugger'")
        assert text_of(kernel.run(DEBUGPY)[1]) == "True\n"


def test_a_breakpoint_without_a_debugger_is_passed() -> None:
    with kernels.started() as kernel:
        reply, outputs = kernel.run("breakpoint(); breakpoint(); print('passed')")
        assert reply["content"]["status"] == "ok"
        assert text_of(outputs) == "passed\n"


def test_the_debugger_keeps_what_a_cell_said_of_breakpoints() -> None:
    with kernels.started() as kernel:
        kernel.run("import sys; sys.breakpointhook = lambda: print('of the cell')")
        assert ask(kernel, "initialize", adapterID="", pathFormat="path")["success"]
        assert text_of(kernel.run(DEBUGPY + "; breakpoint()")[1]) == "True\nof the cell\n"


def test_the_debuggers_call_stack_ends_in_the_cell() -> None:
    with kernels.started() as kernel:
        ask(kernel, "initialize", adapterID="", pathFormat="path", linesStartAt1=True)
        ask(kernel, "attach")
        code = "def f():\n    return 1\nf()"
        path = ask(kernel, "dumpCell", code=code)["body"]["sourcePath"]
        ask(kernel, "setBreakpoints", breakpoints=[{"line": 2}], source={"path": path})
        ask(kernel, "configurationDone")
        cell = kernel.client.execute(code)
        thread = kernel.wait_for("debug_event", "stopped")["content"]["body"]["threadId"]
        frames = ask(kernel, "stackTrace", threadId=thread)["body"]["stackFrames"]
        assert [frame["name"] for frame in frames] == ["f", "<module>"]
        ask(kernel, "continue", threadId=thread)
        assert kernel.finish(cell)[0]["content"]["status"] == "ok"
