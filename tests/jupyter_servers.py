"""A real Jupyter server for tests, without a browser: kernels over its REST interface."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from jupyter_client.blocking.client import BlockingKernelClient

SECONDS = 60.0


class JupyterServer:
    """The process, and what is asked of it."""

    def __init__(self, home: Path, jupyter_path: Path) -> None:
        home.mkdir()
        self._runtime = home / "runtime"
        self._token = os.urandom(16).hex()
        self._log = home / "log"
        environment = os.environ | {
            "HOME": str(home),
            "JUPYTER_CONFIG_DIR": str(home / "config"),
            "JUPYTER_DATA_DIR": str(home / "data"),
            "JUPYTER_RUNTIME_DIR": str(self._runtime),
            "JUPYTER_PATH": str(jupyter_path),
        }
        arguments = [
            "--no-browser",
            "--ip=127.0.0.1",
            "--port=0",
            f"--IdentityProvider.token={self._token}",
            f"--ServerApp.root_dir={home}",
            "--ServerApp.jpserver_extensions={}",
        ]
        if os.geteuid() == 0:
            arguments.append("--allow-root")
        with self._log.open("wb") as log:
            self.process = psutil.Popen(
                [sys.executable, "-m", "jupyter_server", *arguments],
                env=environment,
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._address = ""

    def wait(self) -> None:
        """Until it answers."""
        file = self._runtime / f"jpserver-{self.process.pid}.json"
        ended = os.pidfd_open(self.process.pid)
        deadline = time.monotonic() + SECONDS
        try:
            while not (file.exists() and self._answers(file)):
                # Neither its folder nor its socket can be waited for before they are there.
                if select.select([ended], [], [], 0.05)[0] or time.monotonic() > deadline:
                    raise RuntimeError(f"jupyter_server did not start:\n{self._log.read_text()}")
        finally:
            os.close(ended)

    def _answers(self, file: Path) -> bool:
        try:
            self._address = str(json.loads(file.read_text())["url"])
            with urllib.request.urlopen(f"{self._address}api", timeout=SECONDS):
                return True
        except (OSError, ValueError):
            return False

    def start_kernel(self, name: str) -> str:
        """The id of a new kernel."""
        request = urllib.request.Request(
            f"{self._address}api/kernels?token={self._token}",
            data=json.dumps({"name": name}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return str(json.load(answer)["id"])

    @contextmanager
    def client(self, kernel: str) -> Iterator[BlockingKernelClient]:
        """A client of one of its kernels, which answers."""
        client = BlockingKernelClient(connection_file=str(self._runtime / f"kernel-{kernel}.json"))
        client.load_connection_file()
        client.hb_channel.time_to_dead = SECONDS  # kernels that start together are slow to answer
        client.start_channels()
        try:
            client.wait_for_ready(timeout=SECONDS)
            yield client
        finally:
            client.stop_channels()

    def relay(self, kernel: str) -> psutil.Process:
        """The process that it started as this kernel."""
        return next(
            child
            for child in self.process.children()
            if any(f"kernel-{kernel}.json" in word for word in child.cmdline())
        )

    def kill(self) -> None:
        """SIGKILL; everything below it has to see for itself."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self.process.kill()
        self.process.wait(SECONDS)
