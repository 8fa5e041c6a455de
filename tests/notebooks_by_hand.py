"""Notebooks run as a front end does that keeps their file, with the kernels of this environment."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient


def execute(path: Path, argv: list[str], image: str, *cells: str) -> list[str]:
    """Run cells as a front end does that keeps the notebook; what they printed or raised."""
    notebook = nbformat.read(path, 4) if path.exists() else nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(code) for code in cells]
    folder = path.parent / "share"
    spec = {
        "argv": argv, "language": "python", "display_name": "Sandbox", "interrupt_mode": "message",
        "env": {"SANDBOX_KERNEL_OPTIONS": json.dumps({"holder": False, "image": image})},
    }  # fmt: skip
    place = folder / "kernels/sandbox-test"
    place.mkdir(parents=True, exist_ok=True)
    (place / "kernel.json").write_text(json.dumps(spec))
    client = NotebookClient(notebook, kernel_name="sandbox-test", allow_errors=True, timeout=60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder))
        client.execute(env={**os.environ, "JPY_SESSION_NAME": str(path)})
    nbformat.write(notebook, path)
    outputs = [output for cell in notebook.cells for output in cell.outputs]
    return [str(out.get("text") or out.get("data", {}).get("text/plain") or out) for out in outputs]
