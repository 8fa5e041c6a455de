"""The path that a package was built for, replaced in its files by the one that it has here.

In text every occurrence; in a binary file within strings that end in NUL, which get as many NULs
more at their end as they are shorter, so that everything else stays at its place. As conda does it:
conda/core/portability.py, `replace_prefix`.
"""

from __future__ import annotations

from collections.abc import Iterator

from sandbox_kernel.errors import ImageError, shown

TEXT, BINARY = "text", "binary"
SHORTEST, LONGEST = 8, 4096


def check(placeholder: str, prefix: str, mode: str, path: str) -> None:
    """Raises ImageError for what can't be replaced by `prefix` in a file of this mode."""
    old, new = placeholder.encode("utf-8", "surrogatepass"), prefix.encode()
    if not SHORTEST <= len(old) <= LONGEST or b"\0" in old:
        raise ImageError(f"`{shown(path)}` has a placeholder that can't be one")
    if mode not in (TEXT, BINARY):
        raise ImageError(f"`{shown(path)}` is of mode `{shown(mode)}`, and not text or binary")
    if mode == BINARY and len(new) > len(old):
        raise ImageError(
            f"`{shown(path)}` has room for a path of {len(old)} bytes, and `{prefix}` is longer"
        )


def replaced(data: bytes, placeholder: str, prefix: str, mode: str) -> bytes:
    """The content of a file for `prefix`, of a placeholder that was checked."""
    old, new = placeholder.encode("utf-8", "surrogatepass"), prefix.encode()
    return data.replace(old, new) if mode == TEXT else b"".join(_strings(data, old, new))


def _strings(data: bytes, old: bytes, new: bytes) -> Iterator[bytes]:
    """The pieces of a binary file. Each byte is looked at once, whatever the file is."""
    at = 0
    while (start := data.find(old, at)) >= 0:
        end = data.find(b"\0", start)
        if end < 0:
            break  # no string of a program
        text = data[start:end].replace(old, new)
        yield data[at:start]
        yield text
        yield bytes(end - start - len(text))
        at = end
    yield data[at:]
