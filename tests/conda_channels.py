"""Packages of conda made by hand, in a folder that is a channel: no test waits for a network.

A package is the same bytes each time. One of them is the system's Python, moved into a prefix.
"""

from __future__ import annotations

import bz2
import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sandbox_kernel.image.layers.compression import zstd

SYSTEM_PYTHON = "/usr/bin/python3"
PLACEHOLDER = "/opt/built_by_somebody_with_a_path_that_is_long_enough_for_all_placeholders"
HERE = {"x86_64": "linux-64", "aarch64": "linux-aarch64"}[platform.machine()]
TIME = 1_700_000_000
LEFT_OUT = {
    "test",
    "tests",
    "__pycache__",
    "idlelib",
    "tkinter",
    "ensurepip",
    "lib2to3",
    "turtle.py",
}
PROGRAM = f"""
#include <stdio.h>
int main(void) {{ puts("{PLACEHOLDER}/share/words"); return 0; }}
"""


class Channel:
    """A folder that is a channel. `add` also writes what the channel says that it has."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._records: dict[str, dict[str, Any]] = {HERE: {}, "noarch": {}}
        for subdir in self._records:
            (folder / subdir).mkdir(parents=True)
            self._write(subdir)

    @property
    def address(self) -> str:
        return f"file://{self.folder}"

    def add(
        self,
        name: str,
        version: str = "1.0",
        *,
        files: Mapping[str, str | bytes] | None = None,
        placeholders: Mapping[str, str] | None = None,
        links: Mapping[str, str] | None = None,
        programs: Iterable[str] = (),
        depends: Sequence[str] = (),
        noarch: str | None = None,
        entry_points: Sequence[str] = (),
        kind: str = ".conda",
        built: int = TIME,
        members: Iterable[tuple[tarfile.TarInfo, bytes]] = (),
        paths: Sequence[Mapping[str, object]] = (),
        information: Mapping[str, object] | None = None,
        record: Mapping[str, object] | None = None,
    ) -> Path:
        """`placeholders`: path -> file mode. `members` and `paths` are put in as they are."""
        subdir = "noarch" if noarch else HERE
        content = {
            path: text.encode() if isinstance(text, str) else text
            for path, text in (files or {}).items()
        }
        index: dict[str, Any] = {
            "name": name, "version": version, "build": "0", "build_number": 0,
            "depends": list(depends), "subdir": subdir, "timestamp": built * 1000, "license": "MIT",
        }  # fmt: skip
        if noarch:
            index["noarch"] = noarch
        modes = placeholders or {}
        listed: list[Mapping[str, object]] = [
            {"_path": path, "path_type": "hardlink", "size_in_bytes": len(data),
             "sha256": hashlib.sha256(data).hexdigest(),
             **({"prefix_placeholder": PLACEHOLDER, "file_mode": modes[path]}
                if path in modes else {})}
            for path, data in content.items()
        ]  # fmt: skip
        listed += [{"_path": path, "path_type": "softlink"} for path in links or ()]
        about: dict[str, object] = {
            "info/index.json": index,
            "info/paths.json": {"paths": [*listed, *paths], "paths_version": 1},
        }
        if noarch == "python":
            link = {"noarch": {"type": "python", "entry_points": list(entry_points)}}
            about["info/link.json"] = {**link, "package_metadata_version": 1}
        about |= information or {}
        told = [
            (_info(path, len(data)), data)
            for path, value in about.items()
            if value is not None and (data := json.dumps(value).encode()) is not None
        ]
        payload = [
            (_info(path, len(data), executable=path.startswith("bin/") or path in programs), data)
            for path, data in content.items()
        ]
        payload += [(_link(path, target), b"") for path, target in (links or {}).items()]
        payload += list(members)
        file = self.folder / subdir / f"{name}-{version}-0{kind}"
        file.unlink(missing_ok=True)  # it may be another channel's too
        file.write_bytes(_packed(told, payload, kind, file.name.removesuffix(kind)))
        self.say(file, {**index, **(record or {})})
        return file

    def say(self, file: Path, index: Mapping[str, object]) -> None:
        """What the channel says of a file, which is as it is now."""
        data = file.read_bytes()
        subdir = file.parent.name
        self._records[subdir][file.name] = {
            "md5": hashlib.md5(data).hexdigest(),
            "sha256": hashlib.sha256(data).hexdigest(),
            "size": len(data),
            **index,
        }
        self._write(subdir)

    def copied(self, folder: Path) -> Channel:
        """Another channel with the same packages."""
        made = Channel(folder)
        for subdir, records in self._records.items():
            made._records[subdir] = dict(records)
            for name in records:
                os.link(self.folder / subdir / name, folder / subdir / name)
            made._write(subdir)
        return made

    def _write(self, subdir: str) -> None:
        records = self._records[subdir]
        document = {
            "info": {"subdir": subdir},
            "packages": {n: r for n, r in records.items() if n.endswith(".tar.bz2")},
            "packages.conda": {n: r for n, r in records.items() if n.endswith(".conda")},
            "repodata_version": 1,
        }
        (self.folder / subdir / "repodata.json").write_text(json.dumps(document))


def add_python(channel: Channel) -> str:
    """The system's Python as a package; its version, such as `3.11`."""
    program = Path(SYSTEM_PYTHON).resolve()
    library = Path("/usr/lib") / program.name
    minor = program.name.removeprefix("python")
    files: dict[str, bytes] = {f"bin/{program.name}": program.read_bytes()}
    for folder, folders, names in os.walk(library):
        folders[:] = [name for name in folders if name not in LEFT_OUT]
        for name in names:
            path = Path(folder, name)
            if name not in LEFT_OUT and path.is_file() and not path.is_symlink():
                files[f"lib/{program.name}/{path.relative_to(library)}"] = path.read_bytes()
    files[f"lib/{program.name}/os.py"] = (library / "os.py").resolve().read_bytes()
    # Debian's Python looks for packages at other places than one that conda has.
    site = f"{PLACEHOLDER}/lib/{program.name}/site-packages"
    files[f"lib/{program.name}/dist-packages/of_conda.pth"] = f"{site}\n".encode()
    files[f"lib/{program.name}/site-packages/README.txt"] = b"packages lie here\n"
    channel.add(
        "python",
        f"{minor}.2",
        files=files,
        links={"bin/python": program.name, "bin/python3": program.name},
        placeholders={f"lib/{program.name}/dist-packages/of_conda.pth": "text"},
        depends=["__glibc >=2.17"],
    )
    return minor


