"""A strict, streaming reader of tar archives: ustar, GNU and PAX headers, sparse files.

It reads what POSIX pax and GNU tar write and refuses the rest; nothing is repaired or guessed.
Sources: POSIX.1-2017 pax, "ustar Interchange Format" and "pax Extended Header"; GNU tar manual,
"Basic Tar Format" and "Storing Sparse Files".
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from sandbox_kernel.errors import ImageError
from sandbox_kernel.image.layers import names
from sandbox_kernel.image.layers.limits import Limits

BLOCK = 512
# struct posix_header: name mode uid gid size mtime chksum typeflag linkname magic+version uname
# gname devmajor devminor prefix, padding
_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_USTAR = b"ustar\x0000"
_GNU = b"ustar  \0"
_EMPTY = bytes(BLOCK)
_BLANKS = 8 * 0x20  # the checksum is counted with blanks in its own field

REGULAR, LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = (
    b"0",
    b"1",
    b"2",
    b"3",
    b"4",
    b"5",
    b"6",
)
# "7" is a contiguous file, which POSIX lets one read as a regular one.
_REGULAR = frozenset((b"0", b"\0", b"7"))
_WITHOUT_DATA = frozenset((LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO))
_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK, _GNU_SPARSE = b"x", b"g", b"L", b"K", b"S"
_XATTR = b"SCHILY.xattr."
_CHARACTER_SETS = (b"BINARY", b"ISO-IR 10646 2000 UTF-8")
_BIGGEST = (1 << 63) - 1
_NANOSECONDS = 1_000_000_000
_LATEST = (1 << 40) * _NANOSECONDS  # what every file system takes or clamps


class Member(NamedTuple):
    """One entry. `kind` is a type flag; `size` of a sparse file is with its holes.

    `mtime` in nanoseconds. `sparse`: (offset, length) of each piece that holds data, or None.
    """

    path: bytes
    kind: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    link: bytes
    xattrs: Mapping[bytes, bytes]
    sparse: tuple[tuple[int, int], ...] | None


_NO_XATTRS: Mapping[bytes, bytes] = {}


class Reader:
    """Members of an archive, in order. `piece` gives the archive's next bytes, b"" at the end.

    `member` first passes over what is left of the data of the one before.
    """

    def __init__(self, piece: Callable[[], bytes], limits: Limits) -> None:
        self._piece = piece
        self._limits = limits
        self._data = b""
        self._at = 0
        self._left = 0
        """Bytes of data of the present member that were not read yet."""
        self._padding = 0
        self._members = 0
        self._claimed = 0
        self.ended_well = False
        """Whether the archive had an end marker."""

    def member(self) -> Member | None:
        """The next entry, None at the end of the archive. Raises ImageError."""
        self._pass_over()
        extended: dict[bytes, bytes] | None = None
        long_name: bytes | None = None
        long_link: bytes | None = None
        pending = False
        while True:
            block = self._block()
            if block is None or block == _EMPTY:
                if pending:
                    raise ImageError("its archive ends after an extended header")
                self._finish(block is not None)
                return None
            self._members += 1
            if self._members > self._limits.members:
                raise ImageError(f"it has more than {self._limits.members} members")
            fields = _HEADER.unpack(block)
            if sum(block) - sum(fields[6]) + _BLANKS != _octal(fields[6], "checksum"):
                raise ImageError(f"header {self._members} of its archive has a wrong checksum")
            flag = fields[7]
            if flag == _PAX:
                if extended is not None:
                    raise ImageError("two extended headers follow each other in its archive")
                extended = self._records(self._extra(_number(fields[4], "size")))
            elif flag == _PAX_GLOBAL:
                # As docker reads it: global headers (git archive writes one) mean nothing.
                self._extra(_number(fields[4], "size"))
                continue
            elif flag == _LONG_NAME:
                long_name = self._long(fields[4], long_name)
            elif flag == _LONG_LINK:
                long_link = self._long(fields[4], long_link)
            else:
                return self._entry(block, fields, extended, long_name, long_link)
            pending = True

    def data(self) -> Iterator[memoryview]:
        """The data of the present member, in pieces. Holes of a sparse file are not in it."""
        while self._left:
            if self._at == len(self._data):
                self._more()
            count = min(self._left, len(self._data) - self._at)
            piece = memoryview(self._data)[self._at : self._at + count]
            self._at += count
            self._left -= count
            yield piece

    # -- blocks ---------------------------------------------------------------------------------

    def _more(self) -> None:
        self._data = self._piece()
        self._at = 0
        if not self._data:
            raise ImageError("its archive is cut off")

    def _block(self) -> bytes | None:
        """The next 512 bytes, None at the end of the input."""
        at = self._at
        block = self._data[at : at + BLOCK]
        if len(block) == BLOCK:
            self._at = at + BLOCK
            return block
        while len(block) < BLOCK:
            self._data = self._piece()
            self._at = BLOCK - len(block)
            if not self._data:
                self._at = 0
                if block:
                    raise ImageError("its archive is cut off")
                return None
            self._at = min(self._at, len(self._data))
            block += self._data[: self._at]
        return block

    def _take(self, count: int) -> bytes:
        """Bytes of a header's data, few enough to hold, with the padding after them."""
        self._left = count
        found = b"".join(self.data())
        self._padding = -count % BLOCK
        self._pass_over()
        return found

    def _pass_over(self) -> None:
        left = self._left + self._padding
        self._left = self._padding = 0
        while left > (there := len(self._data) - self._at):
            left -= there
            self._more()
        self._at += left

    def _finish(self, marked: bool) -> None:
        """After the end marker only zeros may follow: nothing hides behind it."""
        self.ended_well = marked
        rest = self._data[self._at :]
        while rest or (rest := self._piece()):
            if rest.count(0) != len(rest):
                raise ImageError("something follows the end of its archive")
            rest = b""
        self._data, self._at = b"", 0

    # -- headers --------------------------------------------------------------------------------

    def _extra(self, size: int) -> bytes:
        if size > self._limits.header:
            raise ImageError(f"it has an extended header of {size} bytes")
        return self._take(size)

    def _long(self, size: bytes, before: bytes | None) -> bytes:
        if before is not None:
            raise ImageError("two long names for one member follow each other in its archive")
        return self._extra(_number(size, "size")).rstrip(b"\0")

    def _records(self, text: bytes) -> dict[bytes, bytes]:
        """The records `LENGTH KEY=VALUE\\n` of an extended header."""
        found: dict[bytes, bytes] = {}
        pieces: list[bytes] = []
        at = 0
        count = 0
        while at < len(text):
            blank = text.find(b" ", at, at + 20)
            digits = text[at:blank] if blank >= 0 else b""
            end = at + int(digits) if digits.isdigit() else 0
            equals = text.find(b"=", blank, end)
            if end <= blank + 1 or end > len(text) or text[end - 1] != 0x0A or equals < 0:
                raise ImageError("it has an extended header that is not well formed")
            key, value = text[blank + 1 : equals], text[equals + 1 : end - 1]
            count += 1
            if count > self._limits.records:
                raise ImageError(
                    f"it has an extended header of more than {self._limits.records} records"
                )
            if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
                pieces.append(value)  # the one key that comes again and again (format 0.0)
            else:
                found[key] = value
            at = end
        if pieces:
            found[b"GNU.sparse.map"] = b",".join(pieces)
        return found

    def _entry(
        self,
        block: bytes,
        fields: tuple[bytes, ...],
        extended: dict[bytes, bytes] | None,
        long_name: bytes | None,
        long_link: bytes | None,
    ) -> Member:
        name, mode, uid, gid, size_field, mtime, _, kind, link, magic, *_ = fields
        path = name.partition(b"\0")[0]
        if magic == _USTAR and fields[14][0]:
            path = fields[14].partition(b"\0")[0] + b"/" + path
        elif magic not in (_USTAR, _GNU) and magic.strip(b" \0"):
            raise ImageError(f"member `{names.display(path)}` has a header of an unknown format")
        if long_name is not None:
            path = long_name
        target = link.partition(b"\0")[0] if long_link is None else long_link
        size = _number(size_field, "size")
        owner, group = _number(uid, "uid"), _number(gid, "gid")
        time = _number(mtime, "mtime", negative=True) * _NANOSECONDS
        xattrs = _NO_XATTRS
        if extended:
            path, target = extended.get(b"path", path), extended.get(b"linkpath", target)
            size = _decimal(extended, b"size", size)
            owner = _decimal(extended, b"uid", owner)
            group = _decimal(extended, b"gid", group)
            time = _time(extended, time)
            xattrs = _xattrs(extended)
        if kind in _REGULAR:
            # As old archives have it: a name that ends in a slash is a directory.
            kind = DIRECTORY if path.endswith(b"/") else REGULAR
        if kind in _WITHOUT_DATA:
            size = 0
        elif kind not in (REGULAR, _GNU_SPARSE):
            raise ImageError(
                f"member `{names.display(path)}` is of the unknown type `{names.display(kind)}`"
            )
        if abs(time) > _LATEST:
            raise ImageError(f"member `{names.display(path)}` is of a time out of range")
        stored = size
        sparse = None
        if kind == _GNU_SPARSE:
            kind = REGULAR
            size, sparse = self._gnu_sparse(block, stored)
        self._left, self._padding = stored, -stored % BLOCK
        if extended and kind == REGULAR and sparse is None:
            path, size, sparse = self._pax_sparse(extended, path, size)
        self._claimed += size
        if self._claimed > self._limits.plain:
            raise ImageError(f"its files together are larger than {self._limits.plain} bytes")
        permissions = _number(mode, "mode") & 0o7777
        return Member(path, kind, permissions, owner, group, size, time, target, xattrs, sparse)

    # -- sparse files ---------------------------------------------------------------------------

    def _gnu_sparse(self, block: bytes, stored: int) -> tuple[int, tuple[tuple[int, int], ...]]:
        """The old GNU format: four pieces in the header, more in blocks that follow it."""
        numbers: list[int] = []
        self._sparse_numbers(block[386:482], numbers)
        more = block[482]
        size = _number(block[483:495], "size")
        while more:
            following = self._block()
            if following is None:
                raise ImageError("its archive is cut off")
            self._sparse_numbers(following[:504], numbers)
            more = following[504]
            self._check_holes(len(numbers))
        return size, self._pieces(numbers, size, stored)

    @staticmethod
    def _sparse_numbers(table: bytes, numbers: list[int]) -> None:
        for at in range(0, len(table), 24):
            if not table[at]:
                return
            numbers.append(_number(table[at : at + 12], "offset"))
            numbers.append(_number(table[at + 12 : at + 24], "size"))

    def _pax_sparse(
        self, extended: dict[bytes, bytes], path: bytes, size: int
    ) -> tuple[bytes, int, tuple[tuple[int, int], ...] | None]:
        """The PAX formats 0.0, 0.1 (the map is in the header) and 1.0 (it is before the data)."""
        version = extended.get(b"GNU.sparse.major", b""), extended.get(b"GNU.sparse.minor", b"")
        if b"GNU.sparse.name" in extended:
            path = extended[b"GNU.sparse.name"]
        if version == (b"1", b"0"):
            real = _decimal(extended, b"GNU.sparse.realsize", -1)
            numbers = self._map_before_data()
        elif b"GNU.sparse.map" in extended:
            real = _decimal(extended, b"GNU.sparse.size", -1)
            words = extended[b"GNU.sparse.map"].split(b",")
            self._check_holes(len(words))
            numbers = [_digits(word, "GNU.sparse.map") for word in words]
        elif any(key.startswith(b"GNU.sparse.") for key in extended):
            raise ImageError(f"member `{names.display(path)}` is sparse in an unknown way")
        else:
            return path, size, None
        if real < 0:
            raise ImageError(f"member `{names.display(path)}` is sparse and has no size")
        return path, real, self._pieces(numbers, real, self._left)

    def _map_before_data(self) -> list[int]:
        """Format 1.0: a count, then offset and size of each, a number a line, padded to a block."""
        text = b""
        wanted = 1
        numbers: list[int] = []
        while len(numbers) < wanted:
            block = self._block() if self._left >= BLOCK else None
            if block is None:
                raise ImageError("it has a sparse file whose map is cut off")
            self._left -= BLOCK
            *lines, text = (text + block).split(b"\n")
            if len(text) > BLOCK:
                raise ImageError("it has a sparse file whose map is not well formed")
            for line in lines:
                if len(numbers) < wanted:
                    numbers.append(_digits(line, "map"))
                    if wanted == 1:
                        self._check_holes(2 * numbers[0])
                        wanted = 1 + 2 * numbers[0]
        return numbers[1:]

    def _check_holes(self, count: int) -> None:
        if count > 2 * self._limits.holes:
            raise ImageError(f"it has a sparse file of more than {self._limits.holes} pieces")

    @staticmethod
    def _pieces(numbers: list[int], size: int, stored: int) -> tuple[tuple[int, int], ...]:
        pieces = tuple(zip(numbers[::2], numbers[1::2], strict=False))
        at = 0
        for offset, length in pieces:
            if offset < at or offset + length > size:
                raise ImageError("it has a sparse file whose pieces are not in order")
            at = offset + length
        if len(numbers) % 2 or sum(length for _, length in pieces) != stored:
            raise ImageError("it has a sparse file whose map is not that of its data")
        return pieces


