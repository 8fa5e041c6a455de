"""Starting a JupyterLab on loopback, and who looks at it. No test in here."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lab_page import Lab
from playwright.sync_api import Browser, BrowserContext

from sandbox_kernel.course import progress

# Screenshots for the documentation are renewed only when somebody asks for it.
SCREENSHOTS = os.environ.get("SANDBOX_KERNEL_SCREENSHOTS")
LOOKS: dict[str, Any] = {
    "viewport": {"width": 1280, "height": 800},
    "device_scale_factor": 1.5 if SCREENSHOTS else 1,
    "locale": "en-GB",
}
"""What a page is shown in, and in which language."""
SECONDS = 30.0
"""In which what a test looks for has to be there."""


@contextmanager
def new_person(browser: Browser) -> Iterator[BrowserContext]:
    """Somebody of whom no page knows anything."""
    context = browser.new_context(**LOOKS)
    context.set_default_timeout(SECONDS * 1000)
    yield context
    context.close()


@contextmanager
def started_lab(home: Path) -> Iterator[Lab]:
    """JupyterLab with the kernelspecs of this environment and of `sandbox-kernel install`."""
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
        "PATH": f"{_no_node(home / 'bin')}{os.pathsep}{os.environ['PATH']}",
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
        "--LabApp.expose_app_in_browser=True",  # for `LabPage.empty`
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
        while not (file.exists() and (said := file.read_text())):  # it is made, and then written
            # The file can't be waited for before its folder is there: look ten times a second.
            if select.select([ended], [], [], 0.1)[0] or time.monotonic() > deadline:
                raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()}")
    finally:
        os.close(ended)
    return str(json.loads(said)["url"])


def _no_node(folder: Path) -> Path:
    """A folder for PATH. JupyterLab asks node about yarn again and again, each time for a second,
    also where nothing is built with it."""
    folder.mkdir()
    program = folder / "node"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    return folder


def _quiet_settings(folder: Path) -> None:
    """No question about news on the first start."""
    for name, values in {
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
        "completer-extension/manager": {"autoCompletion": False},
    }.items():
        file = folder / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
