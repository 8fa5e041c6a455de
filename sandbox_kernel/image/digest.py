"""Digests: the names of content by its hash, in their one allowed spelling.

Source: OCI image specification, descriptor.md, "Digests". Nothing else of it is taken: SHA-256 and
SHA-512 in lower case and of full length, so that a digest can be a part of a path or an address.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, NewType

from sandbox_kernel.errors import ImageError, shown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from hashlib import _Hash

Digest = NewType("Digest", str)

PATTERN = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")


def parse(text: object) -> Digest:
    """The digest that a text is. Raises ImageError for everything else."""
    if not isinstance(text, str) or not PATTERN.fullmatch(text):
        raise ImageError(
            f"read digest `{shown(text)}`: it is not `sha256:` and 64, or `sha512:` and 128, "
            "lower case hexadecimal digits: give the whole digest"
        )
    return Digest(text)


def of(data: bytes) -> Digest:
    """The SHA-256 digest of these bytes."""
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


def chain(diff_ids: Sequence[Digest]) -> Digest:
    """The name of a layer as it is over the layers below it, which are named first.

    Another one than the chain id of the specification where there is one layer alone: what stands
    on nothing is not what may stand on anything.
    """
    return of("\n".join(["over", *diff_ids]).encode())


def algorithm(digest: Digest) -> str:
    """`sha256` or `sha512`."""
    return digest.partition(":")[0]


def hexadecimal(digest: Digest) -> str:
    """The digits after the colon."""
    return digest.partition(":")[2]


def hasher(digest: Digest | None = None) -> _Hash:
    """An empty hash object of the digest's algorithm, SHA-256 if there is none."""
    return hashlib.new(algorithm(digest) if digest else "sha256")


def from_hasher(hashed: _Hash) -> Digest:
    """The digest of all that went into a hash object."""
    return Digest(f"{hashed.name}:{hashed.hexdigest()}")
