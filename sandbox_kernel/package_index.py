"""The package index of the caller: where it is, and what a container is told of it.

As uv(1) and pip(1) take it from the environment: the default index and further ones, as URLs. A
password in a URL is the caller's own, and no code in a container gets it.

>>> from sandbox_kernel import package_index
>>> [str(each) for each in package_index.entries({})]
['pypi.org:443', 'files.pythonhosted.org:443']
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from .allowing import Allowed, entry
from .errors import InvalidOption

if TYPE_CHECKING:
    from urllib.parse import SplitResult

DEFAULTS = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL")
FURTHER = ("UV_INDEX", "UV_EXTRA_INDEX_URL", "PIP_EXTRA_INDEX_URL")
PUBLIC = ("pypi.org:443", "files.pythonhosted.org:443")
"""Of https://pypi.org/simple: the index, and the files that it links to."""
PORTS = {"http": 80, "https": 443}
OPTION = "--allow-from"


def entries(environment: Mapping[str, str]) -> tuple[Allowed, ...]:
    """The entries of an allow-list that let the indexes through. Raises InvalidOption."""
    found = [_entry(*each) for name in (*DEFAULTS, *FURTHER) for each in _urls(environment, name)]
    if not any(environment.get(name) for name in DEFAULTS):
        found = [*PUBLIC, *found]
    return tuple(entry(each, OPTION) for each in dict.fromkeys(found))


def variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The same variables for a container, without what is secret in them. Raises InvalidOption."""
    return {
        name: " ".join(_named(each, url) for _, each, url in found)
        for name in (*DEFAULTS, *FURTHER)
        if (found := list(_urls(environment, name)))
    }


def _urls(environment: Mapping[str, str], name: str) -> Iterator[tuple[str, str, SplitResult]]:
    """Of each URL in a variable: the variable, the name that it has in uv's form NAME=URL, itself.

    A folder of this machine is none: a container does not have it.
    """
    for word in environment.get(name, "").split():
        from urllib.parse import urlsplit  # with `ipaddress`: much for what is seldom needed

        named, equals, rest = word.partition("=")
        known = named if equals and "/" not in named else ""
        url = urlsplit(rest if known else word)
        if url.scheme in PORTS and url.hostname:
            yield name, known, url


def _entry(name: str, _: str, url: SplitResult) -> str:
    try:
        port = url.port or PORTS[url.scheme]
    except ValueError:
        raise InvalidOption(OPTION, "requirements", f"a port from 1 to 65535 in `{name}`") from None
    return f"{url.hostname}:{port}"


def _named(name: str, url: SplitResult) -> str:
    bare = url._replace(netloc=url.netloc.rpartition("@")[2]).geturl()
    return f"{name}={bare}" if name else bare
