"""Wheels as trees: each one unpacked once, by its hash, for all environments that have it.

uv fetches, verifies the hash and unpacks; the files of its cache and of our trees are the same ones
on the disk (hard links, or reflinks, where the file system allows it). No code of a wheel is run.
A tree has the places of the image: `opt/environment/lib/python3.12/site-packages/...`.
"""

from __future__ import annotations

import configparser
import csv
import hashlib
import io
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress

from sandbox_kernel.errors import ImageError, shown
from sandbox_kernel.image.environments import places, uv
from sandbox_kernel.image.environments.declared import normalised
from sandbox_kernel.image.environments.lock import Wheel
from sandbox_kernel.image.environments.python import Python

PREFIX = "/opt/environment"
FORM = "2"
"""Changes when the same wheel would give another tree."""
SCRIPT = """#!{prefix}/bin/python
import sys

from {module} import {first}

if __name__ == "__main__":
    sys.argv[0] = sys.argv[0].removesuffix(".exe")
    sys.exit({call}())
"""
OF_UV = ("uv_cache.json", "REQUESTED")
"""What uv notes for itself beside a package: when, and whether it was asked for by name."""
_OF_UV = tuple(f".dist-info/{name}" for name in OF_UV)
_SHEBANG = re.compile(rb"#![^\n]*python[^\n]*\n")
MOST_SCRIPT = 1 << 20


def trees(wheels: Sequence[Wheel], python: Python, *, prefix: str = PREFIX) -> list[str]:
    """The folder of each wheel's tree, in their order; those that are missing are made.

    Raises ImageError when a wheel can't be had or is not the one that the lock names.
    """
    paths = [_path(wheel, python, prefix) for wheel in wheels]
    if not [path for path in paths if not places.is_there(path)]:
        return paths
    with places.making() as partial:
        missing = {
            path: wheel
            for path, wheel in zip(paths, wheels, strict=True)
            if not os.path.isdir(path)
        }
        if missing:
            _make(missing, python, partial, prefix)
    return paths


def _path(wheel: Wheel, python: Python, prefix: str) -> str:
    key = hashlib.sha256(f"{wheel.sha256} {python.minor} {prefix} {FORM}".encode()).hexdigest()
    return os.path.join(places.folder("wheels"), f"{wheel.name}-{wheel.version}-{key[:32]}")


def _make(missing: dict[str, Wheel], python: Python, partial: str, prefix: str) -> None:
    """Install all of them at once, then take them apart by what each says that it has.

    Of wheels that have a file in common the one that came last would be whole: those are installed
    once more, each alone, so that a tree depends on its wheel only.
    """
    whole = _Installed(list(missing.values()), python, os.path.join(partial, "together"))
    made = {}
    for number, (path, wheel) in enumerate(missing.items()):
        source = whole
        if whole.shares_files(wheel):
            source = _Installed([wheel], python, os.path.join(partial, f"alone{number}"))
        tree = os.path.join(partial, os.path.basename(path))
        source.take(wheel, tree, prefix)
        made[tree] = path
    places.settle(partial)
    for tree, path in made.items():
        places.publish(tree, path)


