"""`sandbox-kernel save` and `load`: images in files that docker, podman and skopeo read."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Literal

from sandbox_kernel.arguments import Flag, Parsed
from sandbox_kernel.cli import output
from sandbox_kernel.cli.images import familiar
from sandbox_kernel.cli.verb import FORMAT, Verb
from sandbox_kernel.errors import ImageError, InvalidOption, shown
from sandbox_kernel.image import archives, reference
from sandbox_kernel.image.store import Store, Stored

_OUTPUT = Flag("output", ("--output", "-o"), "PATH", "Write here, and not to standard output.")
_INPUT = Flag("input", ("--input", "-i"), "PATH", "Read this, and not standard input.")
_KIND = Flag("format", ("--format",), "FORMAT", "What to write. oci is a folder.",
    choices=("docker-archive", "oci-archive", "oci"), default="docker-archive")  # fmt: skip


def save(found: Parsed) -> int:
    """Writes images into one archive, or one folder."""
    store = Store.open()
    images = [(store.find(text), _name(store.find(text), text)) for text in found.rest]
    kind, path = found.own.get("format", "docker-archive"), found.own.get("output")
    if kind == "oci":
        if path is None:
            raise InvalidOption("--output", "nothing", "a folder, with `--format oci`")
        for image, name in images:
            archives.save_layout(store, image, path, name)
        return 0
    which: Literal["oci", "docker"] = "oci" if kind == "oci-archive" else "docker"
    with _written(path) as out, output.progress(f"saving {', '.join(found.rest)}"):
        archives.save(store, images, which, out)
    return 0


def _name(image: Stored, text: str) -> str | None:
    """The name under which it is saved: the one that was asked for; by digest, its first one."""
    try:
        asked = reference.parse(text)
    except ImageError:
        asked = None
    if str(asked) in image.names:
        return str(asked)
    return image.names[0] if image.names else None


@contextmanager
def _written(path: str | None) -> Iterator[BinaryIO]:
    """The file to write; it gets its name when it is whole."""
    if path is None or path == "-":
        out = getattr(sys.stdout, "buffer", None)  # a notebook's has none
        if out is None or sys.stdout.isatty():
            raise InvalidOption("--output", "nothing", "a path: an archive is nothing to look at")
        yield out
        out.flush()
        return
    try:
        special = not stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        special = False
    made = path if special else f"{path}.{os.getpid()}.new"
    try:
        with open(made, "wb") as file:
            yield file
        if not special:
            os.rename(made, path)
    except OSError as error:
        raise ImageError(
            f"save to `{shown(path)}`: {error.strerror}: name a place with enough space"
        ) from error
    finally:
        if not special and os.path.exists(made):
            os.unlink(made)


def load(found: Parsed) -> int:
    """Puts all images of an archive or layout into the store."""
    store, path = Store.open(), found.own.get("input")
    fd = None if path is not None else _standard_input()
    with output.progress(f"loading {path or 'standard input'}"):
        loaded = archives.load(store, path or "standard input", fd=fd)
    if found.own.get("format") == "json":
        output.data(
            [{"digest": one.digest, "names": [familiar(n) for n in one.names]} for one in loaded]
        )
        return 0
    for image in loaded:
        for name in [familiar(name) for name in image.names] or [image.digest]:
            print(f"loaded: {name}")
    return 0


def _standard_input() -> int:
    """Its descriptor; a notebook and a terminal have none from which an archive comes."""
    try:
        if not sys.stdin.isatty():
            return sys.stdin.fileno()
    except (OSError, ValueError):
        pass  # nothing to read: said below
    raise InvalidOption("--input", "nothing", "an archive, here or on standard input")


VERBS = {
    "save": Verb(
        "save [options] IMAGE...",
        "Write images into an archive that `docker load`, `podman load` and `skopeo` read, or into "
        "an OCI image layout.",
        save,
        (_OUTPUT, _KIND),
        options=(),
        least=1,
    ),
    "load": Verb(
        "load [options]",
        "Put the images of an archive into the store: of `save`, `docker save`, `podman save`, "
        "`skopeo copy`; also one compressed by gzip, or the folder of an OCI image layout.",
        load,
        (_INPUT, FORMAT),
        options=(),
        most=0,
    ),
}