def _octal(field: bytes, what: str) -> int:
    text = field.strip(b" \0")
    if not text:
        return 0
    if not text.isdigit() or b"8" in text or b"9" in text:
        raise ImageError(f"it has a header whose {what} is no octal number")
    return int(text, 8)


def _number(field: bytes, what: str, *, negative: bool = False) -> int:
    """Octal digits, or GNU's base 256: the first bit is set, the next one is the sign."""
    if not field[0] & 0x80:
        return _octal(field, what)
    value = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
    if field[0] & 0x40:
        value -= 1 << (8 * len(field) - 1)
    if (value < 0 and not negative) or abs(value) > _BIGGEST:
        raise ImageError(f"it has a header whose {what} is out of range")
    return value


def _digits(text: bytes, what: str) -> int:
    if not text.isdigit() or len(text) > 19 or int(text) > _BIGGEST:
        raise ImageError(f"it has an extended header whose {what} is no number")
    return int(text)


def _decimal(extended: Mapping[bytes, bytes], key: bytes, otherwise: int) -> int:
    return _digits(extended[key], key.decode()) if key in extended else otherwise


def _time(extended: Mapping[bytes, bytes], otherwise: int) -> int:
    """Nanoseconds of a PAX time: seconds with a fraction, maybe negative."""
    text = extended.get(b"mtime")
    if text is None:
        return otherwise
    whole, _, fraction = text.removeprefix(b"-").partition(b".")
    value = _digits(whole, "mtime") * _NANOSECONDS
    if fraction:
        value += _digits(fraction[:9].ljust(9, b"0"), "mtime")
    return -value if text.startswith(b"-") else value


def _xattrs(extended: Mapping[bytes, bytes]) -> Mapping[bytes, bytes]:
    """The extended attributes; the character set of names must be one that leaves bytes alone."""
    if extended.get(b"hdrcharset", _CHARACTER_SETS[0]) not in _CHARACTER_SETS:
        raise ImageError("it has an extended header of an unknown character set")
    return {key[len(_XATTR) :]: value for key, value in extended.items() if key.startswith(_XATTR)}
