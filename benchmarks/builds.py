"""Builds by the command, beside buildah and docker: with nothing changed, with one file changed,
and anew.

All keep their layers between the rounds (`--layers` of buildah), have the same Containerfile and
the same context, and no network. Ours makes the blobs of the layers as well, compressed; the others
leave that to a push.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

from benchmarks import docker
from benchmarks.pairs import Pair, Size, measure, shown
from sandbox_kernel.image.layers import remove_tree

BUILDAH = "/usr/bin/buildah"
BUSYBOX = "/usr/bin/busybox"
COMMAND = (os.path.join(os.path.dirname(sys.executable), "sandbox-kernel"),)
"""As it is installed."""
SECONDS = 0.2
"""Of a build with nothing to do."""
FILE = """FROM scratch
COPY busybox /bin/sh
COPY library /library
RUN echo "compiled $(ls /library)" > /compiled
COPY source /source
RUN echo "linked $(ls /source)" > /linked
WORKDIR /source
CMD ["/bin/sh"]
"""


def rows(rounds: int) -> Iterator[Pair | Size]:
    """As root, where buildah and a static busybox are installed; beside docker where that is."""
    folder = Path(tempfile.mkdtemp(prefix="sandbox-kernel-builds-", dir="/var/tmp"))
    try:
        context = _context(folder / "context")
        ours = _ours(folder, context)
        same = yield from _beside(
            "buildah bud", ours, _buildah(folder, context), _changing(context), rounds
        )
        quickest = sorted(same.ours)[len(same.ours) // 4]
        yield Size(
            f"that build, as quick as one in four ({shown(quickest)})", quickest, "s", SECONDS
        )
        theirs_gone = [BUILDAH, *_roots(folder), "rmi", "--all", "--force"]
        subprocess.run(theirs_gone, check=True, capture_output=True)
        with docker.engine(storage="overlay2") as client:
            if client is not None:
                theirs = _docker(client, context)
                yield from _beside("docker build", ours, theirs, _changing(context), rounds)
    finally:
        for path in (folder / "ours", folder / "buildah"):
            if path.exists():
                remove_tree(str(path))
        shutil.rmtree(folder)


def _beside(
    peer: str,
    ours: Callable[..., None],
    theirs: Callable[..., None],
    change: Callable[[], None],
    rounds: int,
) -> Generator[Pair, None, Pair]:
    """The three pairs with one peer; returns the first."""

    def pair(what: str, after: Callable[[], None], *more: str) -> Pair:
        return measure(
            what, lambda: ours(*more), peer, lambda: theirs(*more),
            bound=1, rounds=min(rounds, 20), warm=2, check=after,
        )  # fmt: skip

    same = pair("a build with nothing changed", lambda: None)
    yield same
    yield pair("a build with one source file changed", change)
    yield pair("the whole build anew", lambda: None, "--no-cache")
    return same


def _context(folder: Path) -> Path:
    """A program, a library of 400 files that stays, and sources of which one is changed."""
    for name in ("library", "source"):
        (folder / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, folder / "busybox")
    for number in range(400):
        (folder / "library" / f"{number}").write_bytes(os.urandom(2000) * 5)
    for number in range(20):
        (folder / "source" / f"{number}").write_text(f"{number}\n" * 500)
    (folder / "Containerfile").write_text(FILE)
    return folder


def _changing(context: Path) -> Callable[[], None]:
    """Changes one file whenever both have built what it was before."""
    calls = 0

    def change() -> None:
        nonlocal calls
        calls += 1
        if calls % 2 == 0:
            (context / "source/7").write_text(f"{calls}\n" * 500)

    return change


def _ours(folder: Path, context: Path) -> Callable[..., None]:
    environment = {**os.environ, "SANDBOX_KERNEL_IMAGES": str(folder / "ours")}
    command = [*COMMAND, "build", "--quiet", "-t", "app:1"]

    def build(*more: str) -> None:
        words = [*command, *more, str(context)]
        subprocess.run(words, check=True, env=environment, stdout=subprocess.DEVNULL)

    return build


def _roots(folder: Path) -> list[str]:
    place = folder / "buildah"
    return ["--root", str(place / "root"), "--runroot", str(place / "run")]


def _buildah(folder: Path, context: Path) -> Callable[..., None]:
    words = [BUILDAH, *_roots(folder), "bud", "--layers", "--isolation", "chroot", "--quiet"]

    def build(*more: str) -> None:
        command = [*words, *more, "-f", str(context / "Containerfile"), "-t", "app:1", str(context)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    return build


def _docker(client: list[str], context: Path) -> Callable[..., None]:
    words = [*client, "build", "--quiet", "--network", "none", "-t", "app:1"]
    environment = {**os.environ, "DOCKER_BUILDKIT": "0"}

    def build(*more: str) -> None:
        command = [*words, *more, "-f", str(context / "Containerfile"), str(context)]
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)

    return build
