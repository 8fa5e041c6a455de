"""What else a registry says: the tags of a repository, and what refers to an image.

Source: distribution specification 1.1, "Listing Tags" and "Listing Referrers".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx

from sandbox_kernel.errors import RegistryError
from sandbox_kernel.image import documents
from sandbox_kernel.image.digest import Digest
from sandbox_kernel.image.documents import Descriptor
from sandbox_kernel.image.reference import TAG, Registry
from sandbox_kernel.image.registry import authentication, manifests
from sandbox_kernel.image.registry.client import Client
from sandbox_kernel.image.registry.configuration import Configuration, load
from sandbox_kernel.image.registry.connections import Cancellation
from sandbox_kernel.image.registry.endpoints import upstream

_NEXT = re.compile(r'<([^<>]{1,4096})>\s*;[^,]*rel="?next"?')


def tags(reference: Registry, *, configuration: Configuration | None = None) -> tuple[str, ...]:
    """The tags of a repository, as the registry orders them. Raises RegistryError."""
    settings = configuration if configuration is not None else load()
    found: list[str] = []
    with Client(upstream(reference, settings), settings, Cancellation()) as client:
        for page in _pages(client, "tags/list", f"list tags of {reference.name}"):
            listed = page.get("tags") or []
            found += [tag for tag in listed if isinstance(tag, str) and TAG.fullmatch(tag)]
    return tuple(dict.fromkeys(found))


def referrers(
    reference: Registry,
    *,
    artifact_type: str | None = None,
    configuration: Configuration | None = None,
) -> tuple[Descriptor, ...]:
    """Signatures, lists of parts and the like that refer to an image, by their manifests.

    A registry that has no such list is asked for the tag that stands in for it. Raises
    RegistryError.
    """
    settings = configuration if configuration is not None else load()
    with Client(upstream(reference, settings), settings, Cancellation()) as client:
        _, _, digest = manifests.fetch(client, reference.digest or reference.tag or "latest")
        found = tuple(_referrers(client, digest, artifact_type))
    if artifact_type is None:
        return found
    return tuple(each for each in found if each.artifact_type == artifact_type)


def _referrers(client: Client, digest: Digest, artifact_type: str | None) -> Iterator[Descriptor]:
    path = f"referrers/{digest}"
    if artifact_type is not None:
        path += f"?artifactType={quote(artifact_type, safe='')}"
    try:
        for page in _pages(client, path, f"list what refers to {digest}"):
            yield from documents.decode_index(json.dumps(page).encode()).manifests
    except RegistryError as error:
        if error.status != 404:
            raise
        yield from _by_tag(client, digest)


def _by_tag(client: Client, digest: Digest) -> Iterator[Descriptor]:
    """Specification, "Referrers Tag Schema"."""
    try:
        _, document, _ = manifests.fetch(client, digest.replace(":", "-"))
    except RegistryError as error:
        if error.status != 404:
            raise
        return
    if isinstance(document, documents.Index):
        yield from document.manifests


def _pages(client: Client, path: str, what: str) -> Iterator[dict[str, Any]]:
    """Each page of a list, by the `Link` that leads to the next; their number is bounded."""
    seen = set()
    for _ in range(client.limits.pages):
        seen.add(path)
        raw, headers = client.document(path, most=client.limits.answer, what=what)
        try:
            page = json.loads(raw)
        except (ValueError, RecursionError):
            page = None
        if not isinstance(page, dict):
            raise RegistryError(what, client.endpoint, "the answer is no JSON object")
        yield page
        following = _NEXT.search(headers.get("link", ""))
        if following is None:
            return
        path = _same_origin(client, path, following[1], what)
        if path in seen:
            raise RegistryError(what, client.endpoint, "its pages go round in a circle")
    raise RegistryError(what, client.endpoint, f"it has more than {client.limits.pages} pages")


def _same_origin(client: Client, path: str, following: str, what: str) -> str:
    url = httpx.URL(client.address(path)).join(following)
    if authentication.origin_of(url) != client.endpoint.origin:
        raise RegistryError(what, url, "the next page is on another origin")
    return str(url)
