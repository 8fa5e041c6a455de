"""An OCI image layout on disk of layers that are given as plain archives, for other programs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from layer_archives import packed

_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"


def write(place: Path, images: Mapping[str, Sequence[bytes]]) -> None:
    """A layout with an image for each tag."""
    (place / "blobs/sha256").mkdir(parents=True)
    (place / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    manifests = []
    for tag, layers in images.items():
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {
                "type": "layers",
                "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers],
            },
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": _blob(place, json.dumps(config).encode(), _CONFIG),
            "layers": [_blob(place, packed(layer, "gzip"), _GZIP) for layer in layers],
        }
        described = _blob(place, json.dumps(manifest).encode(), _MANIFEST)
        described["annotations"] = {"org.opencontainers.image.ref.name": tag}
        manifests.append(described)
    (place / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": manifests}))


def _blob(place: Path, data: bytes, media_type: str) -> dict[str, object]:
    digest = hashlib.sha256(data).hexdigest()
    (place / "blobs/sha256" / digest).write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}
