"""What a stage is made of at one moment: its layers, its configuration, what made them."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct, field, structs

from sandbox_kernel.image.digest import Digest
from sandbox_kernel.image.documents import Descriptor, History, Platform
from sandbox_kernel.image.store import Stored

DEFAULT_SHELL = ("/bin/sh", "-c")
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Of an image made from nothing; `bundle.defaults` has it too, with much that loads slowly."""


class Layer(Struct, frozen=True):
    """One layer: its blob, and the digest of its plain tar."""

    blob: Descriptor
    diff_id: Digest


class State(Struct):
    """A stage as far as it is built. `config` has the words of the OCI image configuration."""

    platform: Platform
    layers: list[Layer] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[History] = field(default_factory=list)
    author: str | None = None
    arguments: dict[str, str] = field(default_factory=dict)
    """ARGs in scope, with their values."""

    @property
    def chain(self) -> list[str]:
        """What the files are, by content: the layers' diff ids."""
        return [layer.diff_id for layer in self.layers]

    @property
    def environment(self) -> dict[str, str]:
        """ENV, by name, in its order."""
        return dict(item.partition("=")[::2] for item in self.config.get("Env") or ())

    def set_environment(self, values: dict[str, str]) -> None:
        """Takes these as ENV."""
        self.config["Env"] = [f"{name}={value}" for name, value in values.items()]

    @property
    def lookup(self) -> dict[str, str]:
        """What `$NAME` means: ENV before ARG."""
        return {**self.arguments, **self.environment}

    @property
    def workdir(self) -> str:
        return self.config.get("WorkingDir") or "/"

    @property
    def user(self) -> str:
        return self.config.get("User") or ""

    @property
    def shell(self) -> tuple[str, ...]:
        return tuple(self.config.get("Shell") or DEFAULT_SHELL)

    def copy(self) -> State:
        """The same, to go on from; arguments end with their stage."""
        return State(
            platform=self.platform,
            layers=list(self.layers),
            config=copy.deepcopy(self.config),
            history=list(self.history),
            author=self.author,
        )

    def note(self, created: str, text: str, layer: Layer | None) -> None:
        """One more line of history, and the layer that it made, if it made one."""
        if layer is not None:
            self.layers.append(layer)
        self.history.append(
            History(created=created, created_by=text, empty_layer=None if layer else True)
        )

    def add_layer(self, layer: Layer) -> None:
        """A layer that no step made is the last step's, if there is one."""
        self.layers.append(layer)
        if self.history:
            self.history[-1] = structs.replace(self.history[-1], empty_layer=None)


def of_stored(stored: Stored) -> State:
    """The state that an image of the store is."""
    config = stored.config
    layers = [
        Layer(blob, diff_id)
        for blob, diff_id in zip(stored.manifest.layers, stored.diff_ids, strict=True)
    ]
    execution = {key: value for key, value in config.execution().items() if value is not None}
    return State(
        platform=config.platform,
        layers=layers,
        config=execution,
        history=list(config.history or ()),
        author=config.author,
    )


def timestamp(epoch: int | None) -> str:
    """The time of a step, RFC 3339: now, or the one that is asked for."""
    moment = datetime.now(UTC) if epoch is None else datetime.fromtimestamp(epoch, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