def program(folder: Path) -> bytes:
    """A program that prints a path that it was built with."""
    (folder / "words.c").write_text(PROGRAM)
    compiler = shutil.which("gcc")
    assert compiler is not None
    argv = [compiler, "-O1", "-o", str(folder / "words"), str(folder / "words.c")]
    subprocess.run(argv, check=True)
    return (folder / "words").read_bytes()


def member(path: str, kind: bytes = tarfile.REGTYPE, *, target: str = "") -> tarfile.TarInfo:
    """An entry of a tar archive with no data, as it is said."""
    found = _info(path, 0)
    found.type, found.linkname = kind, target
    return found


def _info(path: str, size: int, *, executable: bool = False) -> tarfile.TarInfo:
    found = tarfile.TarInfo(path)
    found.size, found.mtime, found.mode = size, TIME, 0o775 if executable else 0o664
    return found


def _link(path: str, target: str) -> tarfile.TarInfo:
    return member(path, tarfile.SYMTYPE, target=target)


def _packed(
    told: Sequence[tuple[tarfile.TarInfo, bytes]],
    payload: Sequence[tuple[tarfile.TarInfo, bytes]],
    kind: str,
    stem: str,
) -> bytes:
    if kind == ".tar.bz2":
        return bz2.compress(_tar([*told, *payload]), 1)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as parts:
        for name, data in (
            ("metadata.json", b'{"conda_pkg_format_version": 2}'),
            (f"pkg-{stem}.tar.zst", zstd.compress(_tar(payload), 1)),
            (f"info-{stem}.tar.zst", zstd.compress(_tar(told), 1)),
        ):
            parts.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), data)
    return out.getvalue()


def _tar(members: Sequence[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for found, data in members:
            archive.addfile(found, io.BytesIO(data))
    return out.getvalue()


def configure(folder: Path, **channels: str) -> None:
    """The user's settings in this folder (XDG_CONFIG_HOME): channels by their names."""
    place = folder / "sandbox-kernel"
    place.mkdir(parents=True, exist_ok=True)
    lines = [f"{json.dumps(name)} = {json.dumps(address)}" for name, address in channels.items()]
    (place / "config.toml").write_text("\n".join(["[conda.channels]", *lines, ""]))
