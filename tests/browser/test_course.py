"""The course in JupyterLab: a check, the progress in the contents, and a link to a chapter."""

from __future__ import annotations

import time

import nbformat
from lab_page import Lab, LabPage
from playwright.sync_api import expect

from sandbox_kernel.course import copying

SOLVED = "import sandbox_kernel\nsandbox = sandbox_kernel.Sandbox()\nguest = sandbox.container.pid"


def test_the_contents_show_what_is_done_and_lead_to_the_chapters(page: LabPage, lab: Lab) -> None:
    copying.copy(str(lab.folder))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("")])
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(notebook, lab.folder / "en/mine.ipynb")

    page.open_notebook(lab.url, "en/mine.ipynb")
    page.run("%load_ext sandbox_kernel")
    assert "not yet" in page.run("%sandbox check guest")
    page.run(SOLVED)
    cell = page.start("%sandbox check guest")
    page.wait_for_end(cell)
    expect(cell.get_by_role("cell", name="/ns/uts")).to_be_visible()
    assert "done" in page.output(cell)
    assert [path.name for path in lab.progress.iterdir()] == ["guest"]

    cell = page.start("%sandbox course")
    page.wait_for_end(cell)
    assert "✓ guest" in page.output(cell)
    cell.scroll_into_view_if_needed()
    page.picture("course-contents")
    cell.get_by_role("link", name="Control groups").click()
    shown = page.page.locator(".jp-NotebookPanel:visible")
    expect(shown.get_by_role("heading", name="Control groups: share")).to_be_visible()
    deadline = time.monotonic() + 60
    while page.kernels(lab.url, lab.token) < 2:  # it has to be there before it can be ended
        assert time.monotonic() < deadline
        page.page.wait_for_timeout(200)
    page.wait_until_idle()
