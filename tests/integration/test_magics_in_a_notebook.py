"""The magics in a real ipykernel, driven as `nbconvert --execute` drives it."""

from __future__ import annotations

from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError


def executed(*cells: str, allow_errors: bool = True) -> list[Any]:
    """The outputs of each cell after the extension was loaded."""
    notebook = nbformat.v4.new_notebook()
    first = nbformat.v4.new_code_cell("%load_ext sandbox_kernel")
    notebook.cells = [first, *(nbformat.v4.new_code_cell(cell) for cell in cells)]
    NotebookClient(
        notebook, kernel_name="python3", timeout=120, allow_errors=allow_errors
    ).execute()
    return [cell.outputs for cell in notebook.cells[1:]]


def text(outputs: list[Any], name: str = "stdout") -> str:
    return "".join(o.text for o in outputs if o.output_type == "stream" and o.name == name)


def error(outputs: list[Any]) -> Any:
    (found,) = [o for o in outputs if o.output_type == "error"]
    return found


def test_a_notebook_of_container_cells() -> None:
    outputs = executed(
        "%%container --memory 200m --show limits\nprint('hi')\n6 * 7",
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


@pytest.mark.parametrize(
    "line",
    [
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
    ],
)
def test_a_wrong_option_is_one_line_and_stops_the_notebook(line: str, wrong: Any) -> None:
    found = wrong[line]
    assert found.ename == "InvalidOption"
    assert len(found.traceback) == 1
    assert "\n" not in found.traceback[0]


@pytest.fixture(scope="module")
def wrong() -> dict[str, Any]:
    lines = [
        mark.args[1]
        for mark in test_a_wrong_option_is_one_line_and_stops_the_notebook.pytestmark  # type: ignore[attr-defined]
    ][0]
    return {line: error(outputs) for line, outputs in zip(lines, executed(*lines), strict=True)}


def test_an_error_inside_stops_run_all() -> None:
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        executed("%%container\n1 / 0", "print('never')", allow_errors=False)
