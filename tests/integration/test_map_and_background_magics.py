"""`%%container --map` and `--background` in a real ipykernel."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import start_new_kernel

from notebooks import error, executed, text

RUNNING = (
    "(lambda folder: sum(1 for found in __import__('sandbox_kernel.container').container.list_all()"
    " if found.folder == folder and found.runs))"
    "(__import__('sandbox_kernel.runtime.client').runtime.client.shared().about['folder'])"
)
"""How many containers of the kernel's own launcher have a process in them."""


def value(client: Any, expression: str) -> str:
    """What an expression is in the kernel."""
    reply = client.execute_interactive("", user_expressions={"it": expression}, timeout=60)
    return str(reply["content"]["user_expressions"]["it"]["data"]["text/plain"])


def test_a_cell_is_run_for_each_item_and_its_values_are_lists() -> None:
    outputs = executed(
        "words = ['one', 'three', 'seven']; by = 10",
        "%%container --map words --in by --out n,fresh --memory 100m --workers 2\n"
        "import os\nfresh = not os.path.exists('/tmp/mark')\nopen('/tmp/mark', 'w').close()\n"
        "n = len(item) * by\nprint(item)\nn",
        "n, fresh, len({result.container_id for result in _container})",
        "none = []",
        "%%container --map none --out n\nn = 1",
        "n, _container",
    )

    assert error_free(outputs)
    assert text(outputs[1]) == (
        "item 0 (`'one'`):\none\n30\n"
        "item 1 (`'three'`):\nthree\n50\n"
        "item 2 (`'seven'`):\nseven\n50\n"
    )
    (bar,) = [o for o in outputs[1] if o.output_type == "display_data"]
    assert set(bar.data) == {"text/plain"}  # a widget would need its kernel
    assert re.match(r"3/3 items, 2 at once, [\d.]+ m?s", bar.data["text/plain"])
    assert outputs[2][0].data["text/plain"] == "([30, 50, 50], [True, True, True], 3)"
    assert outputs[5][0].data["text/plain"] == "([], <0 results, 0 failed>)"


def error_free(outputs: list[Any]) -> bool:
    return not [o for cell in outputs for o in cell if o.output_type == "error"]


def test_items_that_fail_are_named_and_the_others_have_values() -> None:
    outputs = executed(
        "numbers = [1, 0, 4]",
        "%%container --map numbers --out half\n\nhalf = 2 / item",
        "half",
    )

    failed = error(outputs[1])
    assert failed.ename == "ItemsFailed"
    assert failed.evalue.startswith("1 of 3 items failed: item 1 (`0`): ZeroDivisionError")
    assert "line 3, in <module>" in "\n".join(failed.traceback)
    assert "magics" not in "\n".join(failed.traceback)
    assert outputs[2][0].data["text/plain"] == "[2.0, None, 0.5]"


def test_an_item_that_can_not_cross_is_named_in_one_line() -> None:
    outputs = executed("things = [1, object()]", "%%container --map things\nitem")

    failed = error(outputs[1])
    assert failed.ename == "ValueNotTransferable"
    (line,) = failed.traceback
    assert "It was item 1 (`<object object" in line


def test_in_a_terminal_a_line_says_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    words = ["--simple-prompt", "--no-banner", "--colors=NoColor", "--quick"]
    terminal = pexpect.spawn(
        sys.executable, ["-m", "IPython", *words], encoding="utf-8", timeout=60, echo=False
    )
    cell = "container', '--map numbers', 'print(1 / item)"
    for line in ("%load_ext sandbox_kernel", "numbers = [1, 0, 2]"):
        terminal.expect(r"In \[\d+\]: ")
        terminal.sendline(line)
    terminal.expect(r"In \[\d+\]: ")
    terminal.sendline(f"get_ipython().run_cell_magic('{cell}')")

    terminal.expect(r"\r3/3 items, 1 failed, ")
    terminal.expect(r"\n.*ItemsFailed.*1 of 3 items failed: item 1 \(`0`\)")
    terminal.sendline("exit")
    terminal.expect(pexpect.EOF)
    terminal.close()


WRONG = (
    "%%container --map nothing_so_named\n1",
    "%%container --map text\n1",
    "%%container --map numbers --keep\n1",
    "%%container --map numbers --name work\n1",
    "%%container --map numbers --program sh\n1",
    "%%container --map numbers --background\n1",
    "%%container --map numbers --in item\n1",
    "%%container --map numbers --workers 0\n1",
    "%%container --map 1a\n1",
    "%%container --workers 2\n1",
    "%%container --handle job\n1",
    "%%container --background --show usage\n1",
)


def test_what_does_not_fit_is_one_line_and_an_error() -> None:
    outputs = executed("numbers = [1]; text = 'abc'; item = 1", *WRONG)
    for line, found in zip(WRONG, outputs[1:], strict=True):
        assert error(found).ename == "InvalidOption", line
        assert len(error(found).traceback) == 1


