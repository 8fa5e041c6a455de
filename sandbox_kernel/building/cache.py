"""The cache of steps: from everything that a step depends on to the layer that it made.

A key is the digest of all inputs: the diff ids of the layers below, the instruction with its values
put in, the environment that it sees, and the content of what it copies. So an entry is true for
whoever asks; a project can't change what another one gets. An entry whose blob is gone is no entry.
"""

from __future__ import annotations

import json
import os
from typing import Any

import msgspec

from sandbox_kernel.building.state import Layer
from sandbox_kernel.image import digest as digests
from sandbox_kernel.image.documents import Descriptor
from sandbox_kernel.image.store import Store

VERSION = 2
"""Counts up when the same inputs make another layer."""


class _Entry(msgspec.Struct, frozen=True):
    created: str
    blob: Descriptor | None
    diff_id: str | None


_DECODER = msgspec.json.Decoder(_Entry)


class Result(msgspec.Struct, frozen=True):
    """What a step made. `layer` None: it changed no file."""

    created: str
    layer: Layer | None


def key(**inputs: Any) -> str:
    """The name of an entry."""
    text = json.dumps([VERSION, inputs], sort_keys=True, ensure_ascii=False)
    return digests.hexadecimal(digests.of(text.encode("utf-8", "surrogateescape")))


class Cache:
    """The entries beside one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._folder = f"{store.root}/builds/steps"

    def get(self, name: str) -> Result | None:
        """What this step made before, if that is all there."""
        try:
            with open(f"{self._folder}/{name}", "rb") as file:
                found = _DECODER.decode(file.read())
        except (FileNotFoundError, msgspec.MsgspecError):
            return None
        if found.blob is None or found.diff_id is None:
            return Result(found.created, None)
        diff_id = digests.parse(found.diff_id)
        if not self._store.has(found.blob.digest):
            return None
        return Result(found.created, Layer(found.blob, diff_id))

    def names(self) -> list[str]:
        """All entries, and what a killed writer left of one."""
        try:
            return os.listdir(self._folder)
        except FileNotFoundError:
            return []

    def forget(self, name: str) -> bool:
        """Remove one; whether it was there."""
        try:
            os.unlink(f"{self._folder}/{name}")
        except FileNotFoundError:
            return False
        return True

    def put(self, name: str, result: Result) -> None:
        """Remember it. Written under another name first: an entry is whole or not there."""
        layer = result.layer
        entry = _Entry(
            result.created, layer.blob if layer else None, layer.diff_id if layer else None
        )
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        made = f"{self._folder}/.{name}.{os.urandom(6).hex()}"
        with open(made, "xb") as file:
            file.write(msgspec.json.encode(entry))
        os.rename(made, f"{self._folder}/{name}")
