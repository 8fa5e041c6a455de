"""An image of about 400 MB in five layers, from a registry on loopback to what a container stands
on: beside skopeo with umoci, podman, and docker.

Each begins with an empty store on the same disk, and ends when the layers are unpacked (skopeo with
umoci put them into one tree, as they do). What was pulled before is kept until all is measured:
ext4 gives out the inode of a file that was removed in the last minutes only after it has looked at
every other of the group, which makes a pull that follows a removal take twice as long, and by
chance one way or the other. docker has one store, and is made to remove.

Then a second image, which has one small layer more than the first; the memory of a pull, of our
process and the one that unpacks together; and the commands that look at a store with two hundred
images. What was made is looked at outside the time.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks import docker, registry
from benchmarks.pairs import Pair, Size, measure, shown
from sandbox_kernel.image import digest, documents, reference
from sandbox_kernel.image.documents import ImageConfig, Manifest, RootFS
from sandbox_kernel.image.registry.pulling import pull
from sandbox_kernel.image.store import Store

WHAT = "an image of 400 MB in five layers, pulled and unpacked"
ROUNDS = 5  # each unpacks 400 MB twice, and all of it stays on the disk until the end
MEMORY_MIB = 150.0
IMAGES = 200
LOOKING_SECONDS = 0.2
INSECURE = "--tls-verify=false"
_MEASURED = """
import re, resource, sys
from sandbox_kernel.cli.main import main
assert main(sys.argv[1:]) == 0
own = int(re.search("VmHWM:\\\\s+([0-9]+)", open("/proc/self/status").read())[1])
print(own + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


class _Way(NamedTuple):
    """One way: `empty` is a store with nothing in it from now on; `pull` a name into the one that
    there is, `look` that all is there, `forget` one name.
    """

    name: str
    empty: Callable[[], None]
    pull: Callable[[str], None]
    look: Callable[[], None]
    forget: Callable[[str], None]


def rows(rounds: int) -> Iterator[Pair | Size]:
    """As root, where the peers are installed."""
    rounds = min(rounds, ROUNDS)
    with (
        tempfile.TemporaryDirectory(prefix="sandbox-kernel-", dir="/var/tmp") as name,
        _two_images(Path(name)) as at,
        docker.engine(storage="overlay2") as client,
    ):
        ours, podman = _ours(Path(name), at), _podman(Path(name), at)
        peers = [_skopeo(Path(name), at), podman]
        if client is not None:
            peers.append(_docker(client, at))
        for peer in peers:
            yield _first(ours, peer, rounds)
        yield _second(Path(name), at, ours, podman, rounds)
        yield _memory(Path(name), at)
        yield from _looking(Path(name), rounds)


@contextmanager
def _two_images(folder: Path) -> Iterator[str]:
    """A registry with `all:1`, and `next:1`, which has one small layer more."""
    first, second = registry.make_images(folder / "layout")
    with registry.served(folder) as at:
        for source, target in ((first, "all:1"), (second, "next:1")):
            _run("skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false",
                source, f"docker://{at}/{target}")  # fmt: skip
        shutil.rmtree(folder / "layout")
        yield at


def _first(ours: _Way, peer: _Way, rounds: int) -> Pair:
    pulled: list[_Way] = []

    def one(way: _Way) -> None:
        way.pull("all:1")
        pulled.append(way)

    def check() -> None:
        way = pulled.pop()
        way.look()
        way.empty()
        os.sync()  # what one left to be written must not be in the time of the other

    for way in (ours, peer):
        way.empty()
    return measure(
        WHAT,
        lambda: one(ours),
        peer.name,
        lambda: one(peer),
        bound=1,
        rounds=rounds,
        warm=1,
        check=check,
    )


def _second(folder: Path, at: str, ours: _Way, peer: _Way, rounds: int) -> Pair:
    """By a program that runs, as a kernel is: Python and its libraries are there already."""

    def check() -> None:
        for way in (ours, peer):
            way.forget("next:1")
        os.sync()

    root = _place(folder, "ours")
    for way in (ours, peer):
        way.pull("all:1")
    return measure(
        "a second image, of which one small layer is new, by a program that runs",
        lambda: _discard(pull(Store.open(root), reference.registry(f"{at}/next:1")).digest),
        peer.name,
        lambda: peer.pull("next:1"),
        bound=1,
        rounds=rounds,
        warm=1,
        check=check,
    )


def _memory(folder: Path, at: str) -> Size:
    words = ["pull", "--quiet", f"{at}/all:1"]
    root = str(folder / "measured")
    said = _run(sys.executable, "-c", _MEASURED, *words, SANDBOX_KERNEL_IMAGES=root)
    most = int(said.split()[-1]) / 1024
    return Size("memory of that pull at its peak, with what unpacks", most, "MiB", MEMORY_MIB)


def _looking(folder: Path, rounds: int) -> Iterator[Size]:
    """`images` and `inspect` as commands, with the start of Python."""
    store = Store.open(str(folder / "many"))
    for number in range(IMAGES):
        layer = b"%d" % number
        with store.adding():
            found = documents.describe(layer, documents.OCI_LAYER)
            store.write(layer)
            image = ImageConfig(
                architecture="amd64", os="linux", rootfs=RootFS(diff_ids=[digest.of(layer)])
            )
            config = documents.encode(image)
            store.write(config)
            described = documents.describe(config, documents.OCI_CONFIG)
            manifest = documents.encode(
                Manifest(schema_version=2, config=described, layers=[found])
            )
            store.write(manifest)
            store.tag(f"app{number}:1", documents.describe(manifest, documents.OCI_MANIFEST))
    for words in (("images",), ("inspect", "app150:1")):
        seconds = []
        for _ in range(max(5, rounds)):
            begin = time.perf_counter()
            command = [sys.executable, "-m", "sandbox_kernel.cli.main", *words]
            said = _run(*command, SANDBOX_KERNEL_IMAGES=store.root)
            seconds.append(time.perf_counter() - begin)
            assert "app150" in said
        median = statistics.median(seconds)
        what = f"`{words[0]}` with {IMAGES} images in the store ({shown(median)})"
        yield Size(what, median, "s", LOOKING_SECONDS)


# -- the ways --------------------------------------------------------------------------------------


def _place(folder: Path, way: str, *, new: bool = False) -> str:
    """Where a way has its store now, or a new place for one."""
    count = len(list(folder.glob(f"{way}-*")))
    if new or not count:
        count += 1
        (folder / f"{way}-{count}").mkdir(0o700)
    return str(folder / f"{way}-{count}")


def _ours(folder: Path, at: str) -> _Way:
    command = [sys.executable, "-m", "sandbox_kernel.cli.main", "pull", "--quiet"]

    def pull(name: str) -> None:
        root = _place(folder, "ours")
        _discard(_run(*command, f"{at}/{name}", SANDBOX_KERNEL_IMAGES=root))

    def look() -> None:
        store = Store.open(_place(folder, "ours"))
        for diff_id in store.find(f"{at}/all:1").diff_ids:
            tree = store.layer(diff_id)
            assert tree is not None
            assert os.listdir(f"{tree}/usr")

    def forget(name: str) -> None:
        store = Store.open(_place(folder, "ours"))
        if f"{at}/{name}" in store.names():
            store.remove(f"{at}/{name}")
            store.prune()

    return _Way("ours", lambda: _discard(_place(folder, "ours", new=True)), pull, look, forget)


def _skopeo(folder: Path, at: str) -> _Way:
    def pull(name: str) -> None:
        root = _place(folder, "skopeo")
        _run("skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false",
            f"docker://{at}/{name}", f"oci:{root}/layout:it")  # fmt: skip
        _run("umoci", "unpack", "--image", f"{root}/layout:it", f"{root}/bundle")

    def look() -> None:
        assert os.listdir(f"{_place(folder, 'skopeo')}/bundle/rootfs/usr")

    return _Way(
        "`skopeo copy` and `umoci unpack`",
        lambda: _discard(_place(folder, "skopeo", new=True)),
        pull,
        look,
        lambda name: None,
    )


def _podman(folder: Path, at: str) -> _Way:
    def words() -> list[str]:
        root = _place(folder, "podman")
        return ["podman", "--root", root, "--runroot", f"{folder}/run",
            "--storage-driver", "overlay"]  # fmt: skip

    def forget(name: str) -> None:
        removal = [*words(), "rmi", "--force", f"{at}/{name}"]
        subprocess.run(removal, capture_output=True, check=False)

    return _Way(
        "`podman pull`",
        lambda: _discard(_place(folder, "podman", new=True)),
        lambda name: _discard(_run(*words(), "pull", "--quiet", INSECURE, f"{at}/{name}")),
        lambda: _discard(_run(*words(), "image", "inspect", f"{at}/all:1")),
        forget,
    )


def _docker(client: list[str], at: str) -> _Way:
    def prune() -> None:
        _run(*client, "image", "prune", "--all", "--force")

    return _Way(
        "`docker pull`",
        prune,
        lambda name: _discard(_run(*client, "pull", "--quiet", f"{at}/{name}")),
        lambda: _discard(_run(*client, "image", "inspect", f"{at}/all:1")),
        lambda name: prune(),
    )


def _run(*words: str, **environment: str) -> str:
    done = subprocess.run(
        words, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(words[:3])}: {done.stderr[-500:]}")
    return done.stdout


def _discard(said: str) -> None:
    assert said
