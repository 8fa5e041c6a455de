"""What changed in a container's files since it was made from its image: added, changed, deleted."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Literal, NamedTuple

from sandbox_kernel.container import finding
from sandbox_kernel.container.container import Container
from sandbox_kernel.linux import paths

Kind = Literal["A", "C", "D"]
_DEEPEST = 512
# overlayfs.rst, "whiteouts and opaque directories", with the option userxattr.
_WHITEOUT = "user.overlay.whiteout"
_OPAQUE = "user.overlay.opaque"


class Change(NamedTuple):
    """One line of `diff`, as docker has it: A added, C changed, D deleted."""

    kind: Kind
    path: str


def changes(container: Container) -> list[Change]:
    """Every change, in the order of paths. Raises NoSuchContainer, ImageError.

    Only names and kinds are looked at, through descriptors and never through a link, so what runs
    in the container meanwhile can make the list wrong but lead it nowhere. What lies on other
    mounts (`--mount`, `--tmpfs`, /proc ...) is no file of the container.
    """
    made = frozenset(finding.inspect(container.id)["made"])
    parents = {above for path in made for above in _above(path)}
    writable, layered = container.open_writable()
    try:
        if not layered:
            root = _open(writable, ".")
            try:
                return sorted(_added(root, "", made | parents), key=lambda change: change.path)
            finally:
                os.close(root)
        layers = [
            os.open(layer, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            for layer in container.image.layers
        ]
        try:
            upper = _open(writable, "upper")
            try:
                found = list(_against(upper, "", layers, made | parents))
            finally:
                os.close(upper)
        finally:
            for layer in layers:
                os.close(layer)
        return sorted(found, key=lambda change: change.path)
    finally:
        os.close(writable)


def _above(path: str) -> Iterator[str]:
    while path := path.rpartition("/")[0]:
        yield path


def _entries(folder: int, prefix: str) -> Iterator[tuple[str, str, os.stat_result]]:
    """Name, whole path and kind of what lies in a folder, but what is mounted there."""
    if prefix.count("/") > _DEEPEST:
        return
    device = os.fstat(folder).st_dev
    for name in sorted(os.listdir(folder)):
        try:
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            continue  # it went away meanwhile
        if found.st_dev == device:
            yield name, f"{prefix}/{name}", found


def _open(folder: int, name: str) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    return paths.open_below(folder, name, flags, paths.RESOLVE_NO_SYMLINKS | paths.RESOLVE_BENEATH)


def _added(folder: int, prefix: str, known: frozenset[str] | set[str]) -> Iterator[Change]:
    for name, path, found in _entries(folder, prefix):
        if path not in known:
            yield Change("A", path)
        if stat.S_ISDIR(found.st_mode):
            try:
                below = _open(folder, name)
            except OSError:
                continue  # it is no folder any more
            try:
                yield from _added(below, path, known)
            finally:
                os.close(below)


def _against(
    folder: int, prefix: str, layers: list[int], known: frozenset[str] | set[str]
) -> Iterator[Change]:
    for name, path, found in _entries(folder, prefix):
        below_it = any(_is_there(layer, path) for layer in layers)
        if _is_whiteout(folder, name, found):
            if below_it:
                yield Change("D", path)
            continue
        if path not in known or not stat.S_ISDIR(found.st_mode):
            yield Change("C" if below_it else "A", path)
        if stat.S_ISDIR(found.st_mode):
            try:
                below = _open(folder, name)
            except OSError:
                continue  # it is no folder any more
            try:
                if _OPAQUE in os.listxattr(below):
                    yield from _hidden(below, path, layers)
                yield from _against(below, path, layers, known)
            finally:
                os.close(below)


def _hidden(folder: int, path: str, layers: list[int]) -> Iterator[Change]:
    """What the layers have in a folder that was deleted and made anew."""
    names: set[str] = set()
    for layer in layers:
        try:
            below = _open(layer, path.lstrip("/"))
        except OSError:
            continue  # this layer has no such folder
        try:
            names.update(os.listdir(below))
        finally:
            os.close(below)
    for name in sorted(names - set(os.listdir(folder))):
        yield Change("D", f"{path}/{name}")


def _is_whiteout(folder: int, name: str, found: os.stat_result) -> bool:
    if stat.S_ISCHR(found.st_mode):
        return found.st_rdev == 0
    if not stat.S_ISREG(found.st_mode) or found.st_size:
        return False
    file = paths.open_below(
        folder, name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, paths.RESOLVE_NO_SYMLINKS
    )
    try:
        return _WHITEOUT in os.listxattr(file)
    finally:
        os.close(file)


def _is_there(layer: int, path: str) -> bool:
    try:
        os.close(paths.find(layer, path))
    except OSError:
        return _is_link(layer, path)
    return True


def _is_link(layer: int, path: str) -> bool:
    """`paths.find` refuses a link, which is there none the less."""
    parent, _, name = path.rpartition("/")
    try:
        folder = paths.find(layer, parent or "/")
    except OSError:
        return False
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return False
    finally:
        os.close(folder)
    return True
