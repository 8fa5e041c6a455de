"""A small root file system with the system's Python in it and no packages: made in a second.

As Debian lays it out, with a dpkg database of one package; no ipykernel, no pip.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

SYSTEM_PYTHON = "/usr/bin/python3"
STATUS = """Package: python3-minimal
Status: install ok installed
Version: 3.11.2-1
Architecture: amd64
Maintainer: Somebody <somebody@example.org>
Homepage: https://www.python.org/

Package: gone
Status: deinstall ok config-files
Version: 1
Architecture: all
"""
ALSO = ("libdl.so.2", "libgcc_s.so.1", "libpthread.so.0", "librt.so.1", "libstdc++.so.6")
"""What wheels may be linked with (PEP 600), and Debian's smallest image has."""
LEFT_OUT = shutil.ignore_patterns("test", "tests", "__pycache__", "idlelib", "tkinter", "ensurepip")


def make(root: Path) -> Path:
    """Fill the folder; returns it."""
    program = Path(SYSTEM_PYTHON).resolve()
    library = Path("/usr/lib") / program.name
    for name in ("bin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for name in ("etc", "tmp", "proc", "sys", "dev", "root", "var/lib/dpkg"):
        (root / name).mkdir(parents=True)
    shutil.copy(program, root / "usr/bin" / program.name)
    (root / "usr/bin/python3").symlink_to(program.name)
    shutil.copytree(library, root / f"usr/lib/{program.name}", ignore=LEFT_OUT, symlinks=True)
    found = _libraries([program, *(library / "lib-dynload").glob("*.so")])
    (libc,) = [Path(path) for path in found if path.endswith("/libc.so.6")]
    found |= {str(libc.with_name(name)) for name in ALSO}
    for path in found:
        target = root / "usr" / path.lstrip("/").removeprefix("usr/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            shutil.copy(os.path.realpath(path), target)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    (root / "etc/os-release").write_text('ID=debian\nVERSION_ID="12"\n')
    (root / "var/lib/dpkg/status").write_text(STATUS)
    return root


def _libraries(programs: Iterable[Path]) -> set[str]:
    listed = subprocess.run(
        ["ldd", *map(str, programs)], capture_output=True, text=True, check=False
    ).stdout
    return set(re.findall(r"(/\S+\.so[.\d]*) \(0x", listed))
