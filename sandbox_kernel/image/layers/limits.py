"""How much a layer may hold: caps that stop a bomb before it fills memory, disk or time."""

from __future__ import annotations

from typing import NamedTuple

_MIB = 1 << 20
_GIB = 1 << 30


class Limits(NamedTuple):
    """Caps on one layer. Sizes in bytes; what is above is refused with an ImageError."""

    plain: int = 64 * _GIB
    """Of the tar stream, and of the files together as they claim to be (holes count)."""
    members: int = 4_000_000
    ratio: int = 500
    """Plain bytes for each compressed one, looked at from `ratio_from` plain bytes on."""
    ratio_from: int = 256 * _MIB
    header: int = _MIB
    """Of one extended header, and of one long name."""
    records: int = 4096
    """In one extended header."""
    holes: int = 65536
    """Pieces of one sparse file."""
    window: int = 26
    """Base-2 logarithm of the memory that a zstd frame may ask for: 64 MiB."""
    empty_streams: int = 1000
    """Compressed streams that follow each other and hold nothing."""


DEFAULT = Limits()
