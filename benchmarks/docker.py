"""A docker engine of our own, for the benchmarks alone: started here, stopped by its pid.

Its image holds no files: it gets the same places of this machine as the image `host`, read-only,
so that the program and its libraries are the same bytes from the same disk.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from sandbox_kernel.image import Image

DOCKERD, DOCKER = "/usr/sbin/dockerd", "/usr/bin/docker"
PROGRAMS = ("dockerd", "containerd", "containerd-shim", "containerd-shim-runc-v2")
START_SECONDS = 60.0
IMAGE = "benchmark"
GROUP = f"sandbox-kernel-benchmark-{os.getpid()}"
"""The control groups of its containers are below this one, in each hierarchy."""


@contextmanager
def engine(storage: str = "vfs", *, own_network: bool = False) -> Iterator[list[str] | None]:
    """The beginning of a command that speaks to it; None where it is not installed.

    `storage`: how it keeps layers; `vfs` makes no mounts. With `own_network` it has networks, in a
    network namespace of its own.
    """
    if not (os.path.exists(DOCKERD) and os.geteuid() == 0):
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="sandbox-kernel-docker-", dir="/var/tmp"))
    words = [
        DOCKERD, f"--data-root={folder}/data", f"--exec-root={folder}/exec",
        f"--pidfile={folder}/pid", f"--host=unix://{folder}/socket", "--bridge=none",
        "--iptables=false", f"--storage-driver={storage}", f"--cgroup-parent=/{GROUP}",
    ]  # fmt: skip
    if own_network:
        kept = [word for word in words if word not in ("--bridge=none", "--iptables=false")]
        words = ["/usr/bin/unshare", "--net", "--", *kept]
    with (folder / "log").open("wb") as log:
        daemon = subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    client = [_client(), f"--host=unix://{folder}/socket"]
    try:
        end = time.monotonic() + START_SECONDS
        while subprocess.run([*client, "version"], capture_output=True, check=False).returncode:
            if daemon.poll() is not None or time.monotonic() > end:
                raise RuntimeError((folder / "log").read_text()[-2000:])
            time.sleep(0.1)
        subprocess.run(
            [*client, "import", "-", IMAGE], input=_empty(), check=True, capture_output=True
        )
        yield client
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(60)
        shutil.rmtree(folder, ignore_errors=True)
        for top in (
            *Path("/sys/fs/cgroup").glob(GROUP),
            *Path("/sys/fs/cgroup").glob(f"*/{GROUP}"),
        ):
            top.rmdir()


def processes() -> list[psutil.Process]:
    """The daemons, the shims, and what runs in the containers."""
    found = [one for one in psutil.process_iter(["name"]) if one.info["name"] in PROGRAMS]
    below = (child for one in found for child in one.children(recursive=True))
    return list({one.pid: one for one in (*found, *below)}.values())


def run(client: list[str], shown: Image, argv: list[str]) -> list[str]:
    """The words of `docker run` without a network, with the places of the image `host`."""
    places = []
    for mount in shown.mounts:
        places += ["--volume", f"{mount['source']}:{mount['destination']}:ro"]
    return [*client, "run", "--rm", "--network", "none", "--memory", "256m", *places, IMAGE, *argv]


def _client() -> str:
    return DOCKER if os.path.exists(DOCKER) else shutil.which("docker") or DOCKER


def _empty() -> bytes:
    """A root with the links that the image `host` has, and nothing else."""
    text = io.BytesIO()
    with tarfile.open(fileobj=text, mode="w") as archive:
        for name in ("bin", "sbin", "lib", "lib64"):
            if os.path.islink(f"/{name}"):
                link = tarfile.TarInfo(name)
                link.type, link.linkname = tarfile.SYMTYPE, os.readlink(f"/{name}")
                archive.addfile(link)
    return text.getvalue()
