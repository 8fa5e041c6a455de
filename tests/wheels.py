"""Wheels made by hand, for a folder that uv takes as its index: no test waits for a network."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path


def make(
    folder: Path,
    name: str,
    version: str = "1.0",
    *,
    files: Mapping[str, str | bytes] | None = None,
    requires: Sequence[str] = (),
    scripts: Mapping[str, str] | None = None,
    tag: str = "py3-none-any",
) -> Path:
    """A wheel in the folder, the same bytes each time: `files` are below site-packages."""
    module = name.replace("-", "_")
    information = f"{module}-{version}.dist-info"
    content: dict[str, bytes] = {
        path: text.encode() if isinstance(text, str) else text
        for path, text in (files or {f"{module}/__init__.py": f"version = {version!r}\n"}).items()
    }
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", "License: MIT"]
    lines += [f"Requires-Dist: {each}" for each in requires]
    content[f"{information}/METADATA"] = "\n".join([*lines, ""]).encode()
    content[f"{information}/WHEEL"] = (
        f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n".encode()
    )
    if scripts:
        points = "".join(f"{key} = {value}\n" for key, value in scripts.items())
        content[f"{information}/entry_points.txt"] = f"[console_scripts]\n{points}".encode()
    rows = "".join(f"{path},sha256={_hash(data)},{len(data)}\n" for path, data in content.items())
    content[f"{information}/RECORD"] = f"{rows}{information}/RECORD,,\n".encode()
    wheel = folder / f"{module}-{version}-{tag}.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, data in content.items():
            archive.writestr(zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0)), data)
    return wheel


def _hash(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
