"""The magics in a real ipykernel, driven as `nbconvert --execute` drives it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import start_new_kernel
from nbclient.exceptions import CellExecutionError

from notebooks import error, executed, text


def test_a_notebook_of_container_cells() -> None:
    outputs = executed(
        "%%container --memory 200m --show limits,usage\nprint('hi')\n6 * 7",
        "%%container\ndef f():\n    1 / 0\nf()",
        "import numpy as np\na = np.arange(4)",
        "%%container --in a --out b\nb = a * 2",
        "b.sum()",
        "%%container\nimport matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()\nprint('end')",
        "%%container\nfrom IPython.display import HTML, display\ndisplay(HTML('<b>x</b>'))",
        "%%container --memory 64m\nx = bytearray(300 << 20)",
        "%%container --program sh\necho $0; ls /home",
        "_container.usage['memory_peak_bytes'] > 0",
    )
    assert text(outputs[0]).startswith("hi\n")
    assert "memory            200 MiB" in text(outputs[0])
    assert "peak memory" in text(outputs[0])
    (result,) = [o for o in outputs[0] if o.output_type == "execute_result"]
    assert result.data["text/plain"] == "42"
    assert error(outputs[1]).ename == "ZeroDivisionError"
    shown = "\n".join(error(outputs[1]).traceback)
    assert "line 3, in f" in shown
    assert "line 4, in <module>" in shown
    assert "magics" not in shown
    assert outputs[4][0].data["text/plain"] == "np.int64(12)"
    kinds = [o.output_type for o in outputs[5]]
    assert kinds == ["display_data", "stream"]
    assert "image/png" in outputs[5][0].data
    assert outputs[6][0].data["text/html"] == "<b>x</b>"
    assert error(outputs[7]).ename == "OutOfMemory"
    assert "64 MiB" in error(outputs[7]).evalue
    assert text(outputs[8]) == "sh\nsandbox\n"
    assert outputs[9][0].data["text/plain"] == "True"


def test_a_kept_container_keeps_files_and_changes_limits() -> None:
    outputs = executed(
        "%%container --name work --keep --memory 200m\nopen('note', 'w').write('hi');",
        "%%container --name work --memory 100m --show limits\nprint(open('note').read())",
        "%container logs work",
        "%%container --name work --network host\n1",
        "%container rm work",
        "%%container --name work\nopen('note')",
    )
    assert text(outputs[1]).startswith("hi\n")
    assert "memory            100 MiB" in text(outputs[1])
    assert text(outputs[2]) == "hi\n"
    assert error(outputs[3]).ename in ("InvalidOption", "NotAllowed")
    assert error(outputs[5]).ename == "FileNotFoundError"


def test_75_a_container_updates_what_it_has_shown_and_no_other_display() -> None:
    attack = (
        "from IPython.display import display\n"
        "display('of the container', display_id='mine', update=True)\n"
        "display('of the container', display_id='mine');"
    )
    outputs = executed(
        "display('of the notebook', display_id='mine');",
        f"%%container\n{attack}",
        f"%%container\n{attack}",
        "%%container\nhandle = display('before', display_id='mine'); handle.update('after');",
        "%%container --name kept --keep\ndisplay('before', display_id='mine');",
        f"%%container\n{attack}",
        "%%container --name kept\ndisplay('after', display_id='mine', update=True);",
    )

    # Where the machine has not all limits, each cell has a note of that.
    shown = [
        [o.get("data", o).get("text/plain", o) for o in of_cell
         if "not in force" not in o.get("text", "")]
        for of_cell in outputs
    ]  # fmt: skip
    assert shown == [
        ["'of the notebook'"],
        ["'of the container'"],
        ["'of the container'"],
        ["'after'"],
        ["'after'"],
        ["'of the container'"],
        [],
    ]


def test_the_last_state_of_limits_stays_in_the_saved_notebook() -> None:
    busy = "import time\nend = time.monotonic() + 1.5\nwhile time.monotonic() < end: pass"
    outputs = executed(
        f"%%container --memory 200m --cpus 0.2 --show limits\n{busy}",
        "%%container --name work --keep --memory 100m\n1",
        "%container top work",
        "%container rm work",
    )
    (shown,) = [o for o in outputs[0] if o.output_type == "display_data"]
    assert set(shown.data) == {"text/plain", "text/html"}  # a widget would need its kernel
    assert "the cell ended" in shown.data["text/plain"]
    assert "of 200 MiB" in shown.data["text/plain"]
    assert re.search(r"held back for (0\.[1-9]|[1-9])", shown.data["text/plain"])
    assert len(re.findall(r"[\d.]+,[\d.]+", shown.data["text/html"])) > 6  # points of history
    (top,) = outputs[2]
    assert "of 100 MiB" in top.data["text/plain"]
    assert "the container ended" in top.data["text/plain"]


def test_defaults_of_the_notebook() -> None:
    outputs = executed(
        "%sandbox --memory 128m",
        "%%container --show limits\nNone",
        "%container plan",
        "%sandbox reset",
        "%sandbox",
    )
    assert "128 MiB" in text(outputs[1])
    assert "notebook" in text(outputs[2])
    assert "notebook" not in text(outputs[4])


WRONG = (
    "%%container --memory banana\n1",
    "%%container --memory -1\n1",
    "%%container --cpus nan\n1",
    "%%container --nothing\n1",
    "%%container host host\n1",
    "%%container --in nothing_so_named\n1",
    "%%container --out 1a\n1",
    "%%container --show all\n1",
    "%container nothing",
    "%sandbox --memory banana",
)


def test_a_wrong_option_is_one_line_and_an_error() -> None:
    for line, outputs in zip(WRONG, executed(*WRONG), strict=True):
        found = error(outputs)
        assert found.ename == "InvalidOption", line
        assert len(found.traceback) == 1
        assert "\n" not in found.traceback[0]


def test_an_error_inside_stops_run_all() -> None:
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        executed("%%container\n1 / 0", "print('never')", allow_errors=False)


@pytest.fixture
def client() -> Iterator[BlockingKernelClient]:
    manager, started = start_new_kernel(kernel_name="python3")
    started.manager = manager
    started.execute_interactive("%load_ext sandbox_kernel", timeout=60)
    yield started
    started.stop_channels()
    manager.shutdown_kernel(now=False)


@pytest.mark.parametrize(
    ("before", "name"),
    [("", "KeyboardInterrupt"), ("import signal; signal.signal(2, lambda *a: 0)\n", "Killed")],
)
def test_an_interrupt_reaches_the_cell_and_ends_a_deaf_one(
    client: Any, before: str, name: str
) -> None:
    seen = []

    def on_output(message: Any) -> None:
        seen.append(message)
        if message["content"].get("text") == "on\n":
            client.manager.interrupt_kernel()

    code = f"%%container --interrupt-grace 300ms\n{before}print('on')\nwhile True: pass"
    reply = client.execute_interactive(code, timeout=60, output_hook=on_output)
    assert reply["content"]["ename"] == name, seen
    again = client.execute_interactive("%%container\n1", timeout=60, output_hook=seen.append)
    assert again["content"]["status"] == "ok"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("%%container --mem", ["--memory", "--memory-swap"]),
        ("%%container --network ", ["none", "bridge", "host"]),
        ("%%container --memory=2", ["256m", "2g"]),
        ("%sandbox --cpu-s", ["--cpu-shares"]),
        ("%container pl", ["plan"]),
    ],
)
def test_options_and_values_are_completed(client: Any, line: str, expected: list[str]) -> None:
    code = line + ("\npass" if line.startswith("%%") else "")
    reply = client.complete(code, len(line), reply=True, timeout=60)
    assert reply["content"]["matches"] == expected


@pytest.mark.parametrize("name", ["%%container", "%container", "%sandbox"])
def test_a_question_mark_shows_the_options(client: Any, name: str) -> None:
    reply = client.execute(f"{name}?", reply=True, timeout=60)
    (page,) = reply["content"]["payload"]
    assert "--memory SIZE" in page["data"]["text/plain"]
