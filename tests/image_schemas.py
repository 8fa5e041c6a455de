"""What OCI demands of the documents of images: image specification 1.1, its JSON schemas.

Sources: descriptor.md, manifest.md, image-index.md, config.md, image-layout.md, and `schema/`
beside them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import jsonschema

from sandbox_kernel.image import digest as digests
from sandbox_kernel.image import documents

DIGEST = {"type": "string", "pattern": "^(sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128})$"}
MEDIA_TYPE = {
    "type": "string",
    "pattern": "^[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}$",
}
NOTES = {"type": "object", "additionalProperties": {"type": "string"}}
DESCRIPTOR = {
    "type": "object",
    "required": ["mediaType", "digest", "size"],
    "properties": {
        "mediaType": MEDIA_TYPE,
        "digest": DIGEST,
        "size": {"type": "integer", "minimum": 0},
        "annotations": NOTES,
        "platform": {"type": "object", "required": ["os", "architecture"]},
    },
}
MANIFEST = {
    "type": "object",
    "required": ["schemaVersion", "mediaType", "config", "layers"],
    "properties": {
        "schemaVersion": {"const": 2},
        "mediaType": {"const": documents.OCI_MANIFEST},
        "config": DESCRIPTOR,
        "layers": {"type": "array", "minItems": 1, "items": DESCRIPTOR},
        "annotations": NOTES,
    },
}
INDEX = {
    "type": "object",
    "required": ["schemaVersion", "mediaType", "manifests"],
    "properties": {
        "schemaVersion": {"const": 2},
        "mediaType": {"const": documents.OCI_INDEX},
        "manifests": {"type": "array", "items": DESCRIPTOR},
    },
}
STRINGS = {"type": "array", "items": {"type": "string"}}
SET = {"type": "object", "additionalProperties": {"type": "object", "maxProperties": 0}}
TIME = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$"}
CONFIG = {
    "type": "object",
    "required": ["architecture", "os", "rootfs"],
    "properties": {
        "created": TIME,
        "rootfs": {
            "type": "object",
            "required": ["type", "diff_ids"],
            "properties": {
                "type": {"const": "layers"},
                "diff_ids": {"type": "array", "minItems": 1, "items": DIGEST},
            },
        },
        "config": {
            "type": "object",
            "properties": {
                "Env": STRINGS, "Entrypoint": STRINGS, "Cmd": STRINGS, "Volumes": SET,
                "ExposedPorts": SET, "Labels": NOTES,
            },
        },
        "history": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "created": TIME, "created_by": {"type": "string"},
                    "author": {"type": "string"}, "comment": {"type": "string"},
                    "empty_layer": {"type": "boolean"},
                },
            },
        },
    },
}  # fmt: skip
LAYOUT = {
    "type": "object",
    "required": ["imageLayoutVersion"],
    "properties": {"imageLayoutVersion": {"const": "1.0.0"}},
}


def check_image(manifest: bytes, config: bytes) -> None:
    """One image's documents, and that they fit together."""
    told, made = json.loads(manifest), json.loads(config)
    jsonschema.validate(told, MANIFEST)
    jsonschema.validate(made, CONFIG)
    assert told["config"]["mediaType"] == documents.OCI_CONFIG
    assert (told["config"]["digest"], told["config"]["size"]) == (digests.of(config), len(config))
    assert len(told["layers"]) == len(made["rootfs"]["diff_ids"])
    lines = [line for line in made.get("history", ()) if not line.get("empty_layer")]
    assert len(lines) <= len(told["layers"])


def check_layout(files: Mapping[str, bytes]) -> int:
    """An image layout by its paths: every document in it. How many images it has."""
    index = json.loads(files["index.json"])
    jsonschema.validate(json.loads(files["oci-layout"]), LAYOUT)
    jsonschema.validate(index, INDEX)
    for entry in index["manifests"]:
        manifest = files[_path(entry["digest"])]
        assert (entry["digest"], entry["size"]) == (digests.of(manifest), len(manifest))
        told = json.loads(manifest)
        check_image(manifest, files[_path(told["config"]["digest"])])
        for layer in told["layers"]:
            assert len(files[_path(layer["digest"])]) == layer["size"]
    return len(index["manifests"])


def _path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")
