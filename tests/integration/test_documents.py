"""What the pages for people show does what they say: every block of code is run for real."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from documents import FOR_USERS, Block, blocks
from nbclient import NotebookClient

ELSEWHERE = {
    "make demo": "tests/integration/test_notebooks.py runs the demonstration",
    "make test": "this is it",
    "pip install .": "tests/ordinary_user.py installs the package so",
}
PRINTED = {"6 * 7": "42\n", "$HOME": "/home/sandbox\n", "echo hello": "hello from inside\n"}
SHOWN = {
    "README.md": ["42"],
    "README.zh-CN.md": ["42"],
    "docs/getting-started.md": ["42"],
    "docs/python.md": [
        "42",
        "[3]",
        "1.53",
        "[0, 1, 7, 2, 5, 8, 16]",
        "[0.25, None, 0.5]\n1 0 ZeroDivisionError: division by zero",
        "hi\n\n536870912",
        "['42', '2']",
        "[3, 1, 2] right\n[4, 1, 3, 2] wrong: 3\n[] wrong: list index out of range",
        "the answer:\n42\n",
        "TimedOut: timed out: the limit is 4 s",
        "OutOfMemory: out of memory: the limit is 256 MiB",
        "[3, 5, 5] False",
        "done after a while",
    ],
    "docs/values.md": [
        "[0. 2. 4. 6.]",
        "total 6",
        "variable `table` of type `dict` can't cross: a key of type `int` is not str",
        "{'out/copy.csv': b'1,2\\n1,2\\n'}",
        "<?xml",
    ],
}
BIN = Path(sys.executable).parent
CELLS = [block for block in blocks(*FOR_USERS) if block.language == "python"]
SHELL = [block for block in blocks(*FOR_USERS) if block.language == "sh"]
SETTINGS = [block for block in blocks(*FOR_USERS) if block.language == "toml"]


@pytest.fixture(autouse=True)
def _a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder and home, and the command on the path."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", f"{BIN}:{os.environ['PATH']}")


def test_every_block_is_of_a_kind_that_is_tried() -> None:
    assert {block.language for block in blocks(*FOR_USERS)} <= {"python", "sh", "toml"}
    assert sum(len(block.text.splitlines()) for block in SHELL) > 12
    assert len(CELLS) > 8


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_a_block_for_the_shell_works(block: Block) -> None:
    lines = [line.partition("#")[0].rstrip() for line in block.text.splitlines()]
    script = "\n".join(line for line in lines if line not in ELSEWHERE)
    done = subprocess.run(
        ["/bin/bash", "-euc", script], capture_output=True, text=True, timeout=120, check=False
    )

    assert done.returncode == 0, done.stderr
    for part, printed in PRINTED.items():
        assert part not in script or printed in done.stdout


@pytest.mark.parametrize("page", FOR_USERS)
def test_the_cells_of_a_page_run_in_order_in_any_notebook(page: str) -> None:
    notebook = nbformat.v4.new_notebook()
    cells = [block for block in CELLS if block.page == page]
    # magics that come before %load_ext are for the sandbox kernel, which has them
    first = next(i for i, block in enumerate(cells) if "%load_ext" in block.text)
    cells = [cell for i, cell in enumerate(cells) if i >= first or not cell.text.startswith("%")]
    notebook.cells = [nbformat.v4.new_code_cell("numbers = [1, 2]; names = ['a', 'bc']")]
    notebook.cells += [nbformat.v4.new_code_cell(block.text) for block in cells]

    # one write may come as several messages
    NotebookClient(notebook, kernel_name="python3", timeout=120, coalesce_streams=True).execute()

    printed = [out.text for cell in notebook.cells for out in cell.outputs if "text" in out]
    for shown in SHOWN[page]:
        assert any(shown in text for text in printed), shown


@pytest.mark.parametrize(
    "block", [block for block in CELLS if block.text.startswith("%sandbox")], ids=str
)
def test_a_line_of_the_sandbox_kernel_shows_what_is_in_force(
    block: Block, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install = [BIN / "sandbox-kernel", "install", "--prefix", tmp_path]
    subprocess.run(install, check=True, capture_output=True)
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share/jupyter"))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(block.text)])

    NotebookClient(notebook, kernel_name="sandbox-python3", timeout=120).execute()

    shown = "".join(out.data["text/plain"] for out in notebook.cells[0].outputs)
    assert "512 MiB" in shown
    assert "yes" in shown


def test_the_cells_of_the_page_about_them_run_in_order(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install = [BIN / "sandbox-kernel", "install", "--prefix", tmp_path]
    subprocess.run(install, check=True, capture_output=True)
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share/jupyter"))
    code = [block.text for block in blocks("docs/cells.md") if block.language == "python"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in code])

    NotebookClient(notebook, kernel_name="sandbox-cells-python3", timeout=120).execute()

    printed = [out.text for cell in notebook.cells for out in cell.outputs if "text" in out]
    assert printed == ["42\n", "{'tea': 3, 'coffee': 4} kept\n", "9\n", "7\n"]


@pytest.mark.parametrize("block", SETTINGS, ids=str)
def test_a_settings_file_is_read_as_it_stands(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "home/.config/sandbox-kernel/config.toml"
    file.parent.mkdir(parents=True)
    file.write_text(block.text)
    argv = [BIN / "sandbox-kernel", "plan", "--format=json"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr
    assert '"memory": {"value": 1073741824' in done.stdout
    assert str(file) in done.stdout
