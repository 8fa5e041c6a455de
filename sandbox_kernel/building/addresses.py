"""What a source of ADD is, by its first characters or bytes: an address, an archive, or a file.

Apart from what fetches and unpacks, so that a build that does neither loads neither.
"""

from __future__ import annotations

import re

LONGEST_MARK = 512
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(://|::)|git@[^/]+:")
_MARKS = {
    "gzip": b"\x1f\x8b\x08",
    "bzip2": b"BZh",
    "xz": b"\xfd7zXZ\x00",
    "zstd": b"\x28\xb5\x2f\xfd",
}


def is_address(text: str) -> bool:
    """Whether a source is one, and not a path."""
    return _ADDRESS.match(text) is not None


def compression_of(start: bytes) -> str | None:
    """How an archive is compressed, by its first bytes; `none` for a plain tar, None for no tar."""
    for name, mark in _MARKS.items():
        if start.startswith(mark):
            return name
    return "none" if start[257:262] == b"ustar" else None
