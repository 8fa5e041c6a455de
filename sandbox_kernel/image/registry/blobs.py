"""A blob of a registry as a stream of bytes, which goes on where it broke off.

Source: distribution specification 1.1, "Pulling blobs"; RFC 9110, section 14 (ranges).
"""

from __future__ import annotations

import re
import time
from collections.abc import Generator, Iterator

import httpx

from sandbox_kernel.errors import RegistryError
from sandbox_kernel.image.digest import Digest
from sandbox_kernel.image.registry.client import Client

ENOUGH = 1 << 20
"""Bytes after which a break counts as the first one: the registry does give something."""
_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")


def chunks(client: Client, digest: Digest, size: int, start: int = 0) -> Generator[bytes]:
    """The bytes of a blob from `start` to its end at `size`; after a break the rest is asked for.

    Whether they have that digest is not looked at here. Raises RegistryError when the registry
    gives fewer or more, is too slow, or breaks off too often without giving anything.
    """
    what = f"fetch layer {digest}"
    at, broken = start, 0
    while at < size:  # an earlier try may have ended after the last byte
        before = at
        headers = {"Range": f"bytes={at}-"} if at else {}
        try:
            with client.open(
                "GET", f"blobs/{digest}", what=what, accept=(200, 206), headers=headers
            ) as answer:
                skip = _skipped(answer, at, size, what, client)
                for chunk in _watched(answer, client, what):
                    piece = chunk
                    if skip:
                        piece, skip = chunk[skip:], max(0, skip - len(chunk))
                    at += len(piece)
                    if at > size:
                        raise _wrong(what, client, f"more than the {size} bytes of its description")
                    if piece:
                        yield piece
            if at == size:
                return
            problem = _wrong(what, client, f"it ended after {at} of {size} bytes")
        except RegistryError as error:
            if not error.passes:
                raise
            problem = error
        broken = 1 if at - before >= ENOUGH else broken + 1
        if broken >= client.limits.tries:
            raise problem
        client.cancellation.wait(client.pause(broken))


def _skipped(answer: httpx.Response, at: int, size: int, what: str, client: Client) -> int:
    """How many bytes of the body are there already: some servers know no ranges."""
    length = answer.headers.get("content-length", "")
    begins = 0
    if answer.status_code == 206:
        found = _RANGE.fullmatch(answer.headers.get("content-range", ""))
        if found is None or int(found[1]) != at or found[3] not in ("*", str(size)):
            raise _wrong(
                what, client, f"asked for what follows byte {at}, another part came", passes=False
            )
        begins = at
    if length.isascii() and length.isdigit() and int(length) != size - begins:
        why = f"it has {int(length) + begins} bytes, and {size} by its description"
        raise _wrong(what, client, why, passes=False)
    return at - begins


def _watched(answer: httpx.Response, client: Client, what: str) -> Iterator[bytes]:
    """The pieces as they come, as long as they come fast enough."""
    limits = client.limits
    begun, came = time.monotonic(), 0
    for chunk in answer.iter_raw():
        came += len(chunk)
        now = time.monotonic()
        if now - begun > limits.rate_seconds:
            if came < limits.least_rate * limits.rate_seconds:
                raise _wrong(what, client, f"less than {limits.least_rate} bytes a second came")
            begun, came = now, 0
        yield chunk


def _wrong(what: str, client: Client, why: str, *, passes: bool = True) -> RegistryError:
    problem = RegistryError(what, client.endpoint, why, "try again, or another registry")
    problem.passes = passes
    return problem