class _Installed:
    """Wheels as uv installed them, below one prefix."""

    def __init__(self, wheels: Sequence[Wheel], python: Python, prefix: str) -> None:
        self._python = python
        self._prefix = prefix
        self._doing = f"fetch {', '.join(f'`{wheel.file}`' for wheel in wheels[:5])}"
        listed = f"{prefix}.txt"
        with open(listed, "w", encoding="utf-8") as file:
            for wheel in wheels:
                file.write(f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n")
        words = ["pip", "install", "--prefix", prefix, "--no-deps", "--require-hashes"]
        words += ["--no-build", "--link-mode", "hardlink", "-r", listed]
        uv.run([*words, *uv.target(python)], self._doing)
        self._site = self._find_site()
        self._files: dict[str, list[str]] = {}
        self._information: dict[str, str] = {}
        for name in sorted(os.listdir(self._site)):
            if name.endswith(".dist-info"):
                package = normalised(name.removesuffix(".dist-info").rpartition("-")[0])
                self._information[package] = name
                self._files[package] = self._recorded(name)
        self._owners = Counter(path for files in self._files.values() for path in files)
        self._owners_at_the_top: dict[str, set[str]] = {}
        below = len(self._site) + 1
        for package, files in self._files.items():
            for path in files:
                name, slash, _ = path[below:].partition("/")
                if slash and path.startswith(self._site + "/"):
                    self._owners_at_the_top.setdefault(name, set()).add(package)

    def _find_site(self) -> str:
        """The folder of packages, which uv named for the Python that it runs on."""
        for folder, names, _ in os.walk(self._prefix):
            if any(name.endswith(".dist-info") for name in names):
                return folder
        raise ImageError(f"{self._doing}: uv installed nothing: update uv")

    def _recorded(self, information: str) -> list[str]:
        """Paths of a package's files, as its RECORD has them."""
        path = os.path.join(self._site, information, "RECORD")
        with open(path, encoding="utf-8", newline="") as file:
            names = [row[0] for row in csv.reader(file) if row]
        return [
            os.path.normpath(os.path.join(self._site, name))
            if name.startswith((".", "/")) or "/." in name
            else f"{self._site}/{name}"
            for name in names
        ]

    def shares_files(self, wheel: Wheel) -> bool:
        """Whether another one has a file of the same name."""
        return any(self._owners[path] > 1 for path in self._files.get(wheel.name, ()))

    def take(self, wheel: Wheel, tree: str, prefix: str) -> None:
        """Move the files of one wheel into a tree of their own."""
        if wheel.name not in self._files:
            raise ImageError(
                f"{self._doing}: `{shown(wheel.file)}` holds another package than "
                f"`{shown(wheel.name)}`: choose another version"
            )
        base = tree + prefix
        packages = f"{base}/lib/python{self._python.minor}/site-packages"
        places.make(packages)
        moved = self._take_whole(wheel, packages)
        for source in self._files[wheel.name]:
            if source.startswith(moved) or source.endswith(_OF_UV):
                continue
            destination = self._destination(source, wheel, base, packages)
            places.make(os.path.dirname(destination))
            try:
                os.rename(source, destination)
            except FileNotFoundError:
                if not source.endswith(".pyc"):  # another installer would have made byte code
                    raise self._refused(wheel, source, "is missing") from None
        for source in _special(base):
            raise self._refused(wheel, source, "is no regular file")
        information = f"{packages}/{self._information[wheel.name]}"
        for name in OF_UV:
            with suppress(FileNotFoundError):
                os.unlink(f"{information}/{name}")
        _write_scripts(information, f"{base}/bin", prefix)
        _write_record(f"{information}/RECORD")

    def _take_whole(self, wheel: Wheel, packages: str) -> tuple[str, ...]:
        """Move what lies directly in site-packages and is of this wheel alone; what that was."""
        moved = []
        for name, owners in self._owners_at_the_top.items():
            if owners == {wheel.name}:
                os.rename(f"{self._site}/{name}", f"{packages}/{name}")
                moved.append(f"{self._site}/{name}/")
        return tuple(moved)

    def _refused(self, wheel: Wheel, source: str, why: str) -> ImageError:
        return ImageError(
            f"{self._doing}: `{shown(os.path.basename(source))}` of `{shown(wheel.file)}` {why}: "
            "choose another version of it"
        )

    def _destination(self, source: str, wheel: Wheel, base: str, packages: str) -> str:
        if source.startswith(self._site + "/"):
            return packages + source[len(self._site) :]
        if source.startswith(self._prefix + "/"):
            return base + source[len(self._prefix) :]
        raise ImageError(
            f"{self._doing}: `{shown(wheel.file)}` has a file outside of the environment: choose "
            "another version of it"
        )


def _special(folder: str) -> Iterator[str]:
    """Links, devices and the like: uv makes none of a wheel."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _special(entry.path)
            elif not entry.is_file(follow_symlinks=False):
                yield entry.path


def _write_scripts(information: str, folder: str, prefix: str) -> None:
    """Programs of the package start the Python of the image, and not the one that runs uv."""
    if os.path.isdir(folder):
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            with open(path, "rb") as file:
                data = file.read(MOST_SCRIPT)
            if match := _SHEBANG.match(data):
                first = f"#!{prefix}/bin/python\n".encode()
                os.unlink(path)  # the file may be one of uv's cache
                _write(path, first + data[match.end() :])
    try:
        with open(f"{information}/entry_points.txt", encoding="utf-8") as file:
            text = file.read(MOST_SCRIPT)
    except FileNotFoundError:
        return
    points = configparser.ConfigParser(delimiters=("=",), interpolation=None, strict=False)
    points.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        points.read_string(text)
    except configparser.Error:
        return  # uv made none of it either
    for section in ("console_scripts", "gui_scripts"):
        for name, value in points.items(section) if points.has_section(section) else ():
            named = re.fullmatch(r"([\w.]+)\s*:\s*([\w.]+)\s*(\[.*\])?", value)
            if named is None or not re.fullmatch(r"[\w.-]+", name):
                continue
            places.make(folder)
            path = os.path.join(folder, name)
            if os.path.lexists(path):
                os.unlink(path)
            text = SCRIPT.format(prefix=prefix, module=named[1], call=named[2],
                                  first=named[2].partition(".")[0])  # fmt: skip
            _write(path, text.encode())


def _write_record(path: str) -> None:
    """RECORD says what is there now: without uv's notes, and no hash of what was written here."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = [row for row in csv.reader(file) if row]
    os.unlink(path)  # the file may be one of uv's cache
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in rows:
        if not row[0].endswith(_OF_UV):
            writer.writerow([row[0], "", ""] if row[0].startswith("../../../bin/") else row)
    _write(path, text.getvalue().encode(), 0o644)


def _write(path: str, data: bytes, mode: int = 0o755) -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode)
    with open(descriptor, "wb") as file:
        file.write(data)
        os.fchmod(descriptor, mode)
