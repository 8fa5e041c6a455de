"""Images as two builders made them, brought into one form: a tree of files, and a configuration."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from sandbox_kernel import policy, settings
from sandbox_kernel.building.build import build
from sandbox_kernel.building.events import Event
from sandbox_kernel.building.request import BuildRequest, read_epoch
from sandbox_kernel.image.layers import remove_tree
from sandbox_kernel.image.store import Store, Stored

BUSYBOX = "/usr/bin/busybox" if Path("/usr/bin/busybox").exists() else "/bin/busybox"
XATTR = "SCHILY.xattr."
PROGRAMS = (
    "sh", "cat", "chmod", "chown", "cp", "echo", "env", "find", "grep", "id", "ln", "ls", "mkdir",
    "mv", "pwd", "rm", "sed", "setsid", "sleep", "sort", "stat", "test", "touch", "true", "wc",
    "dd", "head", "kill", "ps", "su",
)  # fmt: skip


class Node(NamedTuple):
    """One name of a tree. `content`: a digest, or where a link points.

    `attributes`: the extended ones. `time`: in seconds. `names`: of a file with several, all of
    them.
    """

    kind: str
    mode: int
    uid: int
    gid: int
    content: str
    attributes: tuple[tuple[str, str], ...] = ()
    time: int = 0
    names: tuple[str, ...] = ()


@contextmanager
def store_with(base: str, folder: Path) -> Iterator[Store]:
    """A store with one image of that name, of a root which is made in the folder."""
    place = tempfile.mkdtemp(prefix="sandbox-kernel-images-", dir="/var/tmp")
    made = Store.open(f"{place}/images")
    built(made, make_root(folder), "FROM scratch\nCOPY . /\n", name=base)
    yield made
    remove_tree(f"{place}/images")
    os.rmdir(place)


def make_root(folder: Path) -> Path:
    """A small root file system: busybox, accounts, and the places where runtimes mount things."""
    for name in ("bin", "etc", "dev", "proc", "sys", "run", "tmp", "root", "home/app", "var/tmp"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    shutil.copy(BUSYBOX, folder / "bin/busybox")
    for name in PROGRAMS:
        (folder / "bin" / name).symlink_to("busybox")
    (folder / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:app:/home/app:/bin/sh\n"
    )
    (folder / "etc/group").write_text("root:x:0:\napp:x:1001:\nstaff:x:50:app\n")
    for name in ("hosts", "resolv.conf", "hostname"):
        (folder / "etc" / name).write_text("")
    (folder / "tmp").chmod(0o1777)
    return folder


def request(context: Path | None, text: str | None = None, **more: Any) -> BuildRequest:
    """What a build on the command line asks for."""
    given = {"allow_image": lambda image: None, "plan": policy.plan(settings.COMMAND_LINE)}
    given["epoch"] = read_epoch(more.get("arguments", {}))
    return BuildRequest(
        context=None if context is None else str(context), text=text, **{**given, **more}
    )


def built(
    store: Store, context: Path | None, text: str | None = None, **more: Any
) -> tuple[Stored, list[Event]]:
    """An image of ours, and what was told meanwhile."""
    events: list[Event] = []
    return build(store, request(context, text, **more), events.append), events


def document(store: Store, image: Stored) -> dict[str, Any]:
    """The whole configuration of an image of ours, as its blob has it."""
    found: dict[str, Any] = json.loads(_blob(store, image.manifest.config.digest).read_bytes())
    return found


def files(store: Store, image: Stored) -> dict[str, Node]:
    """The files of an image of ours, as its blobs have them."""
    return _flat([_blob(store, layer.digest) for layer in image.manifest.layers])


def _blob(store: Store, digest: str) -> Path:
    return Path(store.root, "blobs", digest.replace(":", "/"))


class Buildah:
    """Another builder, with a storage of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._roots = ["--root", str(folder / "root"), "--runroot", str(folder / "run")]

    def build(self, context: Path, text: str, *more: str, name: str = "image") -> None:
        """Build; raises CalledProcessError with its output."""
        file = self._folder / "Containerfile"
        file.write_text(text)
        self.run(
            "bud", "--isolation", "chroot", "--format", "docker", "--quiet",
            "-f", str(file), "-t", f"localhost/{name}", *more, str(context),
        )  # fmt: skip

    def result(self, name: str = "image") -> tuple[dict[str, Node], dict[str, Any]]:
        """The files and the configuration of an image."""
        place = self._folder / "pushed"
        shutil.rmtree(place, ignore_errors=True)
        self.run("push", "--quiet", "--disable-compression", f"localhost/{name}", f"dir:{place}")
        manifest = json.loads((place / "manifest.json").read_text())
        config = json.loads((place / manifest["config"]["digest"].split(":")[1]).read_text())
        layers = [place / layer["digest"].split(":")[1] for layer in manifest["layers"]]
        return _flat(layers), config

    def run(self, *words: str) -> str:
        """Its standard output. Raises AssertionError with what it said when it fails."""
        done = subprocess.run(
            ["/usr/bin/buildah", *self._roots, *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def close(self) -> None:
        """Its images keep nothing mounted; the folder is the test's."""
        self.run("rmi", "--all", "--force")


def _flat(layers: list[Path]) -> dict[str, Node]:
    """The tree that layers make one over the other (image-spec, layer.md)."""
    tree: dict[str, Node] = {}
    for layer in layers:
        below = dict(tree)
        with tarfile.open(layer) as archive:
            for member in archive:
                path = member.name.removeprefix("./").strip("/")
                parent, _, name = path.rpartition("/")
                if name == ".wh..wh..opq":
                    _remove(tree, parent, lambda each, below=below: each in below, whole=False)
                elif name.startswith(".wh."):
                    _remove(tree, f"{parent}/{name[4:]}".lstrip("/"), lambda each: True)
                elif path:
                    _add(tree, archive, member, path)
    return _with_names(tree)


def _with_names(tree: dict[str, Node]) -> dict[str, Node]:
    """`_add` gives the names of one file the very same node."""
    found: dict[int, list[str]] = {}
    for path, node in tree.items():
        found.setdefault(id(node), []).append(path)
    return {
        path: node._replace(names=tuple(sorted(names)))
        if len(names := found[id(node)]) > 1
        else node
        for path, node in tree.items()
    }


def _remove(
    tree: dict[str, Node], path: str, wanted: Callable[[str], bool], *, whole: bool = True
) -> None:
    for each in [e for e in tree if e.startswith(f"{path}/") or (whole and e == path)]:
        if wanted(each):
            del tree[each]


def _add(
    tree: dict[str, Node], archive: tarfile.TarFile, member: tarfile.TarInfo, path: str
) -> None:
    if member.islnk():
        tree[path] = tree[member.linkname.removeprefix("./").strip("/")]
        return
    content = ""
    if member.isfile():
        data = archive.extractfile(member) or io.BytesIO()
        content = hashlib.sha256(data.read()).hexdigest()
    elif member.issym():
        content = member.linkname
    if not member.isdir():
        _remove(tree, path, lambda each: True)
    kind = "folder" if member.isdir() else "link" if member.issym() else "file"
    mode = 0 if kind == "link" else member.mode & 0o7777
    headers = member.pax_headers.items()
    attributes = (
        (name.removeprefix(XATTR), value) for name, value in headers if name.startswith(XATTR)
    )
    kept, time = tuple(sorted(attributes)), int(member.mtime)
    tree[path] = Node(kind, mode, member.uid, member.gid, content, kept, time)
