"""The kernel "Sandbox Cells" in mode `fresh`: nothing crosses but what is named."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from kernels import Kernel, cells_started, text_of

pytestmark = pytest.mark.everybody


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    with cells_started() as kernel:
        yield kernel


def shown(kernel: Kernel, code: str) -> str:
    """All text of a cell that ends well: printed, shown, and its result."""
    reply, outputs = kernel.run(code)
    assert reply["content"]["status"] == "ok", reply["content"]
    bundles = [m["content"]["data"]["text/plain"] for m in outputs if "data" in m["content"]]
    return text_of(outputs) + "\n".join(bundles)


def error_of(kernel: Kernel, code: str) -> str:
    """Name and text of the error of a cell."""
    reply, outputs = kernel.run(code)
    assert reply["content"]["status"] == "error", outputs
    assert [m for m in outputs if m["msg_type"] == "error"]
    return f"{reply['content']['ename']}: {reply['content']['evalue']}"


def test_variables_and_files_of_a_cell_are_gone_in_the_next(kernel: Kernel) -> None:
    shown(kernel, "kept = 1\nopen('/tmp/kept', 'w').close()")

    assert "name 'kept' is not defined" in error_of(kernel, "kept")
    assert shown(kernel, "import os; os.path.exists('/tmp/kept')") == "False"


@pytest.mark.whoever
def test_a_name_given_out_is_there_for_a_cell_that_asks_for_it(kernel: Kernel) -> None:
    shown(kernel, "%sandbox --out table,total\ntable = {'a': [1, 2]}\ntotal = 3")

    assert shown(kernel, "%sandbox --in table,total\n(table, total)") == "({'a': [1, 2]}, 3)"
    assert "NameError" in error_of(kernel, "table")
    assert "values that were kept: table, total" in error_of(kernel, "%sandbox --in other\n1")


@pytest.mark.whoever
def test_a_shared_name_goes_into_each_cell_and_its_new_value_comes_out(kernel: Kernel) -> None:
    shown(kernel, "%sandbox share total")
    shown(kernel, "total = 40")
    shown(kernel, "total += 2")
    assert shown(kernel, "total") == "42"

    assert "ZeroDivisionError" in error_of(kernel, "total = 0; 1 / total")
    assert shown(kernel, "total") == "42"  # a cell that fails gives nothing out

    shown(kernel, "del total")
    assert "NameError" in error_of(kernel, "total")
    shown(kernel, "total = 1")
    shown(kernel, "%sandbox unshare total")
    assert "NameError" in error_of(kernel, "total")


@pytest.mark.whoever
def test_an_array_crosses_and_what_would_need_pickle_does_not(kernel: Kernel) -> None:
    shown(kernel, "%sandbox share data")
    shown(kernel, "import numpy as np\ndata = np.arange(6).reshape(2, 3)")
    assert shown(kernel, "data.sum(axis=1)") == "array([ 3, 12])"

    said = error_of(kernel, "data = object()")

    assert "ValueNotTransferable" in said
    assert "data" in said
    assert shown(kernel, "data.shape") == "(2, 3)"


def test_an_option_holds_for_the_next_cells_and_a_cell_over_it_says_so(kernel: Kernel) -> None:
    assert "64 MiB" in shown(kernel, "%sandbox --memory 64m")

    said = error_of(kernel, "x = bytearray(200 << 20)")

    assert "OutOfMemory" in said
    assert "64 MiB" in said
    assert shown(kernel, "1 + 1") == "2"
    shown(kernel, "%sandbox reset")
    assert shown(kernel, "len(bytearray(200 << 20))") == str(200 << 20)


@pytest.mark.whoever
def test_what_can_not_be_is_said_in_one_line_and_the_next_cell_runs(kernel: Kernel) -> None:
    for line, part in (
        ("%sandbox nonsense", "one of mode, share"),
        ("%sandbox --memory banana", "256m or 1.5g"),
        ("%sandbox --cap-add SYS_ADMIN", "above what your settings allow"),
        ("%sandbox --in a", "code below it"),
        ("%sandbox mode sideways", "fresh"),
        ("%sandbox undo 0", "such as 2"),
        ("%sandbox undo", "%sandbox mode carry"),
        ("%sandbox share 1x", "names of variables"),
        ("%sandbox reset --memory 1g", "not both"),
        ("%sandbox check held", 'the kernel "Python 3 (ipykernel)"'),
        ("%container show limits", 'take "Sandbox (Python 3)"; or run `sandbox-kernel show`'),
        ("%container top", "`sandbox-kernel top` in a terminal"),
    ):
        said = error_of(kernel, line)
        assert part in said, said
        assert "\n" not in said
    assert shown(kernel, "1 + 1") == "2"
    assert "exercises done" in shown(kernel, "%sandbox course")


@pytest.mark.whoever
def test_a_command_line_a_display_and_its_update_are_shown(kernel: Kernel) -> None:
    assert shown(kernel, "!echo $((6 * 7))") == "42\n"
    _, outputs = kernel.run(
        "handle = display('one', display_id='d')\nhandle.update('two')\n"
        "import sys\nprint('late', file=sys.stderr)"
    )

    kinds = [m["msg_type"] for m in outputs]
    assert kinds.index("display_data") < kinds.index("update_display_data") < kinds.index("stream")
    assert text_of(outputs, "stderr") == "late\n"


@pytest.mark.whoever
def test_75_a_cell_reaches_no_display_of_another_cell(kernel: Kernel) -> None:
    _, first = kernel.run("handle = display('A', display_id='d')")
    _, second = kernel.run(
        "from IPython.display import update_display\n"
        "update_display('B', display_id='d'); display('B', display_id='d', update=True)\n"
        "handle = display('own', display_id='d'); handle.update('own, changed')"
    )

    (of_a,) = [m["content"] for m in first if m["msg_type"] == "display_data"]
    shown = [(m["msg_type"], m["content"]) for m in second if "data" in m["content"]]
    assert [(kind, content["data"]["text/plain"]) for kind, content in shown] == [
        ("display_data", "'own'"),
        ("update_display_data", "'own, changed'"),
    ]
    ids = {content["transient"]["display_id"] for _, content in shown}
    assert len(ids) == 1  # a front end takes what is shown under a known id for an update too
    assert of_a["transient"]["display_id"] not in ids


def test_an_interrupt_stops_the_cell_and_only_it(kernel: Kernel) -> None:
    waiting = kernel.client.execute("print('on', flush=True)\nwhile True: pass")
    kernel.wait_for("stream", "on")
    began = time.monotonic()

    kernel.control("interrupt_request", {})
    reply, _ = kernel.finish(waiting)

    assert reply["content"]["ename"] == "KeyboardInterrupt"
    assert time.monotonic() - began < 5
    assert shown(kernel, "1 + 1") == "2"


@pytest.mark.whoever
def test_a_failed_cell_aborts_those_that_wait_behind_it(kernel: Kernel) -> None:
    first = kernel.client.execute("import time; time.sleep(0.3); 1 / 0")
    behind = kernel.client.execute("print('never')")

    assert kernel.finish(first)[0]["content"]["ename"] == "ZeroDivisionError"
    assert kernel.finish(behind)[0]["content"]["status"] == "aborted"


@pytest.mark.whoever
def test_kernel_info_is_answered_while_a_cell_runs(kernel: Kernel) -> None:
    waiting = kernel.client.execute("print('on', flush=True)\nimport time; time.sleep(2)")
    kernel.wait_for("stream", "on")

    reply = kernel.control("kernel_info_request", {})

    assert reply["content"]["implementation"] == "sandbox-kernel"
    assert reply["content"]["supported_features"] == []
    kernel.control("interrupt_request", {})
    kernel.finish(waiting)


@pytest.mark.whoever
def test_completion_knows_builtins_modules_and_shared_names(kernel: Kernel) -> None:
    shown(kernel, "%sandbox share total_of_all")
    shown(kernel, "total_of_all = 1")
    for code, expected in (("zi", "zip"), ("import itert", "itertools"), ("tot", "total_of_all")):
        asked = kernel.client.complete(code)
        while (reply := kernel.client.get_shell_msg(timeout=10))["parent_header"][
            "msg_id"
        ] != asked:
            pass
        assert expected in reply["content"]["matches"]
