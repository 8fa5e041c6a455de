"""Addresses that ADD names, fetched from outside of every container, under rules of their own.

Only `http` and `https`, only addresses of the public network (so no service of this machine, its
network or its cloud can be asked: corpus E 64), each redirect judged anew, sizes and times bounded,
and none by way of a proxy, which would connect to what nobody has judged.
What the user allows by HOST:PORT may be private. No program is started: an address of a git
repository is refused, whatever options hide in it.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import tempfile
from email.utils import parsedate_to_datetime
from urllib.parse import unquote, urljoin, urlsplit

import httpx
from msgspec import Struct

from sandbox_kernel.building.work import Work
from sandbox_kernel.errors import InvalidOption
from sandbox_kernel.image.registry import configuration, failures
from sandbox_kernel.image.registry.connections import Admit, Cancellation, Cancelled, deadline
from sandbox_kernel.image.registry.endpoints import Address
from sandbox_kernel.image.registry.transport import Transport, trust
from sandbox_kernel.linux import writing

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


def fetch(work: Work, address: str, checksum: str | None) -> Fetched:
    """The file at an address. Raises InvalidOption when it may not be fetched or is another one,
    Killed when the build is stopped meanwhile."""
    if checksum is not None and not _CHECKSUM.match(checksum):
        raise InvalidOption("--checksum", checksum, "sha256: and 64 hexadecimal digits")
    name = posixpath.basename(unquote(urlsplit(address).path))
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise InvalidOption("ADD", address, "an address that ends with the name of a file")
    file = os.open(tempfile.gettempdir(), os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    cancellation = Cancellation()
    take_back = work.on_stop(cancellation.cancel)
    try:
        with deadline(SECONDS):
            digest, mtime = _fetch(address, file, work.request.allow_hosts, cancellation)
        if checksum is not None and checksum != f"sha256:{digest}":
            raise InvalidOption(
                "--checksum", checksum, f"that of the file at {address}, which is sha256:{digest}"
            )
    except BaseException as error:
        os.close(file)
        if isinstance(error, Cancelled):
            work.check()
        raise
    finally:
        take_back()
    return Fetched(file, name, digest, mtime)


def _fetch(
    address: str, file: int, allow: frozenset[str], cancellation: Cancellation
) -> tuple[str, int]:
    for _ in range(MOST_REDIRECTS + 1):
        admit = _judge(address, allow)
        try:
            found = _asked(address, file, admit, cancellation)
        except (*failures.TRANSIENT, httpx.HTTPError, httpx.InvalidURL) as error:
            why = f"{failures.reason(error)}: {failures.remedy(error)}"
            raise InvalidOption("ADD", address, f"a host that gives the file: {why}") from None
        if not isinstance(found, str):
            return found
        address = found
    raise InvalidOption("ADD", address, f"an address with at most {MOST_REDIRECTS} redirects")


def _asked(
    address: str, file: int, admit: Admit, cancellation: Cancellation
) -> str | tuple[str, int]:
    """Digest and time of what an address gave, or the address that it leads to."""
    trusted = trust(configuration.load().ca_files)
    transport = Transport(
        admit=admit, cancellation=cancellation, trust=trusted, connections=1, proxies=False
    )
    with (
        httpx.Client(transport=transport, timeout=STALLED_SECONDS) as client,
        client.stream("GET", address) as answer,
    ):
        if answer.has_redirect_location:
            return urljoin(address, answer.headers["location"])
        if answer.status_code != 200:
            raise InvalidOption(
                "ADD", address, f"an address that gives a file, not status {answer.status_code}"
            )
        hashed, size = hashlib.sha256(), 0
        for data in answer.iter_bytes():
            size += len(data)
            if size > MOST_BYTES:
                raise InvalidOption("ADD", address, f"a file of at most {MOST_BYTES >> 30} GiB")
            hashed.update(data)
            writing.whole(file, data)
        return hashed.hexdigest(), _modified(answer.headers.get("last-modified", ""))


def _judge(address: str, allow: frozenset[str]) -> Admit:
    """What is asked before each connection, of the very address that is connected to. Raises
    InvalidOption for what is not fetched wherever it leads."""
    parts = urlsplit(address)
    try:
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    except ValueError:
        port = 0
    if parts.scheme not in ("http", "https") or not parts.hostname or not port:
        raise InvalidOption(
            "ADD", address, "an http or https address; git repositories are not fetched: "
            "copy the files into the context"
        )  # fmt: skip
    if parts.path.endswith(".git") or "#" in address:
        raise InvalidOption("ADD", address, "a file; git repositories are not fetched")

    def admit(host: str, number: Address) -> None:
        if not number.is_global and not {host, f"{host}:{port}"} & allow:
            raise InvalidOption(
                "ADD",
                address,
                f"an address of the public network; `--allow {host}:{port}` lets it in",
            )

    return admit


def _modified(text: str) -> int:
    try:
        return int(parsedate_to_datetime(text).timestamp()) * 1_000_000_000
    except (ValueError, TypeError):
        return 0
