"""Notebooks beside the chapters of the course run, and the demonstration proves what it prints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from sandbox_kernel.course import contents
from sandbox_kernel.course.texts import LANGUAGES

REPOSITORY = Path(__file__).resolve().parents[2]
NOTEBOOKS = [
    REPOSITORY / "notebooks" / language / chapter.file
    for chapter in contents.CHAPTERS
    if not chapter.exercises  # test_course.py runs the others
    for language in LANGUAGES
]


@pytest.fixture(autouse=True)
def _kernelspec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = Path(sys.executable).with_name("sandbox-kernel")
    subprocess.run([command, "install", "--prefix", tmp_path], check=True)
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share/jupyter"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: "/".join(path.parts[-2:]))
def test_a_notebook_runs_and_fails_where_it_says_so(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)

    NotebookClient(notebook, timeout=120, allow_errors=True).execute()

    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    errors = [[out.ename for out in cell.outputs if "ename" in out] for cell in cells]
    last = ["OutOfMemory"] if path.name == "00-first-sandbox.ipynb" else []
    assert errors == [[] for _ in cells[:-1]] + [last]


def test_the_demonstration_proves_what_it_prints() -> None:
    shown = subprocess.run(
        [sys.executable, REPOSITORY / "notebooks/demonstrate.py"],
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )

    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "What this proves" in shown.stdout