def test_a_cell_in_the_background_is_asked_for_what_it_did() -> None:
    outputs = executed(
        "%%container --background --handle job --out found --memory 100m\n"
        "import time\nprint('begun', flush=True)\n"
        "while not __import__('os').path.exists('/tmp/go'): time.sleep(0.05)",
        "'found' in globals(), job.done, job is _container, job",
        "waited = job.wait(0.01)\nwhile not job.output: waited = job.wait(0.01)\nwaited",
        "job.cancel(); job.show()\njob.done, job.result.error.name, job.result.limits['memory']",
        "%%container --background --out found\nfound = 6 * 7\nprint('hi')\nfound",
        "_container.wait(60), found, _container.result.stdout",
        "_container.show()",
        "_container.show()",
        "%%container --background\n1 / 0",
        "job = _container; job.wait(); job.show(); job.result.check()",
    )

    state = " ".join(outputs[1][0].data["text/plain"].split())
    assert state.startswith("(False, False, True, <container ")
    assert "in the background: running for" in state
    assert outputs[2][0].data["text/plain"] == "False"
    assert text(outputs[3]) == "begun\n"
    assert outputs[3][-1].data["text/plain"] == "(True, 'Killed', 104857600)"
    assert outputs[5][0].data["text/plain"] == "(True, 42, 'hi\\n')"
    assert text(outputs[6]) == "hi\n"
    assert [o.data["text/plain"] for o in outputs[6] if "data" in o] == ["42"]
    assert outputs[7] == []
    assert "ZeroDivisionError" in text(outputs[9], "stderr")
    assert error(outputs[9]).ename == "CellRaised"


def test_75_containers_of_items_and_of_the_background_reach_no_display_of_the_notebook() -> None:
    attack = "display('inside', display_id='d', update=True); display(x, display_id='d')"
    outputs = executed(
        "items = [1, 2]; display('of the notebook', display_id='d')",
        f"%%container --map items\nx = item\n{attack}",
        "%%container --background --handle job\nimport os, time\nx = 3\n"
        f"{attack}; print('shown', flush=True)\n"
        "while not os.path.exists('/tmp/go'): time.sleep(0.05)",
        "while not job.output: waited = job.wait(0.01)\njob.show()",
        "job.cancel()",
    )

    def shown(of_cell: list[Any]) -> list[str]:
        return [o.data["text/plain"] for o in of_cell if o.output_type == "display_data"]

    assert shown(outputs[0]) == ["'of the notebook'"]
    assert [one for one in shown(outputs[1]) if one in ("1", "2", "'inside'")] == ["1", "2"]
    assert shown(outputs[3]) == ["3"]


def test_a_kept_container_can_have_a_cell_in_the_background() -> None:
    outputs = executed(
        "%%container --name work --keep\nopen('note', 'w').write('hi');",
        "%%container --name work --background --handle first\n"
        "import os, time\nwhile not os.path.exists('go'): time.sleep(0.05)\nprint('gone')",
        "%%container --name work\nopen('go', 'w').close(); print(open('note').read())",
        "%%container --name work --background\nprint(open('note').read())",
        "first.wait(60), _container.result.stdout",
        "%container logs work",
    )

    assert error_free(outputs)
    assert text(outputs[2]) == "hi\n"
    assert outputs[4][0].data["text/plain"] == "(True, 'hi\\n')"
    assert "gone\n" in text(outputs[5])


@pytest.fixture
def client() -> Iterator[BlockingKernelClient]:
    manager, started = start_new_kernel(kernel_name="python3")
    started.manager = manager
    started.execute_interactive("%load_ext sandbox_kernel", timeout=60)
    yield started
    started.stop_channels()
    if manager.is_alive():
        manager.shutdown_kernel(now=False)


def test_an_interrupt_ends_all_items(client: Any) -> None:
    seen: list[Any] = []

    def on_output(message: Any) -> None:
        seen.append(message)
        if message["content"].get("text", "").endswith("on\n"):
            client.manager.interrupt_kernel()

    client.execute_interactive("times = [0, 600, 600, 600]", timeout=60)
    code = "%%container --map times --workers 2\nimport time\ntime.sleep(item)\nprint('on')"
    begin = time.monotonic()
    reply = client.execute_interactive(code, timeout=60, output_hook=on_output)

    assert reply["content"]["ename"] == "KeyboardInterrupt", seen
    assert "1 of 4 items were done" in reply["content"]["evalue"]
    assert time.monotonic() - begin < 30
    assert value(client, RUNNING) == "0"
    again = client.execute_interactive("%%container\n1", timeout=60, output_hook=seen.append)
    assert again["content"]["status"] == "ok"


@pytest.mark.parametrize("now", [False, True])
def test_the_end_of_the_kernel_ends_what_is_in_the_background(client: Any, now: bool) -> None:
    code = "%%container --background\nimport time\ntime.sleep(600)"
    reply = client.execute_interactive(code, timeout=60)
    assert reply["content"]["status"] == "ok"
    assert value(client, RUNNING) == "1"
    number = int(value(client, "_container._running.container.pid"))
    assert Path(f"/proc/{number}").exists()

    if now:
        os.kill(client.manager.provisioner.pid, signal.SIGKILL)
    client.manager.shutdown_kernel(now=now)

    deadline = time.monotonic() + 20
    while Path(f"/proc/{number}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("%%container --ma", ["--map"]),
        ("%%container --map num", ["numbers"]),
        ("%%container --backg", ["--background"]),
        ("%%container --han", ["--handle"]),
    ],
)
def test_they_are_completed(client: Any, line: str, expected: list[str]) -> None:
    client.execute_interactive("numbers = [1]; number = 1", timeout=60)
    reply = client.complete(line + "\npass", len(line), reply=True, timeout=60)
    assert reply["content"]["matches"] == expected
