"""Which wheel of several is the best for a Python: compatibility tags (PEP 425, 600, 656)."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from sandbox_kernel.image.environments.python import Python

if TYPE_CHECKING:
    from packaging.tags import Tag

_OLDEST_GLIBC = {"x86_64": 5, "aarch64": 17}
_LEGACY = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
"""Names that PEP 600 gives to minor versions of glibc."""


def best(python: Python, files: Iterable[str]) -> str | None:
    """The file name of the wheel that comes first by the rules of pip; None if none fits."""
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    ranks = _ranks(python)
    found: list[tuple[int, str]] = []
    for file in files:
        try:
            tags = parse_wheel_filename(file)[3]
        except InvalidWheelFilename:
            continue
        rank = min((ranks[tag] for tag in tags if tag in ranks), default=None)
        if rank is not None:
            found.append((rank, file))
    return min(found)[1] if found else None


@functools.lru_cache(maxsize=16)
def _ranks(python: Python) -> dict[Tag, int]:
    from packaging import tags

    interpreter = f"cp{python.version[0]}{python.version[1]}"
    platforms = list(_platforms(python))
    ordered = [
        *tags.cpython_tags(python.version, [interpreter], platforms),
        *tags.compatible_tags(python.version, interpreter, platforms),
    ]
    return {tag: rank for rank, tag in reversed(list(enumerate(ordered)))}


def _platforms(python: Python) -> Iterator[str]:
    major, minor = python.libc_version
    if python.libc == "musl":
        for each in range(minor, -1, -1):
            yield f"musllinux_{major}_{each}_{python.machine}"
    else:
        for each in range(minor, _OLDEST_GLIBC[python.machine] - 1, -1):
            yield f"manylinux_{major}_{each}_{python.machine}"
            if each in _LEGACY and (each == 17 or python.machine == "x86_64"):
                yield f"{_LEGACY[each]}_{python.machine}"
    yield f"linux_{python.machine}"
