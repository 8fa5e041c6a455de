"""Promises to those who run notebooks without a browser: nbconvert, papermill and nbclient."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
PROGRAMS = Path(sys.executable).parent
# One run in fifty of a notebook with widgets stops at a reply that has come, with plain ipykernel
# too: nbclient answers a comm by `Session.send` of jupyter_client, which writes through a shadow of
# the asyncio socket and so can take the wake-up for what arrives meanwhile. The socket is readable,
# and nobody reads it. A cell that is over its time for that is begun anew.
ATTEMPTS = range(3)
SECONDS_OF_CELL = 30


@pytest.fixture(autouse=True)
def _kernelspec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = call("sandbox-kernel", "install", "--prefix", str(tmp_path), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share/jupyter"))


def call(program: str, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAMS / program, *words],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
        check=False,
    )


def outputs(notebook: Any, number: int) -> list[Any]:
    """Of a cell, counted from 0 with those of text; each cell of code has run."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    return notebook.cells[number].outputs


def test_nbconvert_executes_a_notebook_of_pandas_and_one_of_matplotlib(tmp_path: Path) -> None:
    names = ("rainfall.ipynb", "waves.ipynb")
    done = call(
        "jupyter", "nbconvert", "--execute", "--to", "notebook", "--output-dir", str(tmp_path),
        *(str(FOLDER / name) for name in names), cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr

    rainfall, waves = (nbformat.read(tmp_path / name, as_version=4) for name in names)
    assert "<table" in outputs(rainfall, 2)[0].data["text/html"]
    assert outputs(rainfall, 5)[0].text == "365 days, 12 months\n"
    assert outputs(waves, 2)[0].data["image/png"].startswith("iVBOR")
    assert outputs(waves, 3)[0].data["text/plain"] == "True"
    assert not (FOLDER / "rain.csv").exists()
    assert not (tmp_path / "rain.csv").exists()


def test_nbconvert_makes_a_page_of_a_notebook_that_it_executed(tmp_path: Path) -> None:
    for _ in ATTEMPTS:
        done = call(
            "jupyter", "nbconvert", "--execute", "--to", "html", "--output-dir", str(tmp_path),
            f"--ExecutePreprocessor.timeout={SECONDS_OF_CELL}", str(FOLDER / "slider.ipynb"),
            cwd=tmp_path,
        )  # fmt: skip
        if "CellTimeoutError" not in done.stderr:
            break
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "slider.html").read_text()
    assert "16 square metres" in page
    assert "application/vnd.jupyter.widget-state+json" in page


def test_papermill_passes_parameters_and_keeps_what_failed(tmp_path: Path) -> None:
    result = tmp_path / "short.ipynb"
    done = call(
        "papermill", str(FOLDER / "rainfall.ipynb"), str(result), "-p", "days", "59",
        "-k", "sandbox-python3", "--no-progress-bar", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    notebook = nbformat.read(result, as_version=4)
    assert notebook.cells[-1].outputs[0].text == "59 days, 2 months\n"
    assert notebook.metadata.papermill.exception is None

    done = call(
        "papermill", str(FOLDER / "rainfall.ipynb"), str(result), "-p", "seed", "-1",
        "--no-progress-bar", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode != 0
    assert "ValueError" in done.stderr
    assert nbformat.read(result, as_version=4).metadata.papermill.exception is True


def test_nbclient_keeps_widgets_with_their_state_and_their_outputs() -> None:
    for _ in ATTEMPTS:
        notebook = nbformat.read(FOLDER / "slider.ipynb", as_version=4)
        client = NotebookClient(notebook, timeout=SECONDS_OF_CELL, kernel_name="sandbox-python3")
        with suppress(CellTimeoutError):
            client.execute()
            break

    view = outputs(notebook, 1)[0].data["application/vnd.jupyter.widget-view+json"]
    state = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"]
    assert view["model_id"] in state
    models = [model["state"] for model in state.values()]
    assert [model["value"] for model in models if model.get("description") == "side"] == [4]
    printed = next(model["outputs"] for model in models if model["_model_name"] == "OutputModel")
    assert json.dumps(printed).count("printed into a widget") == 1
    assert outputs(notebook, 2)[0].data["text/plain"] == "'16 square metres'"


def test_nbclient_stops_at_an_error_and_says_where() -> None:
    notebook = nbformat.read(FOLDER / "waves.ipynb", as_version=4)
    notebook.cells[2].source = "open('/root/.ssh/id_rsa')"

    with pytest.raises(CellExecutionError, match="id_rsa"):
        NotebookClient(notebook, timeout=60, kernel_name="sandbox-python3").execute()
    assert notebook.cells[3].execution_count is None
