"""Packages that are installed in an image, by its own databases: dpkg, apk, conda's and Python's.

Read by descriptors in the image's layers only; what they say is the image's word, held to bounds.
Sources: deb-control(5) for dpkg's status file; apk-tools, "APKINDEX format"; PEP 376 and PEP 566;
CEP 32 for the records of conda.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Literal, NamedTuple

from sandbox_kernel.image.environments.declared import normalised
from sandbox_kernel.image.environments.tree import Tree

MOST_DATABASE = 64 << 20
MOST_METADATA = 1 << 20
MOST_PACKAGES = 50_000
MOST_RECORD = 64 << 20
"""Of one package of conda: it may list all files."""
DPKG = "/var/lib/dpkg/status"
DPKG_PARTS = "/var/lib/dpkg/status.d"
"""Of images that have no package manager: one file for each package."""
APK = "/lib/apk/db/installed"
APK_MERGED = "/usr/lib/apk/db/installed"
RPM = tuple(
    f"{folder}/{name}"
    for folder in ("/usr/lib/sysimage/rpm", "/var/lib/rpm")
    for name in ("rpmdb.sqlite", "Packages.db", "Packages")
)
"""rpm(8), of its three kinds of database, of which none is read here."""
_PYTHON = re.compile(r"python3(\.[0-9]{1,2})?")
_DIST = re.compile(r"(.+)-([^-]+)\.(dist-info|egg-info)")

Kind = Literal["deb", "apk", "pypi", "conda"]


class Package(NamedTuple):
    """One installed package, as its database names it."""

    kind: Kind
    name: str
    version: str
    architecture: str = ""
    licence: str = ""
    homepage: str = ""
    supplier: str = ""
    source: str = ""
    """The folder or file that says so, in the image."""


def packages(tree: Tree) -> list[Package]:
    """All that is installed, by kind and name. Raises OSError for a database that can't be read."""
    found = [*of_system(tree), *of_conda(tree), *of_python(tree, python_folders(tree))]
    return sorted(set(found[:MOST_PACKAGES]))


def of_system(tree: Tree) -> list[Package]:
    """What the package manager of the distribution installed."""
    return [*_dpkg(tree), *_apk(tree)]


def unread(tree: Tree) -> list[str]:
    """Databases that are there and that nobody reads here: their packages are in no list."""
    found: list[str] = []
    for path in RPM:
        with suppress(OSError):  # a link that leads nowhere, or round and round, is none
            found.append(tree.real(path))
    return list(dict.fromkeys(found))


def of_conda(tree: Tree) -> Iterator[Package]:
    """What conda, or this program in its stead, installed below /opt."""
    for place in _names(tree, "/opt"):
        folder = f"/opt/{place}/conda-meta"
        for name in _names(tree, folder):
            if not name.endswith(".json"):
                continue
            try:
                record = json.loads(_text(tree, f"{folder}/{name}", MOST_RECORD))
            except (ValueError, RecursionError):
                continue  # it is no record
            if isinstance(record, dict) and isinstance(record.get("name"), str):
                yield Package(
                    "conda",
                    record["name"],
                    str(record.get("version") or ""),
                    licence=_short(str(record.get("license") or "")),
                    source=f"{folder}/{name}",
                )


def python_folders(tree: Tree) -> list[str]:
    """Folders in which Pythons of the image keep packages."""
    prefixes = ["/usr", "/usr/local", *(f"/opt/{name}" for name in _names(tree, "/opt"))]
    found = []
    for prefix in prefixes:
        for name in _names(tree, f"{prefix}/lib"):
            if _PYTHON.fullmatch(name):
                for kind in ("site-packages", "dist-packages"):
                    folder = f"{prefix}/lib/{name}/{kind}"
                    if tree.is_folder(folder):
                        found.append(tree.real(folder))
    return list(dict.fromkeys(found))


def of_python(tree: Tree, folders: Iterable[str]) -> Iterator[Package]:
    """Python packages in these folders, with what their metadata says."""
    for folder in folders:
        for name in _names(tree, folder):
            match = _DIST.fullmatch(name)
            if match is None:
                continue
            path = f"{folder}/{name}"
            text = ""
            for file in ("METADATA", "PKG-INFO"):
                if text := _text(tree, f"{path}/{file}"):
                    break
            else:
                text = _text(tree, path)  # an egg-info that is a file
            fields = _fields(text.partition("\n\n")[0])
            yield Package(
                "pypi",
                normalised(fields.get("name") or match[1]),
                fields.get("version") or match[2],
                licence=fields.get("license-expression") or _short(fields.get("license", "")),
                homepage=fields.get("home-page", ""),
                supplier=fields.get("author") or fields.get("author-email", ""),
                source=path,
            )


def _dpkg(tree: Tree) -> Iterator[Package]:
    texts = [(DPKG, _text(tree, DPKG, MOST_DATABASE))]
    texts += [
        (f"{DPKG_PARTS}/{name}", _text(tree, f"{DPKG_PARTS}/{name}"))
        for name in _names(tree, DPKG_PARTS)
        if not name.endswith(".md5sums")
    ]
    for path, text in texts:
        for paragraph in re.split(r"\n\n+", text):
            fields = _fields(paragraph)
            state = fields.get("status", "install ok installed").split()
            if "package" in fields and state[-1:] == ["installed"]:
                yield Package(
                    "deb",
                    fields["package"],
                    fields.get("version", ""),
                    fields.get("architecture", ""),
                    homepage=fields.get("homepage", ""),
                    supplier=fields.get("maintainer", ""),
                    source=path,
                )


def _apk(tree: Tree) -> Iterator[Package]:
    for path in (APK, APK_MERGED):
        for paragraph in re.split(r"\n\n+", _text(tree, path, MOST_DATABASE)):
            fields: dict[str, str] = {}
            for line in paragraph.splitlines():
                key, colon, value = line.partition(":")
                if colon and len(key) == 1:
                    fields.setdefault(key, value)
            if "P" in fields:
                yield Package(
                    "apk",
                    fields["P"],
                    fields.get("V", ""),
                    fields.get("A", ""),
                    fields.get("L", ""),
                    fields.get("U", ""),
                    fields.get("m", ""),
                    path,
                )


def _fields(paragraph: str) -> dict[str, str]:
    """`Name: value` lines, the first of each name, in small letters; folded lines are left out."""
    found: dict[str, str] = {}
    for line in paragraph.splitlines():
        if line[:1] in (" ", "\t"):
            continue
        name, colon, value = line.partition(":")
        if colon:
            found.setdefault(name.strip().lower(), value.strip())
    return found


def _short(licence: str) -> str:
    """A licence by name; a whole text of one is no name."""
    return licence if len(licence) < 100 and licence.upper() != "UNKNOWN" else ""


def _text(tree: Tree, path: str, most: int = MOST_METADATA) -> str:
    try:
        return tree.read(path, most).decode("utf-8", "replace")
    except (FileNotFoundError, NotADirectoryError):
        return ""


def _names(tree: Tree, folder: str) -> list[str]:
    try:
        return tree.names(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
