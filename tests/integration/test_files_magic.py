"""`%%container --files-out` in a real notebook."""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbclient import NotebookClient

PLOTS = """
import os
os.makedirs("plots/.cache")
for name in ("a.png", "b.png", "c.txt", ".cache/d.png", ".e.png"):
    open("plots/" + name, "w").write(name)
"""


def test_a_notebook_gets_the_files_of_its_cells(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    cells = (
        "%load_ext sandbox_kernel",
        f"%%container --files-out 'plots/*.png'\n{PLOTS}\n1 / 0",
        "%%container --files-out **/x --background\nimport os; os.mkdir('b'); open('b/x', 'w')",
        "before = __import__('os').path.exists('b/x'); _container.wait(60), before",
        "%%container --files-out link/*\nimport os; os.mkdir('link'); open('link/x', 'w')",
        "%%container --files-out none\npass",
        "%%container --files-out /etc/passwd\npass",
        "%%container --files-out x --map cells\npass",
    )
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
    NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=120,
        allow_errors=True,
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()
    found = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert found == ["b/x", "plots/a.png", "plots/b.png"]
    assert notebook.cells[3].outputs[0].data["text/plain"] == "(True, False)"
    said = ["".join(out.get("evalue") or out.get("text", "") for out in cell.outputs)
            for cell in notebook.cells]  # fmt: skip
    assert "division" in said[1]
    assert "link" in said[4]
    assert "none meets `none`" in said[5]
    assert "without `..`" in said[6]
    assert "not with `--map`" in said[7]
