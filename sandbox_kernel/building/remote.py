"""Addresses that ADD names, fetched from outside of every container, under rules of their own.

Only `http` and `https`, only addresses of the public network (so no service of this machine, its
network or its cloud can be asked: corpus E 64), each redirect judged anew, sizes and times bounded.
What the user allows by HOST:PORT may be private. No program is started: an address of a git
repository is refused, whatever options hide in it.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import posixpath
import re
import socket
import tempfile
import time
from email.utils import parsedate_to_datetime
from urllib.parse import unquote, urljoin, urlsplit

from msgspec import Struct

from sandbox_kernel.errors import InvalidOption

MOST_BYTES = 4 << 30
MOST_REDIRECTS = 5
SECONDS = 600.0
STALLED_SECONDS = 30.0
_CHECKSUM = re.compile(r"sha256:[0-9a-f]{64}$")


class Fetched(Struct, frozen=True):
    """A file without a name, and the name that the address gives it. `mtime` in nanoseconds."""

    file: int
    name: str
    digest: str
    mtime: int


def fetch(address: str, checksum: str | None, *, allow: frozenset[str]) -> Fetched:
    """The file at an address. Raises InvalidOption when it may not be fetched or is another one."""
    if checksum is not None and not _CHECKSUM.match(checksum):
        raise InvalidOption("--checksum", checksum, "sha256: and 64 hexadecimal digits")
    name = posixpath.basename(unquote(urlsplit(address).path))
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise InvalidOption("ADD", address, "an address that ends with the name of a file")
    file = os.open(tempfile.gettempdir(), os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        digest, mtime = _fetch(address, file, allow)
        if checksum is not None and checksum != f"sha256:{digest}":
            raise InvalidOption(
                "--checksum", checksum, f"that of the file at {address}, which is sha256:{digest}"
            )
    except BaseException:
        os.close(file)
        raise
    return Fetched(file, name, digest, mtime)


def _fetch(address: str, file: int, allow: frozenset[str]) -> tuple[str, int]:
    import httpx

    from sandbox_kernel.image.registry import failures

    try:
        return _followed(address, file, allow)
    except httpx.HTTPError as error:
        cause = error.__cause__  # httpcore's, which `failures` puts in words
        why = failures.reason(cause if isinstance(cause, Exception) else error)
        raise InvalidOption("ADD", address, f"a host that gives the file: {why}") from None


def _followed(address: str, file: int, allow: frozenset[str]) -> tuple[str, int]:
    import httpx

    deadline = time.monotonic() + SECONDS
    for _ in range(MOST_REDIRECTS + 1):
        target, headers, extensions = _judged(address, allow)
        with (
            httpx.Client(timeout=STALLED_SECONDS, trust_env=False) as client,
            client.stream("GET", target, headers=headers, extensions=extensions) as answer,
        ):
            if answer.is_redirect:
                address = urljoin(address, answer.headers["location"])
                continue
            if answer.status_code != 200:
                raise InvalidOption(
                    "ADD", address, f"an address that gives a file, not status {answer.status_code}"
                )
            hashed, size = hashlib.sha256(), 0
            for data in answer.iter_bytes():
                size += len(data)
                if size > MOST_BYTES or time.monotonic() > deadline:
                    what = (
                        f"a file of at most {MOST_BYTES >> 30} GiB that comes within {SECONDS:g} s"
                    )
                    raise InvalidOption("ADD", address, what)
                hashed.update(data)
                os.write(file, data)
            return hashed.hexdigest(), _modified(answer.headers.get("last-modified", ""))
    raise InvalidOption("ADD", address, f"an address with at most {MOST_REDIRECTS} redirects")


def _judged(address: str, allow: frozenset[str]) -> tuple[str, dict[str, str], dict[str, str]]:
    """Where to connect: an address of a number that was judged, so that no name can change it."""
    parts = urlsplit(address)
    try:
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    except ValueError:
        port = 0
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not host or not port:
        raise InvalidOption(
            "ADD", address, "an http or https address; git repositories are not fetched: "
            "copy the files into the context"
        )  # fmt: skip
    if parts.path.endswith(".git") or "#" in address:
        raise InvalidOption("ADD", address, "a file; git repositories are not fetched")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise InvalidOption("ADD", address, f"a host that is known: {error.strerror}") from None
    number = str(found[0][4][0])
    allowed = {host, f"{host}:{port}"} & allow
    if not allowed and any(not ipaddress.ip_address(each[4][0]).is_global for each in found):
        raise InvalidOption(
            "ADD", address, f"an address of the public network; `--allow {host}:{port}` lets it in"
        )
    shown = f"[{number}]" if ":" in number else number
    target = parts._replace(netloc=f"{shown}:{port}", fragment="").geturl()
    named = host if port in (80, 443) else f"{host}:{port}"
    return target, {"Host": named}, {"sni_hostname": host}


def _modified(text: str) -> int:
    try:
        return int(parsedate_to_datetime(text).timestamp()) * 1_000_000_000
    except (ValueError, TypeError):
        return 0
