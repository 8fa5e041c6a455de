"""A JupyterLab on loopback and a Chromium in front of it, both with folders of their own."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from lab_page import Lab, LabPage
from lab_server import LOOKS, SCREENSHOTS, SECONDS, started_lab
from playwright.sync_api import (
    Browser,
    BrowserContext,
    Page,
    Playwright,
    expect,
    sync_playwright,
)

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
REPOSITORY = Path(__file__).resolve().parents[2]

Tabs = dict[tuple[BrowserContext, str], Page]
"""Whose, and of which server: one with an empty workspace."""

expect.set_options(timeout=SECONDS * 1000)


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One for all files that need no other; each page finds its folder empty."""
    with started_lab(tmp_path_factory.mktemp("lab")) as started:
        yield started


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    """What drives Debian's Chromium, in Python."""
    if not Path(CHROMIUM).exists():
        pytest.fail("no Chromium here: install it by `make packages-to-test`")
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="session")
def browser(playwright: Playwright) -> Iterator[Browser]:
    """For people of whom no page knows anything."""
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
    with browser.new_page() as page:  # starts the services that all its pages share
        page.goto("data:text/html,")
    yield browser
    browser.close()


@pytest.fixture(scope="session")
def person(
    playwright: Playwright, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BrowserContext]:
    """Who opens all pages. His browser has a folder, since Chromium keeps compiled programs only
    there: JupyterLab is then there after 2.9 s of the processor's time, and after 4.6 without.
    """
    folder = tmp_path_factory.mktemp("browser")
    context = playwright.chromium.launch_persistent_context(
        folder, executable_path=CHROMIUM, args=ARGUMENTS, **LOOKS
    )
    context.set_default_timeout(SECONDS * 1000)
    context.pages[0].goto("data:text/html,")  # the tab that it comes with, which stays
    yield context
    context.close()


@pytest.fixture(scope="session")
def tabs() -> Tabs:
    """Those that a test left for the next one: to load JupyterLab takes half of a short test."""
    return {}


@pytest.fixture
def page(
    lab: Lab, person: BrowserContext, tabs: Tabs, request: pytest.FixtureRequest
) -> Iterator[LabPage]:
    """An empty workspace of JupyterLab, the launcher in view; its kernels are ended afterwards."""
    of_whom = person, lab.url
    left = tabs.pop(of_whom, None)
    with opened_page(lab, person, request.node.name, left) as shown:
        yield shown
        if shown.empty():
            tabs[of_whom] = shown.page
    if of_whom not in tabs:
        shown.page.close()


@pytest.fixture(scope="module")
def page_of_the_file(
    lab: Lab, person: BrowserContext, request: pytest.FixtureRequest
) -> Iterator[LabPage]:
    """One page for all tests of a file."""
    with opened_page(lab, person, request.node.name) as shown:
        yield shown
    shown.page.close()


@contextmanager
def opened_page(
    lab: Lab, person: BrowserContext, name: str, tab: Page | None = None
) -> Iterator[LabPage]:
    """The same for as long as the block is, in a tab that was left or in a new one, which stays."""
    before = list(person.pages)
    if tab is None:
        tab = person.new_page()
        workspace = re.sub(r"\W+", "-", name)  # of another name there is no workspace
        tab.goto(f"{lab.url}lab/workspaces/{workspace}?reset&token={lab.token}")
        tab.locator(".jp-Launcher").wait_for()
    shown = LabPage(tab, REPOSITORY / "docs/images" if SCREENSHOTS else None)
    try:
        yield shown
    finally:
        shown.end_kernels(lab.url, lab.token)
        for opened in person.pages:
            if opened not in before and opened is not tab:
                opened.close()
        for left in lab.folder.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
