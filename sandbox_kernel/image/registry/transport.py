"""How httpx sends a request: through httpcore with our connections, trust in certificates, proxies.

httpx's own transport can't be given connections, and reads the environment for more than proxies.
"""

from __future__ import annotations

import contextlib
import functools
import os
import ssl
import threading
import urllib.request
from collections.abc import Iterable, Iterator

import httpcore
import httpx

from sandbox_kernel import settings_files
from sandbox_kernel.errors import InvalidOption, shown
from sandbox_kernel.image.registry.connections import Admit, Backend, Cancellation
from sandbox_kernel.image.registry.endpoints import is_loopback
from sandbox_kernel.image.registry.failures import TRANSIENT

MOST_CERTIFICATES = 4 << 20
_KEPT_SECONDS = 30.0


class Transport(httpx.BaseTransport):
    """Requests to one or many hosts over connections that stay open for the next request."""

    def __init__(
        self,
        *,
        admit: Admit,
        cancellation: Cancellation,
        trust: ssl.SSLContext,
        connections: int,
        proxies: bool = True,
    ) -> None:
        """`admit`: asked before each connection that is not to a proxy. `proxies`: take those of
        the environment."""
        self._proxies = proxies
        self._backend = Backend(admit, cancellation)
        self._trust = trust
        self._connections = connections
        self._for_proxies = Backend(lambda host, address: None, cancellation)
        self._lock = threading.Lock()
        self._pools: dict[str | None, httpcore.ConnectionPool] = {}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Raises httpcore's exceptions, not httpx's: one family is enough to catch."""
        url = request.url
        if not isinstance(request.stream, httpx.SyncByteStream):
            raise TypeError("a request of httpx.AsyncClient")
        asked = httpcore.Request(
            method=request.method,
            url=httpcore.URL(
                scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
            ),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        proxy = proxy_of(url.scheme, url.host) if self._proxies else None
        with _told_of(proxy):
            answer = self._pool(proxy).handle_request(asked)
        if not isinstance(answer.stream, Iterable):
            raise TypeError("an answer of httpcore.AsyncConnectionPool")
        return httpx.Response(
            answer.status,
            headers=answer.headers,
            stream=_Body(answer.stream, proxy),
            extensions=answer.extensions,
        )

    def close(self) -> None:
        """Closes every connection."""
        for pool in self._pools.values():
            pool.close()

    def _pool(self, proxy: str | None) -> httpcore.ConnectionPool:
        with self._lock:
            if proxy not in self._pools:
                self._pools[proxy] = self._made(proxy)
            return self._pools[proxy]

    def _made(self, proxy: str | None) -> httpcore.ConnectionPool:
        if proxy is not None:  # which address it has is the word of the user's environment
            return _through(proxy, self._trust, self._connections, self._for_proxies)
        return httpcore.ConnectionPool(
            ssl_context=self._trust,
            max_connections=self._connections,
            keepalive_expiry=_KEPT_SECONDS,
            network_backend=self._backend,
        )


class _Body(httpx.SyncByteStream):
    """The body of an answer; closing it gives the connection back, or ends it."""

    def __init__(self, stream: Iterable[bytes], proxy: str | None) -> None:
        self._stream = stream
        self._proxy = proxy

    def __iter__(self) -> Iterator[bytes]:
        with _told_of(self._proxy):
            yield from self._stream

    def close(self) -> None:
        close = getattr(self._stream, "close", None)
        if close is not None:
            close()


@contextlib.contextmanager
def _told_of(proxy: str | None) -> Iterator[None]:
    """A failure on the way through a proxy has a note of it, without the password."""
    try:
        yield
    except TRANSIENT as error:
        if proxy is not None:
            url = httpx.URL(proxy)
            where = f"{url.scheme}://{url.netloc.decode('ascii', 'replace')}"
            error.add_note(f"through the proxy `{shown(where)}`")
        raise


def proxy_of(scheme: str, host: str) -> str | None:
    """The proxy that the environment names for a host; never one for loopback."""
    if is_loopback(host) or urllib.request.proxy_bypass(host):
        return None
    found = urllib.request.getproxies().get(scheme)
    return found if found and "://" in found else f"http://{found}" if found else None


def _through(
    proxy: str, trust: ssl.SSLContext, connections: int, backend: Backend
) -> httpcore.ConnectionPool:
    url = httpx.URL(proxy)
    if url.scheme not in ("http", "https") or not url.host:
        raise InvalidOption("HTTPS_PROXY", proxy, "http://HOST:PORT")
    who = (url.username, url.password) if url.username else None
    return httpcore.HTTPProxy(
        httpcore.URL(scheme=url.scheme, host=url.host, port=url.port, target="/"),
        proxy_auth=who,
        ssl_context=trust,
        proxy_ssl_context=trust if url.scheme == "https" else None,
        max_connections=connections,
        keepalive_expiry=_KEPT_SECONDS,
        network_backend=backend,
    )


def trust(files: Iterable[str]) -> ssl.SSLContext:
    """The system's certificates and those of the files; TLS 1.2 or later, names are checked.

    Reading those of the system takes longer than a request on loopback, so what was read is kept,
    as long as the files do not change. Raises InvalidOption for a file that is none.
    """
    system = ssl.get_default_verify_paths()
    places = (system.cafile, system.capath)
    return _trust(
        tuple((path, settings_files.signature(path)) for path in files),
        tuple((path, path and settings_files.signature(path)) for path in places),
    )


@functools.lru_cache(maxsize=16)
def _trust(
    files: tuple[tuple[str, object], ...], system: tuple[tuple[str | None, object], ...]
) -> ssl.SSLContext:
    """`system` says whether the system's own have changed; OpenSSL knows itself where they are."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Python 3.13 asks for extensions of RFC 5280 that authorities of one's own often lack; docker,
    # podman and older Pythons don't. Who signed it, until when and for which name is looked at.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if not context.get_ca_certs() and not _has_system_folder():
        import certifi

        context.load_verify_locations(certifi.where())
    for path, _ in files:
        try:
            with open(path, "rb") as file:
                text = file.read(MOST_CERTIFICATES).decode("ascii")
            context.load_verify_locations(cadata=text)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            why = getattr(error, "strerror", None) or str(error)
            raise InvalidOption("ca_files", path, f"a readable file in PEM: {why}") from None
    return context


def _has_system_folder() -> bool:
    """Certificates of a folder are loaded when they are needed, so that none are counted yet."""
    folder = ssl.get_default_verify_paths().capath
    with contextlib.suppress(OSError):
        return folder is not None and any(os.scandir(folder))
    return False
