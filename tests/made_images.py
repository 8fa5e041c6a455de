"""Small images made by hand, put into a store: for tests that need no real distribution."""

from __future__ import annotations

import gzip
import io
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from sandbox_kernel.image import digest as digests
from sandbox_kernel.image import documents
from sandbox_kernel.image.documents import Descriptor, Execution, History, ImageConfig, RootFS
from sandbox_kernel.image.store import Store, Stored
from sandbox_kernel.image.unpacked import own_architecture

SAYS = r"""
#include <stdio.h>
#include <string.h>
#include <stdlib.h>
int main(int count, char **words) {
    if (count > 2 && !strcmp(words[1], "cat")) {
        FILE *file = fopen(words[2], "r");
        int byte;
        if (!file) { perror(words[2]); return 1; }
        while ((byte = fgetc(file)) != EOF) putchar(byte);
        return 0;
    }
    if (count > 2 && !strcmp(words[1], "env")) { puts(getenv(words[2]) ?: "-"); return 0; }
    puts("it runs");
    return 0;
}
"""


@cache
def program() -> bytes:
    """A program that needs no library: says `it runs`, or `cat FILE`, or `env NAME`."""
    made = subprocess.run(
        ["gcc", "-xc", "-", "-static", "-Os", "-s", "-o", "/dev/stdout"],
        input=SAYS.encode(), capture_output=True, check=False,
    )  # fmt: skip
    if made.returncode or not made.stdout.startswith(b"\x7fELF"):
        return _program_by_file()
    return made.stdout


def _program_by_file() -> bytes:
    """The linker can't write to a pipe everywhere."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "says")
        subprocess.run(
            ["gcc", "-xc", "-", "-static", "-Os", "-s", "-o", out], input=SAYS.encode(), check=True
        )
        return out.read_bytes()


def layer(files: Mapping[str, bytes | str | None]) -> bytes:
    """A tar: path to content; a text is the target of a link, None a folder."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for path, content in files.items():
            info = tarfile.TarInfo(path)
            info.mode = 0o755
            if content is None:
                info.type = tarfile.DIRTYPE
            elif isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
            else:
                info.size = len(content)
            data = io.BytesIO(content) if isinstance(content, bytes) else None
            archive.addfile(info, data)
    return out.getvalue()


def put(
    store: Store,
    name: str | None,
    layers: Sequence[bytes],
    *,
    zipped: bool = True,
    created: str = "2026-01-02T03:04:05Z",
    **config: Any,
) -> Stored:
    """An image of these layers (tars), tagged. `config`: fields of `Execution`."""
    parts, diff_ids = [], []
    with store.adding():
        for plain in layers:
            data = gzip.compress(plain, 1, mtime=0) if zipped else plain
            media_type = documents.OCI_LAYER_GZIP if zipped else documents.OCI_LAYER
            digest = store.write(data)
            parts.append(Descriptor(media_type=media_type, digest=digest, size=len(data)))
            diff_ids.append(digests.of(plain))
        document = documents.encode(
            ImageConfig(
                created=created,
                architecture=own_architecture(),
                os="linux",
                config=Execution(**config),
                rootfs=RootFS(diff_ids=diff_ids),
                history=[History(created=created, created_by=f"made by hand {len(parts)}")],
            )
        )
        store.write(document)
        manifest = documents.encode(
            documents.Manifest(
                schema_version=2,
                config=documents.describe(document, documents.OCI_CONFIG),
                layers=parts,
            )
        )
        store.write(manifest)
        return store.tag(name, documents.describe(manifest, documents.OCI_MANIFEST))


def small(store: Store, name: str | None = "small:1", *, note: bytes = b"first\n") -> Stored:
    """An image of two layers with one program, `/bin/says`, and a file, `/etc/note`."""
    return put(
        store,
        name,
        [
            layer({"bin": None, "bin/says": program(), "etc": None}),
            layer({"etc": None, "etc/note": note}),
        ],
        cmd=["/bin/says"],
        env=["PATH=/bin", "WORD=of the image"],
        working_dir="/etc",
    )
