"""`%%container build`, `%container build` and `build:PATH` in a real ipykernel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import built_images
import nbformat
from nbclient import NotebookClient

from sandbox_kernel.image.store import Store

CELL = """%%container build -t greeting:1 --build-arg WHO=world context
FROM scratch
COPY root /
ARG WHO
RUN echo building for $WHO
RUN <<EOF
echo "hello $WHO" > /greeting
EOF
"""


def executed(folder: Path, *cells: str) -> list[Any]:
    """The outputs of each cell, in a kernel that works in this folder."""
    notebook = nbformat.v4.new_notebook()
    whole = ["%load_ext sandbox_kernel", *cells]
    notebook.cells = [nbformat.v4.new_code_cell(cell) for cell in whole]
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=120,
        allow_errors=True,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    return [cell.outputs for cell in notebook.cells[1:]]


def text(outputs: list[Any]) -> str:
    return "".join(output.get("text", "") for output in outputs)


def error(outputs: list[Any]) -> str:
    (found,) = [output for output in outputs if output.output_type == "error"]
    return f"{found.ename}: {found.evalue}"


def test_a_notebook_builds_and_runs_its_image(store: Store, tmp_path: Path) -> None:
    here, outside = tmp_path / "here", tmp_path / "outside"
    outside.mkdir()
    built_images.make_root(here / "context/root")
    (here / "context/Containerfile").write_text(
        "FROM scratch\nCOPY root /\nRUN echo file > /greeting\n"
    )
    outputs = executed(
        here,
        CELL,
        "%%container greeting:1 --program sh\ncat /greeting",
        CELL,
        "%container build -t other:1 context",
        "%%container build:context --program sh\ncat /greeting",
        f"%container build {outside}",
        "%%container build\nFROM scratch\n  COPPY a b",
        "%%container build context\nFROM scratch\nCOPY root /\nRUN echo last words; exit 4",
        "%container build --help",
    )
    assert "building for world\n" in text(outputs[0])
    digest = store.find("greeting:1").digest
    assert text(outputs[0]).endswith(f"greeting:1: {digest}\n")
    assert text(outputs[1]) == "hello world\n"
    assert text(outputs[2]).count("(cached)") == 3
    assert text(outputs[2]).endswith(f"{digest}\n")
    assert text(outputs[3]).endswith(f"{store.find('other:1').digest}\n")
    assert text(outputs[4]) == "file\n"
    assert error(outputs[5]).startswith("NotAllowed: ")
    assert "line 2, column 3: `COPPY` is no instruction: did you mean `COPY`?" in error(outputs[6])
    assert error(outputs[7]).startswith("BuildFailed: build `Containerfile`, line 3, column 1")
    assert "status 4: it wrote last: last words" in error(outputs[7])
    assert text(outputs[8]).startswith("usage: %container build")
