"""The same view in Notebook 7 and in Voilà, which this server has beside JupyterLab."""

from __future__ import annotations

import re

import nbformat
from lab_page import Lab, LabPage
from playwright.sync_api import Browser, Locator, Page, expect

from sandbox_kernel import policy, settings
from sandbox_kernel.container import Container

CODE = "from sandbox_kernel.widgets import Limits\nLimits('elsewhere')"


def expect_a_live_view(page: Page) -> None:
    """It says what the kernel's files say."""
    view: Locator = page.locator(".sandbox-limits").first
    expect(view).to_have_attribute("data-state", "live", timeout=60_000)
    expect(view.get_by_role("meter", name="Processes")).to_have_attribute(
        "aria-valuetext", re.compile("of 40")
    )
    expect(view.get_by_role("slider", name="limit of Memory")).to_be_visible()


def test_notebook_7_and_voila_show_a_live_view(lab: Lab, browser: Browser) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CODE)])
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(notebook, lab.folder / "elsewhere.ipynb")
    context = browser.new_context(viewport={"width": 1200, "height": 800}, locale="en-GB")
    context.set_default_timeout(60_000)
    page = context.new_page()
    plan = policy.plan(settings.PROGRAM, name="elsewhere", memory="100m", pids_limit=40)
    try:
        with Container.create(plan):
            page.goto(f"{lab.url}notebooks/elsewhere.ipynb?token={lab.token}")
            page.locator(".jp-Notebook .jp-CodeCell .cm-content").first.click()
            page.keyboard.press("Shift+Enter")
            expect_a_live_view(page)
            page.goto(f"{lab.url}voila/render/elsewhere.ipynb")
            expect_a_live_view(page)
    finally:
        page.goto("about:blank")  # at which Voilà ends its kernel
        LabPage(page, None).end_kernels(lab.url, lab.token)
        context.close()
