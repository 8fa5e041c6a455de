"""How a registry asks who we are, and what we tell: basic, and tokens of the distribution project.

Sources: RFC 7235 (challenges), distribution's "Token Authentication Specification". What a registry
says decides neither who gets a password nor what a token is for: the realm must be the registry's
own origin, or one that the user or our table names for it, and the scope is made by us. Flaws that
taught this: CVE-2020-15157 (containerd), and those of oras-go.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple
from urllib.parse import urlencode

import httpx

from sandbox_kernel.errors import RegistryError, shown
from sandbox_kernel.image.registry.configuration import Configuration
from sandbox_kernel.image.registry.credentials import Credentials
from sandbox_kernel.image.registry.endpoints import (
    PORTS,
    REALMS,
    Endpoint,
    Origin,
    literal,
    split,
)

CLIENT_ID = "sandbox-kernel"
LONGEST_CHALLENGE = 8192
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - a word of HTTP's grammar
_PARAMETER = re.compile(rf'\s*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))\s*(?:,|$)')
_SCHEME = re.compile(rf"[\s,]*({_TOKEN})(?:\s+|(?=,)|$)")
_BEARER = re.compile(r"[A-Za-z0-9\-._~+/]+=*")


class Challenge(NamedTuple):
    """One way that a registry offers: its scheme in lower case, and the parameters."""

    scheme: str
    parameters: Mapping[str, str]


def challenges(headers: Iterable[str]) -> list[Challenge]:
    """What the `WWW-Authenticate` headers of an answer offer; what can't be read is left out."""
    found = []
    for header in headers:
        rest = header[:LONGEST_CHALLENGE]
        while scheme := _SCHEME.match(rest):
            rest = rest[scheme.end() :]
            parameters: dict[str, str] = {}
            while parameter := _PARAMETER.match(rest):
                text = parameter[3] or re.sub(r"\\(.)", r"\1", parameter[2] or "")
                parameters.setdefault(parameter[1].lower(), text)
                rest = rest[parameter.end() :]
            found.append(Challenge(scheme[1].lower(), parameters))
    return found


def origin_of(url: httpx.URL) -> Origin:
    """Scheme, host and port of an address."""
    return Origin(url.scheme, url.host, url.port or PORTS.get(url.scheme, 0))


def realm(
    endpoint: Endpoint, challenge: Challenge, configuration: Configuration, *, secret: bool
) -> httpx.URL:
    """Where to get a token. `secret`: a password goes there.

    Raises RegistryError unless it is the registry's own origin, or https to a named host that the
    user or our table allow; without a password, https to any named host.
    """
    text = challenge.parameters.get("realm", "")
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, TypeError, ValueError):
        raise _refused(endpoint, text, "it is no address") from None
    origin = origin_of(url)
    if url.userinfo or url.fragment or not url.host or url.scheme not in PORTS:
        raise _refused(endpoint, text, "it is no plain https address")
    if origin == endpoint.origin:
        return url
    if url.scheme != "https":
        raise _refused(endpoint, text, "it is plain http")
    if literal(url.host) is not None:
        raise _refused(endpoint, text, "it is a bare address on another host")
    if secret and not _may_have_password(endpoint, origin, configuration):
        raise RegistryError(
            "ask for a token",
            text,
            f"`{endpoint.registry}` wants its password sent to another host",
            f"if that is right, set `token_realms` = [`{endpoint.registry}={origin}`] under "
            "[registry] in your config.toml",
        )
    return url


def _may_have_password(endpoint: Endpoint, origin: Origin, configuration: Configuration) -> bool:
    if endpoint.origin.scheme != "https":
        return False
    for registry, authority in (*REALMS, *configuration.token_realms):
        host, port = split(authority)
        if registry == endpoint.registry and origin == Origin("https", host, port or 443):
            return True
    return False


def token_request(
    url: httpx.URL, challenge: Challenge, scopes: Iterable[str], credentials: Credentials | None
) -> httpx.Request:
    """The request for a token. The service is the registry's word, the scopes are ours."""
    service = challenge.parameters.get("service", "")[:LONGEST_CHALLENGE]
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    if credentials is not None and credentials.identity_token:
        form = {
            "grant_type": "refresh_token",
            "refresh_token": credentials.identity_token,
            "client_id": CLIENT_ID,
            "service": service,
            "scope": " ".join(scopes),
        }
        return httpx.Request("POST", url, data=form, headers=headers)
    ours = ("service", "scope", "account")
    asked = [pair for pair in url.params.multi_items() if pair[0] not in ours]
    if service:
        asked.append(("service", service))
    asked += [("scope", scope) for scope in scopes]
    if credentials is not None:
        headers["Authorization"] = credentials.basic()
        asked.append(("account", credentials.name))
    return httpx.Request("GET", url.copy_with(query=urlencode(asked).encode()), headers=headers)


def read_token(body: bytes, endpoint: Endpoint, longest: int) -> str:
    """The token of an answer. Raises RegistryError when there is none that a header can hold."""
    try:
        answer = json.loads(body)
        token = answer.get("token") or answer.get("access_token")
    except (ValueError, AttributeError, RecursionError):
        token = None
    if not isinstance(token, str) or not _BEARER.fullmatch(token) or len(token) > longest:
        raise RegistryError(
            "ask for a token", endpoint, f"the answer holds no token of at most {longest} bytes"
        )
    return token


def _refused(endpoint: Endpoint, text: str, why: str) -> RegistryError:
    return RegistryError(
        "ask for a token",
        text,
        f"`{endpoint.registry}` sends us there, and {shown(why)}",
        "its keeper has to mend that",
    )
