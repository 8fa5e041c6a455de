"""Which files lie where in a tar archive of images: names, offsets and sizes; nothing is unpacked.

Formats: ustar, pax and GNU, of which archives of images use names, sizes and symbolic links.
Source: POSIX.1-2017 pax, "ustar Interchange Format" and "pax Extended Header"; GNU tar manual,
"Basic Tar Format". Layers have a reader of their own (`image.layers`): there every field matters.
"""

from __future__ import annotations

import os
from typing import NamedTuple, NoReturn

from sandbox_kernel.errors import ImageError, shown

BLOCK = 512
MOST_MEMBERS = 100_000
LARGEST_EXTENSION = 1 << 20
LONGEST_CHAIN = 8


class Member(NamedTuple):
    """Of a file: where its first byte is and how many there are. Of a link: its `target`."""

    offset: int
    size: int
    target: str | None = None


def scan(fd: int, path: str) -> dict[str, Member]:
    """The members by their names, as `a/b` with no dot in it; of two of one name the last.

    Raises ImageError when it is no tar archive, or one that is cut.
    """
    end = os.fstat(fd).st_size
    found: dict[str, Member] = {}
    at, extended = 0, dict[str, str]()
    while at + BLOCK <= end:
        header = os.pread(fd, BLOCK, at)
        if not header.strip(b"\0"):
            break
        _check(header, path)
        kind = header[156:157]
        size = int(extended.get("size", -1))
        size = size if size >= 0 else _number(header[124:136], path)
        at += BLOCK
        if at + size > end:
            _refuse(path, "it is cut: a file in it goes on after its end")
        if kind in b"xgLK" and kind:
            if size > LARGEST_EXTENSION:
                _refuse(path, f"an extended header has {size} bytes")
            data = os.pread(fd, size, at)
            if kind == b"x":
                extended.update(_records(data, path))
            elif kind in b"LK":
                key = "path" if kind == b"L" else "linkpath"
                extended[key] = data.rstrip(b"\0").decode(errors="surrogateescape")
        else:
            name = extended.get("path") or _name(header)
            if kind in (b"0", b"\0", b"7"):
                found[_clean(name)] = Member(at, size)
            elif kind in (b"1", b"2"):
                target = extended.get("linkpath") or _text(header[157:257])
                base = os.path.dirname(_clean(name)) if kind == b"2" else ""
                found[_clean(name)] = Member(at, 0, _clean(f"{base}/{target}"))
                size = 0
            extended = {}
        if len(found) > MOST_MEMBERS:
            _refuse(path, f"it has more than {MOST_MEMBERS} files")
        at += -(-size // BLOCK) * BLOCK
    if not found:
        _refuse(path, "there is no file in it")
    return found


def resolve(members: dict[str, Member], name: str) -> Member | None:
    """The file of a name, at the end of links in the archive; None: there is none."""
    member = members.get(_clean(name))
    for _ in range(LONGEST_CHAIN):
        if member is None or member.target is None:
            return member
        member = members.get(member.target)
    return None


def _check(header: bytes, path: str) -> None:
    """The sum of all bytes, with blanks in the place of the sum itself."""
    total = sum(header[:148]) + 8 * 32 + sum(header[156:])
    if _number(header[148:156], path) != total:
        _refuse(path, "it is no tar archive, or a broken one")


def _number(field: bytes, path: str) -> int:
    """Octal digits, or GNU's base 256."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    text = field.strip(b"\0 ")
    try:
        return int(text or b"0", 8)
    except ValueError:
        _refuse(path, "it is no tar archive, or a broken one")


def _name(header: bytes) -> str:
    name, prefix = _text(header[:100]), _text(header[345:500])
    return f"{prefix}/{name}" if prefix and header[257:263] == b"ustar\0" else name


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode(errors="surrogateescape")


def _clean(name: str) -> str:
    parts: list[str] = []
    for part in name.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def _records(data: bytes, path: str) -> dict[str, str]:
    """`LENGTH KEY=VALUE\\n` again and again."""
    found: dict[str, str] = {}
    while data:
        digits, _, _ = data.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 8 else 0
        record = data[len(digits) + 1 : length]
        key, equals, value = record.partition(b"=")
        if not equals or not record.endswith(b"\n") or length > len(data):
            _refuse(path, "an extended header of it is broken")
        text = value[:-1].decode(errors="surrogateescape")
        if key == b"size" and not (text.isascii() and text.isdigit() and len(text) < 20):
            _refuse(path, "an extended header of it is broken")
        found[key.decode(errors="surrogateescape")] = text
        data = data[length:]
    return found


def _refuse(path: str, why: str) -> NoReturn:
    raise ImageError(f"read archive `{shown(path)}`: {why}: save the image again")
