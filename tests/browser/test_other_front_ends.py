"""The same view in Notebook 7 and in Voilà, which this server has beside JupyterLab."""

from __future__ import annotations

import re

import nbformat
from lab_page import Lab
from playwright.sync_api import BrowserContext, Locator, Page, expect

from sandbox_kernel import policy, settings
from sandbox_kernel.container import Container

CODE = "from sandbox_kernel.widgets import Limits\nLimits('elsewhere')"


def expect_a_live_view_that_hears(page: Page, held: Container) -> None:
    """Its line can be moved by keys, and the kernel's number follows."""
    view: Locator = page.locator(".sandbox-limits").first
    expect(view).to_have_attribute("data-state", "live", timeout=60_000)
    line = view.get_by_role("slider", name="limit of Processes")
    before = held.limits()["pids_limit"]
    line.press("ArrowDown")
    line.press("Enter")
    expect(view.get_by_role("meter", name="Processes")).to_have_attribute(
        "aria-valuetext", re.compile(f"of {before - 1}"), timeout=30_000
    )
    assert held.limits()["pids_limit"] == before - 1


def test_notebook_7_and_voila_show_a_live_view(lab: Lab, browser: BrowserContext) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CODE)])
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(notebook, lab.folder / "elsewhere.ipynb")
    page = browser.new_page()
    page.set_default_timeout(60_000)
    plan = policy.plan(settings.PROGRAM, name="elsewhere", memory="100m", pids_limit=40)
    with Container.create(plan) as held:
        page.goto(f"{lab.url}notebooks/elsewhere.ipynb?token={lab.token}")
        page.locator(".jp-Notebook .jp-CodeCell .cm-content").first.click()
        page.keyboard.press("Shift+Enter")
        expect_a_live_view_that_hears(page, held)

        page.goto(f"{lab.url}voila/render/elsewhere.ipynb")
        expect_a_live_view_that_hears(page, held)
    page.close()
