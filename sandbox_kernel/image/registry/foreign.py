"""Requests to hosts that a registry chose: where it redirects to, and who makes its tokens.

They carry no credentials but those that `authentication` allows, go over connections of their own,
never from https to http, and never to this machine, to link-local addresses, or to an address
nearer than the registry's: a registry on the internet can't have us ask something in our own net.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

import httpx

from sandbox_kernel.errors import RegistryError
from sandbox_kernel.image.registry.authentication import origin_of
from sandbox_kernel.image.registry.connections import Cancellation
from sandbox_kernel.image.registry.endpoints import (
    PORTS,
    Address,
    Origin,
    distance,
    is_loopback,
    literal,
)
from sandbox_kernel.image.registry.transport import Transport, trust

_FAR = 3


class Reach:
    """How far the registry's own addresses are, learnt as they are connected to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._nearest = _FAR

    def admit_registry(self, host: str, address: Address) -> None:
        """The user named this host; yet a name must not lead to a link-local address."""
        far = distance(address)
        if far == 0 and literal(host) is None:
            raise _refused(host, f"the name leads to the link-local address {address}")
        with self._lock:
            self._nearest = min(self._nearest, max(far, 1))

    def admit_foreign(self, host: str, address: Address) -> None:
        """A registry named this host."""
        if distance(address) <= 1:
            raise _refused(host, "it is an address of this machine or its link")
        if distance(address) < self._nearest:
            raise _refused(host, "it is an address of a private net, and the registry's is not")


class Foreign:
    """Sends requests to foreign hosts."""

    def __init__(
        self, reach: Reach, cancellation: Cancellation, certificates: Iterable[str]
    ) -> None:
        self._reach = reach
        self._cancellation = cancellation
        self._certificates = tuple(certificates)
        self._lock = threading.Lock()
        self._transport: Transport | None = None  # most registries lead nowhere else

    def send(self, request: httpx.Request) -> httpx.Response:
        """One request, not redirected. Raises RegistryError for a host that may not be asked."""
        host = request.url.host
        address = literal(host)
        if is_loopback(host):
            raise _refused(host, "it is this machine")
        if address is not None:  # a proxy would connect without looking
            self._reach.admit_foreign(host, address)
        with self._lock:
            if self._transport is None:
                self._transport = Transport(
                    admit=self._reach.admit_foreign,
                    cancellation=self._cancellation,
                    trust=trust(self._certificates),
                    connections=16,
                )
        return self._transport.handle_request(request)

    def close(self) -> None:
        """Closes every connection."""
        if self._transport is not None:
            self._transport.close()


def redirected(answer: httpx.Response, url: httpx.URL, home: Origin) -> httpx.URL:
    """Where an answer sends a request for `url`. Raises RegistryError unless it may."""
    location = answer.headers.get("location", "")
    try:
        target = url.join(location)
    except (httpx.InvalidURL, TypeError, ValueError):
        raise _refused(location, "it is no address") from None
    if not location or target.scheme not in PORTS or not target.host:
        raise _refused(location, "it is no address of https or http")
    if target.userinfo:
        raise _refused(target.host, "the address holds a password")
    if target.scheme != "https" and (url.scheme == "https" or origin_of(target) != home):
        raise _refused(str(target.copy_with(query=None)), "it is plain http")
    return target


def _refused(what: str, why: str) -> RegistryError:
    return RegistryError(
        "follow the registry to", what, why, "its keeper has to mend that, or take a mirror"
    )
