"""What a notebook needs beside cells, whatever wall the kernel is behind: comms, subshells,
displays, the debugger. `test_kernel_features.py` gives them a kernel of ours,
`test_walls_in_notebooks.py` one behind each other wall.
"""

from __future__ import annotations

import re

from kernels import Kernel, text_of


def test_widgets_open_comms_and_hear_the_client(kernel: Kernel) -> None:
    _, outputs = kernel.run(
        "import ipywidgets\nslider = ipywidgets.IntSlider()\n"
        "slider.observe(lambda c: print('moved to', c.new), 'value')\nslider"
    )
    opened = [m for m in outputs if m["msg_type"] == "comm_open"]
    assert opened
    assert opened[-1]["metadata"]["version"].startswith("2.")
    _, shown = kernel.run("print(slider.model_id)")
    data = {"method": "update", "state": {"value": 7}, "buffer_paths": []}
    message = kernel.client.session.msg(
        "comm_msg", {"comm_id": text_of(shown).strip(), "data": data}
    )
    kernel.client.shell_channel.send(message)
    kernel.wait_for("stream", "moved to 7")
    assert text_of(kernel.run("print(slider.value)")[1]) == "7\n"


def test_a_display_is_updated(kernel: Kernel) -> None:
    _, outputs = kernel.run(
        "from IPython.display import display\nh = display('one', display_id=True)\nh.update('two')"
    )
    kinds = [m["msg_type"] for m in outputs]
    assert "display_data" in kinds
    assert "update_display_data" in kinds


def test_a_traceback_names_the_line(kernel: Kernel) -> None:
    reply, _ = kernel.run("x = 1\n1 / 0")
    shown = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(reply["content"]["traceback"]))
    assert "----> 2 1 / 0" in shown


def test_subshells_run_beside_a_busy_cell(kernel: Kernel) -> None:
    features = kernel.control("kernel_info_request", {})["content"]["supported_features"]
    assert "kernel subshells" in features
    made = kernel.control("create_subshell_request", {})["content"]
    assert made["status"] == "ok"
    busy = kernel.client.execute(
        "import threading; heard = threading.Event(); print('busy', flush=True); heard.wait(20)"
    )
    kernel.wait_for("stream", "busy")
    message = kernel.client.session.msg(
        "execute_request", {"code": "print('beside', heard.is_set()); heard.set()"}
    )
    message["header"]["subshell_id"] = made["subshell_id"]
    kernel.client.shell_channel.send(message)

    beside = kernel.wait_for("stream", "beside False")
    assert beside["parent_header"]["msg_id"] == message["header"]["msg_id"]
    kernel.control("delete_subshell_request", {"subshell_id": made["subshell_id"]})
    _, outputs = kernel.finish(busy)
    assert outputs[-2]["content"]["data"]["text/plain"] == "True", outputs  # and not after 20 s


def stops_at_a_breakpoint(kernel: Kernel) -> None:
    """The debugger. Afterwards a loop in that kernel is not interrupted, nor is a plain one's."""

    def ask(number: int, command: str, **arguments: object) -> dict:
        content = {"type": "request", "seq": number, "command": command, "arguments": arguments}
        return kernel.control("debug_request", content)["content"]

    about = {"clientID": "test", "adapterID": "", "pathFormat": "path"}
    assert ask(1, "initialize", **about, linesStartAt1=True, columnsStartAt1=True)["success"]
    assert ask(2, "attach")["success"]
    code = "def f(a):\n    b = a + 1\n    return b\nf(1)\n"
    path = ask(3, "dumpCell", code=code)["body"]["sourcePath"]
    ask(4, "setBreakpoints", source={"path": path}, breakpoints=[{"line": 2}], sourceModified=False)
    ask(5, "configurationDone")
    cell = kernel.client.execute(code)

    event = kernel.wait_for("debug_event", "stopped")
    assert event["content"]["body"]["reason"] == "breakpoint"
    ask(6, "continue", threadId=event["content"]["body"]["threadId"])
    assert kernel.finish(cell)[0]["content"]["status"] == "ok"
    ask(7, "disconnect", restart=False, terminateDebuggee=True)
