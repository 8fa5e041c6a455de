"""The Python of an image, found by reading files: version, C library, machine, installed packages.

Nothing of the image is run. The loader that the interpreter asks for tells the C library (glibc or
musl), the library's own file its version, the name of the interpreter's file its version.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from sandbox_kernel.errors import ImageError, shown
from sandbox_kernel.image.environments import elf
from sandbox_kernel.image.environments.tree import Tree

OLDEST, NEWEST = (3, 9), (3, 14)
MOST_LIBRARY = 64 << 20
MOST_CONFIGURATION = 64 << 10

_NAME = re.compile(r"python(3)\.([0-9]{1,2})(t?)(?:d?m?)")
_GLIBC = re.compile(rb"GLIBC_2\.([0-9]{1,3})\0")
_MUSL = re.compile(rb"\0(1\.[0-9]{1,2})\.[0-9]{1,2}\0")


class Python(NamedTuple):
    """What decides which wheels fit."""

    path: str
    """Of the interpreter in the image, with no link in it."""
    version: tuple[int, int]
    libc: Literal["glibc", "musl"]
    libc_version: tuple[int, int]
    machine: str

    @property
    def minor(self) -> str:
        """`3.12`, as `lib/python3.12` and uv have it."""
        return f"{self.version[0]}.{self.version[1]}"

    @property
    def shown(self) -> str:
        """As a message names it."""
        libc = f"{self.libc} {self.libc_version[0]}.{self.libc_version[1]}"
        return f"Python {self.minor}, {libc}, {self.machine}"


def find(tree: Tree, interpreter: str | None, reference: str) -> Python:
    """The Python behind an image's interpreter. Raises ImageError that says what is missing."""
    doing = f"find the Python of `{shown(reference)}`"
    if interpreter is None:
        raise ImageError(
            f"{doing}: it has none in /usr/local/bin, /usr/bin or /bin: choose an image with "
            "Python 3.9 to 3.14, or run another program of it with `--program`"
        )
    try:
        path = tree.real(interpreter)
        descriptor = tree.open(path)
    except OSError as error:
        raise ImageError(f"{doing}: `{shown(interpreter)}`: {error.strerror}: "
                         "use an image that is whole") from None  # fmt: skip
    with open(descriptor, "rb") as file:
        try:
            program = elf.read(file.fileno())
        except ValueError as error:
            raise ImageError(
                f"{doing}: `{shown(path)}`: {error}: choose an image whose Python is a program"
            ) from None
    version = _version(tree, path)
    if version is None or not OLDEST <= version <= NEWEST:
        found = "of no version that its files tell" if version is None else ""
        found = found or f"Python {version[0]}.{version[1]}"  # type: ignore[index]
        raise ImageError(
            f"{doing}: `{shown(path)}` is {found}: Python 3.9 to 3.14 can be given packages"
        )
    libc_name, libc_version = libc(tree, program, doing)
    return Python(path, version, libc_name, libc_version, program.machine)


def _version(tree: Tree, path: str) -> tuple[int, int] | None:
    """By the name of the file; else by the only standard library that lies beside it."""
    folder, _, name = path.rpartition("/")
    named = _NAME.fullmatch(name)
    if named:
        return None if named[3] else (int(named[1]), int(named[2]))
    prefix = folder.rpartition("/")[0]
    found = [
        other
        for other in _names(tree, f"{prefix}/lib")
        if _NAME.fullmatch(other) and tree.exists(f"{prefix}/lib/{other}/os.py")
    ]
    if len(found) != 1:
        return None
    only = _NAME.fullmatch(found[0])
    return (int(only[1]), int(only[2])) if only and not only[3] else None


def libc(
    tree: Tree, program: elf.Program, doing: str
) -> tuple[Literal["glibc", "musl"], tuple[int, int]]:
    """The C library that a program's loader belongs to, and its version. Raises ImageError."""
    loader = program.interpreter
    if loader is None:
        raise ImageError(f"{doing}: it is linked statically and can load no extension modules: "
                         "choose an image with glibc or musl")  # fmt: skip
    name = loader.rpartition("/")[2]
    try:
        if name.startswith("ld-musl-"):
            text = tree.read(loader, MOST_LIBRARY)
            versions = {tuple(map(int, each.split(b"."))) for each in _MUSL.findall(text)}
            if versions:
                return "musl", max(versions)  # type: ignore[return-value]
        elif name.startswith("ld-linux"):
            folders = [
                tree.real(loader).rpartition("/")[0],
                f"/usr/lib/{program.machine}-linux-gnu",
            ]
            folders += ["/usr/lib64", "/lib64", "/usr/lib", "/lib"]
            places = [f"{folder}/libc.so.6" for folder in folders]
            path = next((each for each in places if tree.exists(each)), places[0])
            text = tree.read(path, MOST_LIBRARY)
            numbers = [int(each) for each in _GLIBC.findall(text)]
            if numbers:
                return "glibc", (2, max(numbers))
    except OSError as error:
        raise ImageError(f"{doing}: its C library at `{shown(loader)}`: {error.strerror}: use an "
                         "image that is whole") from None  # fmt: skip
    raise ImageError(
        f"{doing}: its loader `{shown(loader)}` is of no C library that wheels are made for: "
        "choose an image with glibc or musl"
    )


def site_folders(tree: Tree, python: Python, interpreter: str) -> list[str]:
    """Folders of installed packages, as the image's Python has them by itself, that are there."""
    folders = []
    prefix = interpreter.rpartition("/")[0].rpartition("/")[0]
    environment = _environment(tree, prefix)
    if environment is not None:
        folders.append(f"{prefix}/lib/python{python.minor}/site-packages")
    if environment in (None, True):
        own = python.path.rpartition("/")[0].rpartition("/")[0]
        for base in dict.fromkeys((own, "/usr/local", "/usr")):
            if base != own and own not in ("/usr", "/usr/local", ""):
                continue
            folders.append(f"{base}/lib/python{python.minor}/site-packages")
            folders.append(f"{base}/lib/python{python.minor}/dist-packages")
            folders.append(f"{base}/lib/python3/dist-packages")
    return [folder for folder in dict.fromkeys(folders) if tree.is_folder(folder)]


def _environment(tree: Tree, prefix: str) -> bool | None:
    """Whether a virtual environment sees the packages of its base; None: it is none."""
    try:
        text = tree.read(f"{prefix}/pyvenv.cfg", MOST_CONFIGURATION)
    except OSError:
        return None
    return re.search(rb"(?im)^include-system-site-packages\s*=\s*true\s*$", text) is not None


def _names(tree: Tree, folder: str) -> list[str]:
    try:
        return tree.names(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
