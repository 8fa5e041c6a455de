"""Declared packages in JupyterLab, and what a saved notebook keeps of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import lab_server
import nbformat
import pytest
import wheels
from lab_page import Lab, LabPage
from playwright.sync_api import expect

from sandbox_kernel.image.environments import places

IMAGE = "packages: words"
HEAD = '# /// script\n# dependencies = ["words==2.0"]\n# ///\nimport words\nwords.version'


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of wheels that is all that uv knows in the server's kernels."""
    folder = tmp_path_factory.mktemp("index")
    wheels.make(folder, "words", "1.0")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UV_FIND_LINKS", str(folder))
        patch.setenv("UV_OFFLINE", "1")
        patch.setenv("UV_CACHE_DIR", str(folder / "uv"))
        patch.setenv(places.VARIABLE, str(folder / "environments"))
        yield folder


@pytest.fixture(scope="module")
def lab(index: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A server that knows of no other index."""
    with lab_server.started_lab(tmp_path_factory.mktemp("lab")) as started:
        yield started


def test_a_notebook_keeps_what_its_image_meant_when_it_is_saved(
    page: LabPage, lab: Lab, index: Path
) -> None:
    path = lab.folder / "pinned.ipynb"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("")])
    notebook.metadata = {
        "kernelspec": {"name": "sandbox-cells-python3", "display_name": "Sandbox Cells"},
        "sandbox_kernel": {"image": IMAGE},
    }
    nbformat.write(notebook, path)
    page.open_notebook(lab.url, path.name)
    assert page.run("import words; print(words.version)").strip() == "1.0"
    page.page.locator('.jp-NotebookPanel:visible [data-command="docmanager:save"]').click()
    expect(page.page.locator(".lm-TabBar-tab.lm-mod-current.jp-mod-dirty")).to_have_count(0)

    metadata = json.loads(path.read_text())["metadata"]
    kept = metadata["language_info"]["sandbox_kernel"]

    (wheel,) = kept["images"][IMAGE]["lock"]["wheels"]
    assert (wheel["name"], wheel["version"]) == ("words", "1.0")
    wheels.make(index, "words", "2.0")
    page.restart()
    page.wait_until_idle()
    assert page.run("import words; print(words.version)").strip() == "1.0"
    assert "words 1.0 -> 2.0" in page.run("%sandbox update")
    assert page.run("import words; print(words.version)").strip() == "2.0"
    assert "'2.0'" in page.run(HEAD)
    page.picture("environment-update")


def test_cells_of_an_ordinary_kernel_name_their_packages(
    page: LabPage, lab: Lab, index: Path
) -> None:
    """A file of requirements beside the notebook, and a head in the cell."""
    for version in ("1.0", "2.0"):
        wheels.make(index, "letters", version)
    (lab.folder / "requirements.txt").write_text("letters<2\n")
    page.new_notebook("Python 3 (ipykernel)")
    page.run("%load_ext sandbox_kernel")
    code = "import letters\nletters.version"
    assert "'1.0'" in page.run(f"%%container requirements:requirements.txt\n{code}")
    head = '# /// script\n# dependencies = ["letters"]\n# ///\n'
    assert "'2.0'" in page.run(f"%%container\n{head}{code}")
    page.picture("environment-cells")
