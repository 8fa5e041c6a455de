"""From the bytes of a layer's blob to the plain bytes of its tar archive, in bounded memory.

A blob may be several gzip members or zstd frames one after the other (eStargz and zstd:chunked are
made so); all of it must be of the one kind that was said, and nothing may follow. Sources: RFC 1952
section 2.2, RFC 8878 section 3.1.
"""

from __future__ import annotations

import hashlib
import queue
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from typing import Literal, Protocol, cast

from isal import igzip_lib

from sandbox_kernel.errors import ImageError
from sandbox_kernel.image.layers.limits import Limits

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Compression = Literal["none", "gzip", "zstd"]

PIECE = 256 * 1024
_QUEUED = 8

_FHCRC, _FEXTRA, _FNAME, _FCOMMENT = 2, 4, 8, 16
_LONGEST_HEADER = 1 << 17
_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
# RFC 8878 section 3.1.2: 0x184D2A50 to 0x184D2A5F, little endian.
_SKIPPABLE = b"\x2a\x4d\x18"
# The stubs of isal call its exception an object of one.
_DAMAGE = (cast("type[Exception]", igzip_lib.error), zstd.ZstdError, EOFError)
_NAMES = {"none": "a plain tar archive", "gzip": "gzip", "zstd": "zstd"}


class _Decompressor(Protocol):
    """What igzip_lib's and zstd's decompressors have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


def kind(start: bytes) -> Compression:
    """What the first bytes of a blob say it is; what is neither gzip nor zstd is taken as plain."""
    if start.startswith(_GZIP_MAGIC):
        return "gzip"
    if start.startswith(_ZSTD_MAGIC) or (start[1:4] == _SKIPPABLE and start[0] >> 4 == 5):
        return "zstd"
    return "none"


def plain(read: Callable[[], bytes], said: Compression, limits: Limits) -> Iterator[bytes]:
    """The plain bytes, in pieces of PIECE at most. `read` gives the next bytes, b"" at the end.

    Raises ImageError: another kind than `said`, damaged, cut off, followed by something else, or
    more than the limits allow.
    """
    count = 0

    def counted() -> bytes:
        nonlocal count
        data = read()
        count += len(data)
        return data

    produced = 0
    for piece in _streams(counted, said, limits):
        produced += len(piece)
        if produced > limits.plain:
            raise ImageError(f"it unpacks to more than {limits.plain} bytes")
        if produced > limits.ratio_from and produced > limits.ratio * count:
            raise ImageError(
                f"it unpacks to more than {limits.ratio} times its size: it looks like a bomb"
            )
        yield piece


def _streams(read: Callable[[], bytes], said: Compression, limits: Limits) -> Iterator[bytes]:
    data = _at_least(read, b"", 4)
    found = kind(data)
    if found != said:
        raise ImageError(f"it is said to be {_NAMES[said]}, but is {_NAMES[found]}")
    if said == "none":
        while data:
            yield data
            data = read()
        return
    empty = 0
    while data:
        if kind(data) != said:
            raise ImageError(f"something follows the end of its {said} data")
        size = 0
        stream, data = _begin(said, read, data, limits)
        while True:
            try:
                piece = stream.decompress(data, PIECE)
            except _DAMAGE as error:
                raise ImageError(f"its {said} data is damaged: {error}") from error
            data = b""
            if piece:
                size += len(piece)
                yield piece
            if stream.eof:
                break
            if stream.needs_input:
                data = read()
                if not data:
                    raise ImageError(f"its {said} data is cut off")
        empty = 0 if size else empty + 1
        if empty > limits.empty_streams:
            raise ImageError(f"more than {limits.empty_streams} empty {said} streams follow")
        data = _at_least(read, stream.unused_data, 4)


def _begin(
    said: Compression, read: Callable[[], bytes], data: bytes, limits: Limits
) -> tuple[_Decompressor, bytes]:
    """A decompressor for one stream, and the input that it is to begin with."""
    if said == "gzip":
        # Without the header, which ISA-L misreads when it comes in pieces; its end is verified.
        new = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP_NO_HDR_VER)
        return new, _after_gzip_header(read, data)
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: limits.window}
    return zstd.ZstdDecompressor(options=options), data


def _after_gzip_header(read: Callable[[], bytes], data: bytes) -> bytes:
    """What follows the header of a gzip member. RFC 1952, section 2.3. Raises ImageError."""
    data = _at_least(read, data, 10)
    flags = data[3] if len(data) >= 10 else 0xFF
    if data[2:3] != b"\x08" or flags & 0xE0:
        raise ImageError("its gzip data has a header that is not as it must be")
    end = 10
    if flags & _FEXTRA:
        data = _at_least(read, data, end + 2)
        end += 2 + int.from_bytes(data[end : end + 2], "little")
    for flag in (_FNAME, _FCOMMENT):
        while flags & flag:
            zero = data.find(b"\0", end)
            if zero >= 0:
                end = zero + 1
                break
            more = read()
            if not more or len(data) > _LONGEST_HEADER:
                raise ImageError("its gzip data has a header without an end")
            data += more
    if flags & _FHCRC:
        data = _at_least(read, data, end + 2)
        if int.from_bytes(data[end : end + 2], "little") != zlib.crc32(data[:end]) & 0xFFFF:
            raise ImageError("its gzip data is damaged: its header has a wrong checksum")
        end += 2
    data = _at_least(read, data, end)
    if len(data) < end:
        raise ImageError("its gzip data is cut off")
    return data[end:]


def _at_least(read: Callable[[], bytes], data: bytes, count: int) -> bytes:
    """More of the input, until there are `count` bytes or the end."""
    while len(data) < count:
        more = read()
        if not more:
            break
        data += more
    return data


class Plain:
    """Decompresses and hashes in a thread of its own, ahead of whoever reads; both let go of the
    interpreter's lock while they are at it.

    `next` gives the next piece, b"" at the end; then `diff_id` and `size` hold of the whole.
    """

    def __init__(self, read: Callable[[], bytes], said: Compression, limits: Limits) -> None:
        self._pieces: queue.Queue[bytes | BaseException] = queue.Queue(_QUEUED)
        self._hash = hashlib.sha256()
        self.size = 0
        self._ended = False
        threading.Thread(target=self._work, args=(read, said, limits), daemon=True).start()

    def next(self) -> bytes:
        """Raises what `plain` raises."""
        if self._ended:
            return b""
        piece = self._pieces.get()
        if isinstance(piece, BaseException):
            raise piece
        self._ended = not piece
        return piece

    @property
    def diff_id(self) -> str:
        """The digest of the plain bytes; only after the end was read."""
        assert self._ended
        return f"sha256:{self._hash.hexdigest()}"

    def _work(self, read: Callable[[], bytes], said: Compression, limits: Limits) -> None:
        try:
            for piece in plain(read, said, limits):
                self._hash.update(piece)
                self.size += len(piece)
                self._pieces.put(piece)
            self._pieces.put(b"")
        except BaseException as error:
            self._pieces.put(error)
