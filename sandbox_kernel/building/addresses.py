"""What a source of ADD is, by its first characters or bytes: an address, an archive, or a file.

Apart from what fetches and unpacks, so that a build that does neither loads neither.
"""

from __future__ import annotations

import re

BLOCK = 512
_CHECKSUM = slice(148, 156)  # of a tar header, POSIX pax, "ustar Interchange Format"
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


def compression_of(start: bytes) -> str:
    """How a file is compressed, by its first bytes; `none` when it is not."""
    for name, mark in _MARKS.items():
        if start.startswith(mark):
            return name
    return "none"


def begins_a_tar(block: bytes) -> bool:
    """Whether a file's first block, no longer compressed, is a header of tar.

    Its checksum tells, as it does for docker: `ustar` is not in old archives, and a mark of gzip is
    in front of much that is no archive.
    """
    said = block[_CHECKSUM].strip(b" \0")
    if len(block) < BLOCK or not re.fullmatch(b"[0-7]+", said):
        return False
    # It is counted with blanks in its own place.
    counted = sum(block[:BLOCK]) - sum(block[_CHECKSUM]) + len(block[_CHECKSUM]) * 0x20
    return counted == int(said, 8)
