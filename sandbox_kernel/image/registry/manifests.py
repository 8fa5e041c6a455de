"""From a tag or digest to the manifest of one platform's image, each checked by its digest.

Source: distribution specification 1.1, "Pulling manifests"; image specification, image-index.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from sandbox_kernel.errors import RegistryError, shown
from sandbox_kernel.image import digest as digests
from sandbox_kernel.image import documents
from sandbox_kernel.image.digest import Digest
from sandbox_kernel.image.documents import Descriptor, ImageConfig, Index, Manifest
from sandbox_kernel.image.reference import Registry
from sandbox_kernel.image.registry.client import Client
from sandbox_kernel.image.registry.configuration import Wanted

ACCEPT = ", ".join((*documents.MANIFESTS, *documents.INDEXES))
# What a machine of one variant runs beside its own, best first.
COMPATIBLE = {
    ("arm64", "v8"): ("v8", ""),
    ("arm", "v7"): ("v7", "v6", "v5", ""),
    ("arm", "v6"): ("v6", "v5", ""),
    ("amd64", ""): ("", "v1"),
}
_MOST_NAMED = 12


@dataclass(frozen=True)
class Found:
    """One image: its documents as bytes and as data. `index`: of the index that named it."""

    descriptor: Descriptor
    manifest: Manifest
    raw_manifest: bytes
    config: ImageConfig
    raw_config: bytes
    index: Digest | None = None


def find(client: Client, reference: Registry, wanted: Wanted) -> Found:
    """The image of a reference for a platform. Raises RegistryError, ImageError."""
    raw, document, digest = fetch(client, reference.digest or reference.tag or "latest")
    index = None
    if isinstance(document, Index):
        index = digest
        chosen = choose(document, wanted, str(reference))
        raw, document, digest = fetch(client, chosen.digest, chosen.size)
        if isinstance(document, Index):
            raise RegistryError(
                "choose an image of", reference, "its index leads to another index", "name one"
            )
    kind = document.config.media_type
    if kind not in documents.CONFIGS:
        raise RegistryError(
            "pull", reference, f"it is no image but an artifact, of type `{shown(kind)}`",
            "name an image; `sandbox-kernel referrers` lists what is beside it",
        )  # fmt: skip
    raw_config = _config(client, document.config)
    config = documents.decode_config(raw_config)
    documents.check_layers(document, config)
    descriptor = Descriptor(media_type=document.media_type, digest=digest, size=len(raw))
    return Found(descriptor, document, raw, config, raw_config, index)


def fetch(
    client: Client, tag_or_digest: str, size: int | None = None
) -> tuple[bytes, Manifest | Index, Digest]:
    """A manifest or index, and its digest. Raises RegistryError when it has another digest."""
    most = client.limits.document
    what = f"fetch manifest {tag_or_digest}"
    raw, headers = client.document(
        f"manifests/{tag_or_digest}", most=most, what=what, headers={"Accept": ACCEPT}
    )
    asked = digests.parse(tag_or_digest) if ":" in tag_or_digest else None
    digest = _digest_of(raw, asked)
    said = headers.get("docker-content-digest")
    if asked is not None and digest != asked:
        raise _other(what, client, f"what came has the digest {digest}")
    if size is not None and len(raw) != size:
        raise _other(what, client, f"it has {len(raw)} bytes, and {size} by its index")
    if said and said.startswith("sha256:") and said != digests.of(raw):
        raise _other(what, client, f"the registry calls it {shown(said)}, but it is {digest}")
    return raw, documents.decode(raw, headers.get("content-type")), digest


def choose(index: Index, wanted: Wanted, name: str) -> Descriptor:
    """The best manifest of an index for a platform. Raises RegistryError that lists the others."""
    variants = COMPATIBLE.get((wanted.architecture, wanted.variant), (wanted.variant, ""))
    for variant in variants:
        for each in index.manifests:
            platform = each.platform
            if (
                platform is not None
                and (platform.os, platform.architecture) == (wanted.os, wanted.architecture)
                and (platform.variant or "") == variant
            ):
                return each
    if len(index.manifests) == 1 and index.manifests[0].platform is None:
        return index.manifests[0]
    there = [str(each.platform) for each in index.manifests if each.platform]
    there = [shown(text) for text in there if not text.startswith("unknown")]
    listed = ", ".join(there[:_MOST_NAMED]) or "none"
    raise RegistryError(
        "choose an image of", name, f"it has none for {wanted}, only for {listed}", "name one by "
        "`--platform`"
    )  # fmt: skip


def _config(client: Client, descriptor: Descriptor) -> bytes:
    what = f"fetch configuration {descriptor.digest}"
    if descriptor.size > client.limits.config:
        raise _other(what, client, f"it has {descriptor.size} bytes")
    raw, _ = client.document(f"blobs/{descriptor.digest}", most=descriptor.size, what=what)
    if _digest_of(raw, descriptor.digest) != descriptor.digest:
        raise _other(what, client, f"what came has the digest {digests.of(raw)}")
    return raw


def _digest_of(raw: bytes, like: Digest | None) -> Digest:
    hashed = digests.hasher(like)
    hashed.update(raw)
    return digests.from_hasher(hashed)


def _other(what: str, client: Client, why: str) -> RegistryError:
    return RegistryError(what, client.endpoint, why, "try again, or another registry")
