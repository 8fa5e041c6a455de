"""A docker engine that a test starts for itself, in folders of its own, and stops by its pid.

It has no bridge, writes no rules into the machine's packet filter, and mounts in a namespace of its
own, so whatever happens to it no mount stays.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

DAEMON, CLIENT = "/usr/sbin/dockerd", "/usr/bin/docker"
START_SECONDS = 30.0
END_SECONDS = 60.0


class Docker(NamedTuple):
    """A running engine. `folder`: all that it has, its socket and what its client keeps."""

    folder: Path

    def run(self, *words: str | Path, text: str | None = None) -> str:
        """`docker WORDS`: its standard output, without the last line's end."""
        to_it = ["--config", self.folder / "client", "--host", f"unix://{self._socket}"]
        done = subprocess.run(
            [CLIENT, *to_it, *words],
            input=text, capture_output=True, text=True, check=False, timeout=120,
            env={**os.environ, "DOCKER_BUILDKIT": "0"},
        )  # fmt: skip
        assert done.returncode == 0, f"docker {words[0]}: {done.stdout[-500:]}{done.stderr}"
        return done.stdout.strip()

    @property
    def _socket(self) -> Path:
        return self.folder / "socket"

    def answers(self) -> bool:
        """Whether it does what its client asks."""
        words = [CLIENT, "--host", f"unix://{self._socket}", "version"]
        return subprocess.run(words, capture_output=True, check=False).returncode == 0


@contextlib.contextmanager
def engine(folder: Path, *, group: str) -> Iterator[Docker]:
    """An engine below an empty folder. Where it can't be started, AssertionError says why.

    `group`: the control groups of its containers are made below this one; see `remove_groups`.
    """
    assert os.path.exists(DAEMON), f"no `{DAEMON}` here: run `make packages-to-test`"
    words = [
        "/usr/bin/unshare", "--mount", DAEMON, f"--data-root={folder}/data",
        f"--exec-root={folder}/exec",
        f"--pidfile={folder}/pid", f"--host=unix://{folder}/socket", "--bridge=none",
        "--iptables=false", "--ip6tables=false", "--storage-driver=overlay2",
        f"--cgroup-parent=/{group}",
    ]  # fmt: skip
    log = folder / "log"
    with log.open("wb") as told:
        daemon = subprocess.Popen(words, stdout=told, stderr=told, stdin=subprocess.DEVNULL)
    docker = Docker(folder)
    try:
        end = time.monotonic() + START_SECONDS
        while not docker.answers():
            assert daemon.poll() is None, f"dockerd ended at once: {log.read_text()[-2000:]}"
            assert time.monotonic() < end, f"dockerd does not answer: {log.read_text()[-2000:]}"
            time.sleep(0.05)  # its socket is there before it answers
        yield docker
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(END_SECONDS)


def remove_groups(name: str) -> None:
    """Remove an empty control group and those below it, wherever a hierarchy has it."""
    tops = [*Path("/sys/fs/cgroup").glob(name), *Path("/sys/fs/cgroup").glob(f"*/{name}")]
    for top in tops:
        for folder, _, _ in os.walk(top, topdown=False):
            os.rmdir(folder)
