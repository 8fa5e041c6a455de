"""Reading small files of the kernel: /proc and the like, where a file object costs more than it."""

from __future__ import annotations

import os

CHUNK = 1 << 16


def whole(path: str) -> bytes:
    """All that is in a file. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = os.read(descriptor, CHUNK)
        # It ends where nothing more comes: what /proc makes up may come in pieces of any length.
        while more := os.read(descriptor, CHUNK):
            found += more
    finally:
        os.close(descriptor)
    return found
