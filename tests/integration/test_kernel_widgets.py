"""`%container top` in the sandbox kernel: a live view, owned outside, whatever happens inside.

Driven as a client does it, by messages on the five sockets.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kernels import SECONDS, Kernel, started

from sandbox_kernel.widgets.kinds import KINDS

TOP = "%container top"
# Holds the GIL of the inside for as long as this test may last, in one call of C.
BUSY = "x = bytearray({} << 20)\nimport re; re.match('(a+)+b', 'a' * 40)"


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with started(memory="300m", cpus=0.5) as kernel:
        yield kernel


def shown(kernel: Kernel, code: str = TOP) -> tuple[str, str]:
    """Shows a view; the ids of its comm and its output."""
    reply, outputs = kernel.run(code)
    assert reply["content"]["status"] == "ok"
    (opened,) = [o["content"] for o in outputs if o["msg_type"] == "comm_open"]
    (display,) = [o["content"] for o in outputs if o["msg_type"] == "display_data"]
    view = display["data"]["application/vnd.jupyter.widget-view+json"]
    assert opened["comm_id"] == view["model_id"]
    assert opened["target_name"] == "jupyter.widget"
    state = opened["data"]["state"]
    assert (state["_model_module"], state["_model_name"]) == ("anywidget", "AnyModel")
    assert "export default" in state["_esm"]
    assert "text/html" in display["data"]
    return opened["comm_id"], display["transient"]["display_id"]


def heard(kernel: Kernel, wanted: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """The next message on iopub that is wanted."""
    while True:
        message = kernel.client.get_iopub_msg(timeout=SECONDS)
        if wanted(message):
            return message


def markup(message: dict[str, Any], comm_id: str) -> str:
    """What an update of this comm says; empty for any other message."""
    content = message["content"]
    if message["msg_type"] != "comm_msg" or content["comm_id"] != comm_id:
        return ""
    return str(content["data"]["state"].get("markup", ""))


def send(kernel: Kernel, kind: str, content: dict[str, Any], **metadata: str) -> str:
    message = kernel.client.session.msg(kind, content, metadata=metadata)
    kernel.client.shell_channel.send(message)
    return str(message["header"]["msg_id"])


def test_numbers_change_while_the_inside_holds_its_gil_in_c(kernel: Kernel) -> None:
    comm_id, _ = shown(kernel)
    cell = kernel.client.execute(BUSY.format(70))

    grown = heard(
        kernel,
        lambda m: any(
            float(n) > 70 for n in re.findall(r"([\d.]+) MiB of 300", markup(m, comm_id))
        ),
    )
    assert "of 300 MiB" in markup(grown, comm_id)
    several = {markup(heard(kernel, lambda m: markup(m, comm_id)), comm_id) for _ in range(4)}
    assert len(several) > 1
    assert re.search(r"0\.\d\d of 0\.5 processors", several.pop())

    # A page that is loaded anew asks for the state while the cell runs, and gets it.
    asked = send(kernel, "comm_msg", {"comm_id": comm_id, "data": {"method": "request_state"}})
    answer = heard(
        kernel,
        lambda m: m["msg_type"] == "comm_msg" and m["parent_header"].get("msg_id") == asked,
    )
    assert "_esm" in answer["content"]["data"]["state"]

    kernel.control("interrupt_request", {})
    reply, _ = kernel.finish(cell)
    assert reply["content"]["ename"] == "KeyboardInterrupt"


def test_a_limit_that_a_page_asks_for_is_in_force_although_the_inside_is_busy(
    kernel: Kernel,
) -> None:
    comm_id, _ = shown(kernel, "%container show limits")
    cell = kernel.client.execute(BUSY.format(1))

    def ask(number: int, **fields: str) -> None:
        content = {"act": "limit", "fields": fields, "number": number}
        data = {"method": "custom", "content": content}
        send(kernel, "comm_msg", {"comm_id": comm_id, "data": data})

    ask(1, option="memory", value=str(200 << 20))
    heard(kernel, lambda m: 'data-answered="1"' in markup(m, comm_id))
    ask(2, option="memory", value=str(7 << 20))
    refused = heard(kernel, lambda m: 'data-answered="2"' in markup(m, comm_id))
    assert "are in use" in markup(refused, comm_id)
    ask(3, option="image", value="1")
    refused = heard(kernel, lambda m: 'data-answered="3"' in markup(m, comm_id))
    assert "a limit that can change" in markup(refused, comm_id)
    kernel.control("interrupt_request", {})
    kernel.finish(cell)
    reply, outputs = kernel.run("%sandbox")
    assert reply["content"]["status"] == "ok"
    (told,) = [o["content"]["data"]["text/plain"] for o in outputs if "data" in o["content"]]
    assert re.search(r"memory +200 MiB +yes +magic", told)
    kernel.run("%sandbox --memory 300m")


@pytest.mark.parametrize("name", [name for name in KINDS if name not in ("limits", "compare")])
def test_each_view_is_shown_by_the_relay(kernel: Kernel, name: str) -> None:
    comm_id, _ = shown(kernel, f"%container show {name}")
    asked = send(kernel, "comm_msg", {"comm_id": comm_id, "data": {"method": "request_state"}})
    answer = heard(
        kernel,
        lambda m: m["msg_type"] == "comm_msg" and m["parent_header"].get("msg_id") == asked,
    )
    seen = answer["content"]["data"]["state"]["markup"]
    assert f"sandbox-{name}" in seen
    assert "data-state=" in seen
    send(kernel, "comm_close", {"comm_id": comm_id, "data": {}})


def test_a_word_that_is_no_view_is_refused_in_one_line(kernel: Kernel) -> None:
    for line in ("%container show", "%container show weather", "%container show limits,nothing"):
        reply, _ = kernel.run(line)
        assert reply["content"]["ename"] == "InvalidOption"
        assert "limits" in reply["content"]["evalue"]


def test_the_course_is_shown_and_its_checks_are_sent_where_they_can_be_made(
    kernel: Kernel,
) -> None:
    _, outputs = kernel.run("%sandbox course")
    (told,) = [o["content"]["data"] for o in outputs if "data" in o["content"]]
    assert "exercises done" in told["text/plain"]
    assert told["text/html"].startswith("<table>")
    for line in ("%sandbox check held", "%sandbox check"):
        reply, _ = kernel.run(line)
        assert reply["content"]["ename"] == "InvalidOption"
        assert 'the kernel "Python 3 (ipykernel)"' in reply["content"]["evalue"]


def test_the_rest_of_the_cell_runs_inside_and_keeps_its_line_numbers(kernel: Kernel) -> None:
    reply, outputs = kernel.run(f"{TOP}\n\n1 / 0")
    assert reply["content"]["ename"] == "ZeroDivisionError"
    assert "comm_open" in [output["msg_type"] for output in outputs]
    assert "line 3" in re.sub(r"\x1b\[[\d;]*m", "", "\n".join(reply["content"]["traceback"]))


def test_the_comm_is_listed_with_those_of_the_inside(kernel: Kernel) -> None:
    comm_id, _ = shown(kernel)
    _, outputs = kernel.run("import ipywidgets; slider = ipywidgets.IntSlider(); slider")
    inner = next(o["content"]["comm_id"] for o in outputs if o["msg_type"] == "comm_open")

    def listed(**content: str) -> set[str]:
        asked = send(kernel, "comm_info_request", content)
        while True:
            reply = kernel.client.get_shell_msg(timeout=SECONDS)
            if reply["parent_header"]["msg_id"] == asked:
                return set(reply["content"]["comms"])

    assert {comm_id, inner} <= listed(target_name="jupyter.widget")
    assert {comm_id, inner} <= listed()
    assert comm_id not in listed(target_name="something.else")

    # The other way by which a page that is loaded anew asks: for the states of all widgets.
    control = "control-of-a-page"
    opened = {"comm_id": control, "target_name": "jupyter.widget.control", "data": {}}
    send(kernel, "comm_open", opened, version="1.0.0")
    send(kernel, "comm_msg", {"comm_id": control, "data": {"method": "request_states"}})
    told = heard(
        kernel, lambda m: m["msg_type"] == "comm_msg" and m["content"]["comm_id"] == control
    )
    states = told["content"]["data"]["states"]
    assert {comm_id, inner} <= set(states)
    assert "markup" in states[comm_id]["state"]
    assert states[comm_id]["model_module"] == "anywidget"


def test_a_client_that_closes_the_comm_ends_its_updates(kernel: Kernel) -> None:
    closed, _ = shown(kernel)
    send(kernel, "comm_close", {"comm_id": closed, "data": {}})
    kernel.run("1")
    other, _ = shown(kernel)
    for _ in range(4):  # what the new one tells comes, and nothing of the closed one among it
        message = heard(
            kernel,
            lambda m: m["msg_type"] == "comm_msg" and m["content"]["comm_id"] in (other, closed),
        )
        assert message["content"]["comm_id"] == other


def test_another_container_is_refused_in_one_line(kernel: Kernel) -> None:
    reply, outputs = kernel.run(f"{TOP} elsewhere")
    assert reply["content"]["ename"] == "InvalidOption"
    assert "elsewhere" in reply["content"]["evalue"]
    assert "comm_open" not in [output["msg_type"] for output in outputs]


def test_the_oldest_of_too_many_views_ends_and_keeps_its_last_state(kernel: Kernel) -> None:
    _, display_id = shown(kernel)
    for _ in range(7):
        shown(kernel)
    kernel.client.execute(TOP)
    kept = heard(
        kernel,
        lambda m: (
            m["msg_type"] == "update_display_data"
            and m["content"]["transient"]["display_id"] == display_id
        ),
    )
    assert "newer views took its place" in kept["content"]["data"]["text/plain"]


def test_the_last_state_stays_when_the_container_dies() -> None:
    with started(memory="200m") as kernel:
        _, display_id = shown(kernel)
        kernel.client.execute("x = bytearray(400 << 20)")
        kept = heard(
            kernel,
            lambda m: (
                m["msg_type"] == "update_display_data"
                and m["content"]["transient"]["display_id"] == display_id
            ),
        )
    data = kept["content"]["data"]
    assert set(data) == {"text/plain", "text/html"}
    assert "of 200 MiB" in data["text/plain"]
    assert re.search(r"the (container|kernel) ended", data["text/plain"])


def test_a_relay_without_a_widget_stays_small() -> None:
    with started() as kernel:
        kernel.run("1")
        before = resident(kernel.pid)
        shown(kernel)
        after = resident(kernel.pid)
    assert before < 45
    assert after - before < 10  # no ipywidgets, no IPython


def resident(pid: int) -> float:
    """MiB in memory."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        (line,) = [line for line in file if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024
