"""A JupyterLab on loopback and a Chromium in front of it, both with folders of their own."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from lab_page import Lab, LabPage
from playwright.sync_api import Browser, BrowserContext, sync_playwright

from sandbox_kernel.course import progress

CHROMIUM = "/usr/bin/chromium"
REPOSITORY = Path(__file__).resolve().parents[2]
# Screenshots for the documentation are renewed only when somebody asks for it.
SCREENSHOTS = os.environ.get("SANDBOX_KERNEL_SCREENSHOTS")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """JupyterLab with the kernelspecs of this environment and of `sandbox-kernel install`."""
    home = tmp_path_factory.mktemp("lab")
    folder = home / "notebooks"
    folder.mkdir()
    environment = os.environ | {
        "HOME": str(home),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTER_PATH": str(home / "prefix/share/jupyter"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "IPYTHONDIR": str(home / "ipython"),
        progress.VARIABLE: str(home / "progress"),
        # packages are not fetched once more for each home
        "UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR", str(Path.home() / ".cache/uv")),
    }
    _quiet_settings(home / "settings")
    subprocess.run(
        [Path(sys.executable).with_name("sandbox-kernel"), "install", "--prefix", home / "prefix"],
        env=environment,
        check=True,
    )
    token = os.urandom(16).hex()
    arguments = [
        "--no-browser",
        "--ip=127.0.0.1",
        "--port=0",
        f"--IdentityProvider.token={token}",
        f"--notebook-dir={folder}",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.news_url=None",
    ]
    if os.geteuid() == 0:
        arguments.append("--allow-root")
    with (home / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *arguments],
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        address = _address(server, home / "runtime", home / "log")
        yield Lab(address, token, folder, home / "progress")
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
            raise


def _address(server: subprocess.Popen[bytes], runtime: Path, log: Path) -> str:
    """The address that the server wrote down when it was ready to answer."""
    file = runtime / f"jpserver-{server.pid}.json"
    ended = os.pidfd_open(server.pid)
    try:
        deadline = time.monotonic() + 60
        while not file.exists():
            # The file can't be waited for before its folder is there: look ten times a second.
            if select.select([ended], [], [], 0.1)[0] or time.monotonic() > deadline:
                raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()}")
    finally:
        os.close(ended)
    return str(json.loads(file.read_text())["url"])


def _quiet_settings(folder: Path) -> None:
    """No question about news on the first start."""
    for name, values in {
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
        "completer-extension/manager": {"autoCompletion": False},
    }.items():
        file = folder / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))


@pytest.fixture(scope="module")
def browser(lab: Lab) -> Iterator[Browser]:
    """Debian's Chromium, driven by the Python client of Playwright."""
    if not Path(CHROMIUM).exists():
        pytest.fail("no Chromium here: install it by `make packages-to-test`")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
        )
        with browser.new_page() as page:  # starts the services that all its pages share
            page.goto(f"{lab.url}login")
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def person(browser: Browser) -> Iterator[BrowserContext]:
    """Who opens all pages of a file: JupyterLab's programs are loaded and compiled once for it."""
    context = browser.new_context(
        viewport={"width": 1280, "height": 800},
        device_scale_factor=1.5 if SCREENSHOTS else 1,
        locale="en-GB",
    )
    context.set_default_timeout(30_000)
    yield context
    context.close()


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
