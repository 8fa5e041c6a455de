"""The documents of an image as typed data: manifest, index and configuration.

Sources: OCI image specification 1.1 (manifest.md, image-index.md, config.md, descriptor.md), and
Docker's "image manifest version 2, schema 2", whose documents have the same fields under other
media types. Reading is strict, since the bytes come from strangers: sizes, depth and numbers have
caps, a key stands once, and a document that could be read as two kinds is refused.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import msgspec
from msgspec import Meta, Struct

from sandbox_kernel.errors import ImageError, shown
from sandbox_kernel.image import digest as digests
from sandbox_kernel.image.digest import Digest

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"

MANIFESTS = (OCI_MANIFEST, DOCKER_MANIFEST)
INDEXES = (OCI_INDEX, DOCKER_INDEX)
CONFIGS = (OCI_CONFIG, DOCKER_CONFIG)
# media type -> how the tar is compressed. Foreign layers have the same content (C 56); their
# `urls` are not read by anything here.
COMPRESSION: dict[str, Literal["none", "gzip", "zstd"]] = {
    OCI_LAYER: "none",
    OCI_LAYER_GZIP: "gzip",
    OCI_LAYER_ZSTD: "zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar": "none",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": "gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd": "zstd",
    DOCKER_LAYER: "none",
    DOCKER_LAYER_GZIP: "gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": "zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip": "gzip",
}

LARGEST_DOCUMENT = 4 << 20
"""Bytes. What registries accept of a manifest, by the distribution specification."""
DEEPEST = 32
MOST_LAYERS = 500
MOST_MANIFESTS = 1000
LARGEST_BLOB = 1 << 38

Size = Annotated[int, Meta(ge=0, le=LARGEST_BLOB)]
Text = Annotated[str, Meta(max_length=1 << 20)]


class Platform(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What an image runs on, in Go's words."""

    architecture: Text = ""
    os: Text = ""
    os_version: Text | None = msgspec.field(name="os.version", default=None)
    os_features: list[Text] | None = msgspec.field(name="os.features", default=None)
    variant: Text | None = None

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class Descriptor(Struct, frozen=True, omit_defaults=True, rename="camel", kw_only=True):
    """What is meant: its type, digest and size in bytes. `urls` are kept and never fetched."""

    media_type: Text
    digest: Digest
    size: Size
    urls: list[Text] | None = None
    annotations: dict[str, Text] | None = None
    data: Text | None = None
    artifact_type: Text | None = None
    platform: Platform | None = None

    def __post_init__(self) -> None:
        digests.parse(self.digest)


class Manifest(Struct, frozen=True, omit_defaults=True, rename="camel", kw_only=True):
    """An image for one platform; layers lowest first."""

    schema_version: Annotated[int, Meta(ge=2, le=2)]
    media_type: Text = msgspec.field(default_factory=lambda: OCI_MANIFEST)  # always written
    artifact_type: Text | None = None
    config: Descriptor
    layers: Annotated[list[Descriptor], Meta(max_length=MOST_LAYERS)]
    subject: Descriptor | None = None
    annotations: dict[str, Text] | None = None


class Index(Struct, frozen=True, omit_defaults=True, rename="camel", kw_only=True):
    """One name for the images of several platforms."""

    schema_version: Annotated[int, Meta(ge=2, le=2)]
    media_type: Text = msgspec.field(default_factory=lambda: OCI_INDEX)
    artifact_type: Text | None = None
    manifests: Annotated[list[Descriptor], Meta(max_length=MOST_MANIFESTS)]
    subject: Descriptor | None = None
    annotations: dict[str, Text] | None = None


class RootFS(Struct, frozen=True, kw_only=True):
    """The digests of the layers' plain tars, in the manifest's order; missing where none are."""

    type: Text = "layers"
    diff_ids: Annotated[list[Digest], Meta(max_length=MOST_LAYERS)] = msgspec.field(
        default_factory=list
    )

    def __post_init__(self) -> None:
        for diff_id in self.diff_ids:
            digests.parse(diff_id)


