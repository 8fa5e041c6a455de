"""Notebooks of a plain ipykernel, run as `nbconvert --execute` runs them, and what they show."""

from __future__ import annotations

from typing import Any

import nbformat
from nbclient import NotebookClient


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
    """What a cell wrote to one stream."""
    return "".join(o.text for o in outputs if o.output_type == "stream" and o.name == name)


def error(outputs: list[Any]) -> Any:
    """The one error of a cell."""
    (found,) = [o for o in outputs if o.output_type == "error"]
    return found
