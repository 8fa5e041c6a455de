"""From an image reference to an `Image`: the one place that knows which room makes which kind.

What is stored is used as it is; a name that is not stored is pulled, an archive is loaded, a
declared environment is made. Nothing here starts a container, so the room that builds, which needs
them, hands its function in (`provide_builder`).
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from sandbox_kernel.errors import ImageError, shown
from sandbox_kernel.image import host, reference
from sandbox_kernel.image.image import Image
from sandbox_kernel.image.reference import (
    Archive,
    Build,
    Conda,
    Directory,
    Host,
    Identity,
    Layout,
    Packages,
    Pyproject,
    Reference,
    Registry,
    Requirements,
    Scratch,
)

if TYPE_CHECKING:
    from sandbox_kernel.image.registry.progress import Listener
    from sandbox_kernel.image.registry.pulling import OnStop
    from sandbox_kernel.image.store import Store, Stored

# Where a Python usually lies in a root file system, best first.
INTERPRETERS = ("usr/local/bin/python3", "usr/bin/python3", "bin/python3")

Builder = Callable[..., "Stored"]
_builders: list[Callable[[], Builder]] = []


def provide_builder(find: Callable[[], Builder]) -> None:
    """`find()` gives, when a `build:` reference is resolved, the function that builds it:
    `builder(store, Build, progress=..., pull=...)` -> the stored image. It notes what the names in
    the Containerfile meant (see `image.bases`)."""
    _builders[:] = [find]


def resolve(text: str, *, progress: Listener | None = None) -> Image:
    """The image of a reference, got and unpacked if it is not there yet.

    `progress` is told what happens meanwhile (see `image.registry`). Raises ImageError when the
    reference names nothing that can be had.
    """
    asked = reference.parse(text)
    match asked:
        case Host():
            return _host()
        case Scratch():
            return Image("scratch", _digest("scratch"))
        case Directory(path):
            return _directory(text, path)
        case Requirements() | Pyproject() | Conda() | Packages():
            from sandbox_kernel.image import environments

            return environments.resolve(asked, progress=progress)
        case _:
            return _of_store(text, asked, progress)


def check(text: str) -> None:
    """Raises ImageError for a reference that can't be right, as far as can be told without getting
    anything: what is no reference, and what names nothing on this machine that is there."""
    match reference.parse(text):
        case Directory(path):
            _directory(text, path)
        case Layout(path) | Archive(path=path) | Build(path) if not os.path.exists(path):
            raise ImageError(
                f"find image `{shown(text)}`: there is no `{shown(path)}`: name what is there"
            )


def _of_store(text: str, asked: Reference, progress: Listener | None) -> Image:
    """An image that is kept in the store, where it is put if it is not there."""
    from sandbox_kernel.image import unpacked
    from sandbox_kernel.image.store import Store, places

    named = isinstance(asked, (Registry, Identity))
    if named and (known := _remembered(text, places.usual_root())):
        return known
    store = Store.open()
    made = unpacked.image(text, store, stored(store, asked, progress), progress=progress)
    return _remember(made, store.root) if named else made


def stored(
    store: Store,
    asked: Reference,
    progress: Listener | None = None,
    *,
    on_stop: OnStop | None = None,
) -> Stored:
    """The image of a reference in the store, got if it is not there. Raises ImageError.

    For references that are kept in the store: not `host`, `scratch` and `dir:PATH`. `on_stop` as
    `pull` has it.
    """
    match asked:
        case Registry() | Identity():
            return _named(store, asked, progress, on_stop)
        case Layout() | Archive():
            from sandbox_kernel.image import archives

            return archives.load_one(store, asked)
        case Build():
            return _builder()(store, asked, progress=progress)
        case Requirements() | Pyproject() | Conda() | Packages():
            from sandbox_kernel.image.environments import storing

            return storing.stored(store, str(asked), progress)
        case _:
            raise ImageError(
                f"find image `{shown(asked)}` in the store: images of this kind are not kept there"
            )


def build_anew(asked: Build) -> None:
    """Build on what registries have now under the names in the Containerfile.

    Raises as a build does.
    """
    from sandbox_kernel.image.store import Store

    _builder()(Store.open(), asked, pull=True)


# A cell asks for its image several times: (store, reference) -> what the list was, and the image.
_images: dict[tuple[str, str], tuple[object, Image]] = {}
MOST_REMEMBERED = 64


def _remembered(text: str, root: str) -> Image | None:
    """The image of a name, if the store's list is as it was and the layers are in their places."""
    stamp, found = _images.get((root, text), (None, None))
    if found is None or stamp != _stamp(root):
        return None
    return found if all(map(os.path.exists, found.layers)) else None


def _remember(found: Image, root: str) -> Image:
    if len(_images) >= MOST_REMEMBERED:
        _images.clear()
    _images[root, found.reference] = (_stamp(root), found)
    return found


def _stamp(root: str) -> object:
    """Something that is another after every change of the list of names."""
    try:
        seen = os.stat(f"{root}/index.json")
    except OSError:
        return None
    return seen.st_mtime_ns, seen.st_ino, seen.st_size


def _named(
    store: Store, asked: Registry | Identity, progress: Listener | None, on_stop: OnStop | None
) -> Stored:
    found = store.lookup(str(asked))
    if found is None and isinstance(asked, Registry) and asked.tag == reference.DEFAULT_TAG:
        # As docker has it, an image may be named by the beginning of its digest.
        found = store.lookup(asked.repository.removeprefix("library/"))
    if found is not None:
        return found
    if isinstance(asked, Identity):
        raise ImageError(
            f"find image `{asked}`: the store has none with this digest, and a digest alone does "
            f"not say where it can be had: write `NAME@{asked}`"
        )
    from sandbox_kernel.image.registry import pull

    return store.find(pull(store, asked, progress=progress, on_stop=on_stop).digest)


def _builder() -> Builder:
    if not _builders:
        # What builds stands above this floor, since it needs containers, and gives its function
        # here when it is imported. The name is looked up when somebody asks for a build, as that
        # of the magics is, so no import points up.
        importlib.import_module("sandbox_kernel.building")
    return _builders[0]()


@functools.cache
def _host() -> Image:
    return host.image()


def _directory(text: str, path: str) -> Image:
    if not os.path.isdir(path):
        raise ImageError(
            f"resolve image `{shown(text)}`: `{shown(path)}` is no directory: name the root of a "
            "file system"
        )
    root = os.path.realpath(path)
    interpreter = next(
        ("/" + name for name in INTERPRETERS if os.path.lexists(f"{root}/{name}")), None
    )
    return Image(text, _digest(root), layers=(root,), interpreter=interpreter)


def _digest(text: str) -> str:
    """A name for an image whose content is not addressed: it says which, not what is in it."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
