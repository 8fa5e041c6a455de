"""A JupyterLab on loopback and a Chromium in front of it, both with folders of their own."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from lab_page import Lab, LabPage
from lab_server import SCREENSHOTS, new_person, started_lab
from playwright.sync_api import Browser, BrowserContext, sync_playwright

CHROMIUM = "/usr/bin/chromium"
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One for all files that need no other; each page finds its folder empty."""
    with started_lab(tmp_path_factory.mktemp("lab")) as started:
        yield started


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, driven by the Python client of Playwright."""
    if not Path(CHROMIUM).exists():
        pytest.fail("no Chromium here: install it by `make packages-to-test`")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
        )
        with browser.new_page() as page:  # starts the services that all its pages share
            page.goto("data:text/html,")
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def person(browser: Browser) -> Iterator[BrowserContext]:
    """Who opens all pages: JupyterLab's programs are loaded and compiled once."""
    with new_person(browser) as context:
        yield context


@pytest.fixture
def page(lab: Lab, person: BrowserContext, request: pytest.FixtureRequest) -> Iterator[LabPage]:
    """A fresh workspace of JupyterLab, the launcher in view; its kernels are ended afterwards."""
    with opened_page(lab, person, request.node.name) as shown:
        yield shown


@pytest.fixture(scope="module")
def page_of_the_file(
    lab: Lab, person: BrowserContext, request: pytest.FixtureRequest
) -> Iterator[LabPage]:
    """One page for all tests of a file."""
    with opened_page(lab, person, request.node.name) as shown:
        yield shown


@contextmanager
def opened_page(lab: Lab, person: BrowserContext, name: str) -> Iterator[LabPage]:
    """The same for as long as the block is."""
    before = list(person.pages)
    tab = person.new_page()
    workspace = re.sub(r"\W+", "-", name)  # of another name there is no workspace
    tab.goto(f"{lab.url}lab/workspaces/{workspace}?reset&token={lab.token}")
    shown = LabPage(tab, REPOSITORY / "docs/images" if SCREENSHOTS else None)
    tab.locator(".jp-Launcher").wait_for()
    try:
        yield shown
    finally:
        shown.end_kernels(lab.url, lab.token)
        for opened in person.pages:
            if opened not in before:
                opened.close()
        for left in lab.folder.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