class History(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What made a layer, or nothing but configuration (`empty_layer`)."""

    created: Text | None = None
    created_by: Text | None = None
    author: Text | None = None
    comment: Text | None = None
    empty_layer: bool | None = None


class Healthcheck(Struct, frozen=True, omit_defaults=True, rename="pascal", kw_only=True):
    """Docker's; kept, times in nanoseconds."""

    test: list[Text] | None = None
    interval: int | None = None
    timeout: int | None = None
    start_period: int | None = None
    start_interval: int | None = None
    retries: int | None = None


class Execution(Struct, frozen=True, omit_defaults=True, rename="pascal", kw_only=True):
    """The `config` of an image's configuration: how a container of it runs."""

    user: Text | None = None
    exposed_ports: dict[str, dict[str, Any] | None] | None = None
    env: list[Text] | None = None
    entrypoint: list[Text] | None = None
    cmd: list[Text] | None = None
    volumes: dict[str, dict[str, Any] | None] | None = None
    working_dir: Text | None = None
    labels: dict[str, Text] | None = None
    stop_signal: Text | None = None
    healthcheck: Healthcheck | None = None
    on_build: list[Text] | None = None
    shell: list[Text] | None = None
    args_escaped: bool | None = None

    def __post_init__(self) -> None:
        for word in (
            *(self.env or ()), *(self.entrypoint or ()), *(self.cmd or ()), self.user or "",
            self.working_dir or "",
        ):  # fmt: skip
            if "\0" in word:
                raise ValueError(f"`{shown(word)}` has a zero byte")
        for variable in self.env or ():
            if not re.match(r"[^=]+=", variable):
                raise ValueError(f"`Env` has `{shown(variable)}`, which is not KEY=VALUE")


class ImageConfig(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An image's configuration."""

    created: Text | None = None
    author: Text | None = None
    architecture: Text
    os: Text
    os_version: Text | None = msgspec.field(name="os.version", default=None)
    os_features: list[Text] | None = msgspec.field(name="os.features", default=None)
    variant: Text | None = None
    config: Execution | None = None
    rootfs: RootFS
    history: list[History] | None = None

    @property
    def platform(self) -> Platform:
        """What it runs on."""
        return Platform(
            architecture=self.architecture,
            os=self.os,
            os_version=self.os_version,
            os_features=self.os_features,
            variant=self.variant,
        )

    def execution(self) -> dict[str, Any]:
        """`config` in the words of the specification (`Env`, `WorkingDir`, ...), as plain data."""
        found: dict[str, Any] = msgspec.to_builtins(self.config or Execution())
        return found


_Document = TypeVar("_Document", bound=Struct)


def decode(data: bytes, media_type: str | None = None) -> Manifest | Index:
    """The manifest or index that a document is; `media_type` is what its giver called it.

    Raises ImageError when it is neither, both, or not what it was called.
    """
    keys = _keys(data, "manifest")
    kind = keys.get("mediaType")
    if "manifests" in keys and ("layers" in keys or "config" in keys):
        _refuse("manifest", "it is an index and a manifest at once")
    if keys.get("schemaVersion") == 1 or "fsLayers" in keys:
        _refuse("manifest", "it is of Docker's old schema 1: push the image anew with a newer tool")
    found: Manifest | Index
    if "manifests" in keys:
        found, allowed = _convert(keys, Index, "index"), INDEXES
    elif "layers" in keys:
        found, allowed = _convert(keys, Manifest, "manifest"), MANIFESTS
    else:
        _refuse("manifest", "it has neither `layers` nor `manifests`")
    if kind is not None and kind not in allowed:
        _refuse("manifest", f"it calls itself `{shown(kind)}`, which its content is not")
    if media_type is not None:
        _hold_to_type(media_type, kind, allowed)
        if kind is None and media_type != found.media_type:
            found = msgspec.structs.replace(found, media_type=media_type)
    return found


def decode_manifest(data: bytes, media_type: str | None = None) -> Manifest:
    """The manifest that a document is. Raises ImageError, for an index too."""
    found = decode(data, media_type)
    if not isinstance(found, Manifest):
        _refuse("manifest", "it is an index of several images, not the manifest of one")
    return found


def decode_index(data: bytes, media_type: str | None = None) -> Index:
    """The index that a document is. Raises ImageError, for a manifest too."""
    found = decode(data, media_type)
    if not isinstance(found, Index):
        _refuse("index", "it is the manifest of one image, not an index")
    return found


def decode_config(data: bytes) -> ImageConfig:
    """The configuration that a document is. Raises ImageError."""
    found = _convert(_keys(data, "configuration"), ImageConfig, "configuration")
    if found.rootfs.type != "layers":
        _refuse("configuration", f"its `rootfs` is of type `{shown(found.rootfs.type)}`")
    return found


def encode(document: Struct) -> bytes:
    """The document in one canonical spelling: no blanks, fields in the order of the specification,
    annotations and labels by name. Equal data give equal bytes, so equal digests."""
    return _ENCODER.encode(document)


_ENCODER = msgspec.json.Encoder(order="deterministic")


def describe(data: bytes, media_type: str, **more: Any) -> Descriptor:
    """The descriptor of these bytes."""
    return Descriptor(media_type=media_type, digest=digests.of(data), size=len(data), **more)


def check_layers(manifest: Manifest, config: ImageConfig) -> None:
    """Raises ImageError unless each layer has its diff id (C 49)."""
    layers, diff_ids = len(manifest.layers), len(config.rootfs.diff_ids)
    if layers != diff_ids:
        _refuse("configuration", f"the manifest has {layers} layers, it has {diff_ids} diff ids")
    known: dict[str, str] = {}
    for layer, diff_id in zip(manifest.layers, config.rootfs.diff_ids, strict=True):
        if known.setdefault(layer.digest, diff_id) != diff_id:
            _refuse("configuration", f"layer `{layer.digest}` has two diff ids")


def _hold_to_type(media_type: str, own: object, allowed: tuple[str, ...]) -> None:
    given = media_type.partition(";")[0].strip()
    if given not in allowed or (own is not None and own != given):
        _refuse("manifest", f"it came as `{shown(given)}`, but is `{shown(own or allowed[0])}`")


# -- JSON that comes from strangers --------------------------------------------------------------

_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_KNOWN = {
    name.casefold(): name
    for name in ("schemaVersion", "mediaType", "config", "layers", "manifests", "rootfs", "subject")
}


def _keys(data: bytes, what: str) -> dict[str, Any]:
    """The object that the bytes are, if they are one in bounds (C 50)."""
    if len(data) > LARGEST_DOCUMENT:
        _refuse(what, f"it has {len(data)} bytes, more than {LARGEST_DOCUMENT}")
    _hold_depth(data, what)
    try:
        found = json.loads(
            data, object_pairs_hook=_once, parse_constant=_no_number, parse_float=_no_number
        )
    except (ValueError, RecursionError) as error:
        _refuse(what, f"it is no JSON as it must be: {error}")
    if not isinstance(found, dict):
        _refuse(what, "it is no JSON object")
    for key in found:
        # Go's parser takes `Layers` for `layers`: what two programs read differently is refused.
        if key != _KNOWN.get(key.casefold(), key):
            _refuse(what, f"`{shown(key)}` is not spelled `{_KNOWN[key.casefold()]}`")
    return found


def _hold_depth(data: bytes, what: str) -> None:
    depth = 0
    for bracket in re.findall(rb"[\[{\]}]", _STRINGS.sub(b"", data)):
        depth += 1 if bracket in b"[{" else -1
        if depth > DEEPEST:
            _refuse(what, f"it is nested deeper than {DEEPEST}")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [key for key, _ in pairs]
        twice = next(key for key in names if names.count(key) > 1)
        raise ValueError(f"the key `{shown(twice)}` stands twice")
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"`{shown(text)}` is no whole number")


def _convert(keys: dict[str, Any], kind: type[_Document], what: str) -> _Document:
    try:
        return msgspec.convert(keys, kind)
    except (msgspec.ValidationError, UnicodeError, ImageError) as error:
        _refuse(what, shown(error))


def _refuse(what: str, why: str) -> NoReturn:
    raise ImageError(f"read the image's `{what}`: {why}: get the image from its maker again")
