"""Writing all of something: write(2) may take less than it was given."""

from __future__ import annotations

import os


def whole(descriptor: int, data: bytes) -> None:
    """Write all of it to a file. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
