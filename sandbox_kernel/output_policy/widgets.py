"""Which widgets may be shown, and what of their state.

A widget's model names the module of the page that draws it, and some modules run code that stands
in the model. Those of ipywidgets itself do not, but some put HTML into the page as it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from . import markup
from .policy import SAFE, OutputPolicy

TARGET = "jupyter.widget"
STOCK = frozenset({"@jupyter-widgets/base", "@jupyter-widgets/controls", "@jupyter-widgets/output"})
MODULES = ("_model_module", "_view_module")
_OWN_VIEWS = ("HTML", "HTMLMath", "Output", "Image", "Audio", "Video")
"""Widgets whose view does more with a state than show text: only for their own models."""
_MARKUP_MODELS = ("HTMLModel", "HTMLMathModel")
_FORMATS = {"ImageModel": "png", "AudioModel": "mp3", "VideoModel": "mp4"}
_OF_THE_PAGE = ("jp-", "lm-", "cm-", "p-", "jupyter-")
_FETCHES = re.compile(r"(?:url|image|image-set|src|cross-fade)\s*\(|\\", re.IGNORECASE)


class Models:
    """The widgets of one kernel: comm id -> name of the model."""

    def __init__(self, policy: OutputPolicy) -> None:
        self._policy = policy
        self._models: dict[str, str] = {}

    def __contains__(self, comm_id: object) -> bool:
        return comm_id in self._models

    def opened(self, comm_id: str, content: Any) -> Any:
        """The content of a `comm_open` as it may go out; None when it may not."""
        if self._policy.shows_all:
            return content
        found = msgspec.json.decode(content)
        target = found.get("target_name")
        if self._policy.level != SAFE or target != TARGET:
            self._policy.leave_out(f"comm {str(target)[:80]}")
            return None
        data = found.get("data")
        state = data.get("state") if isinstance(data, dict) else None
        if not isinstance(state, dict):
            return None
        name = str(state.get("_model_name"))
        kept = self._state(name, state)
        if kept is None or state.get("_model_module") not in STOCK:
            return None
        self._models[comm_id] = name
        paths = data.get("buffer_paths", [])
        return msgspec.json.encode({
            "comm_id": comm_id, "target_name": TARGET,
            "data": {"state": kept, "buffer_paths": paths},
        })  # fmt: skip

    def said(
        self, comm_id: str, content: Any, buffers: Sequence[Any], *, of_all: bool
    ) -> tuple[Any, Sequence[Any]] | None:
        """The content and buffers of a `comm_msg`; None when it may not go out.

        `of_all`: on the comm by which a client asks for the states of all widgets.
        """
        if self._policy.shows_all:
            return content, buffers
        data = msgspec.json.decode(content).get("data")
        kept: dict[str, Any] | None = None
        if isinstance(data, dict) and of_all and data.get("method") == "update_states":
            kept, buffers = self._states(data, buffers)
        elif isinstance(data, dict) and not of_all and comm_id in self._models:
            kept = self._said(self._models[comm_id], data)
        if kept is None:
            return None
        return msgspec.json.encode({"comm_id": comm_id, "data": kept}), buffers

    def _said(self, model: str, data: dict[str, Any]) -> dict[str, Any] | None:
        """What a widget says to its views."""
        method, state = data.get("method"), data.get("state")
        if method == "custom":
            return {"method": method, "content": data.get("content")}
        if method not in ("update", "echo_update") or not isinstance(state, dict):
            return None
        clean = self._state(model, state)
        if clean is None:
            return None
        return {"method": method, "state": clean, "buffer_paths": data.get("buffer_paths", [])}

    def closed(self, comm_id: str) -> None:
        """It is no more."""
        self._models.pop(comm_id, None)

    def _states(
        self, data: dict[str, Any], buffers: Sequence[Any]
    ) -> tuple[dict[str, Any], Sequence[Any]]:
        """The states of all widgets, without those that may not be shown and their buffers."""
        kept: dict[str, Any] = {}
        states = data.get("states")
        for comm_id, told in states.items() if isinstance(states, dict) else ():
            name = self._models.get(comm_id)
            if name is None or not isinstance(told, dict) or told.get("model_module") not in STOCK:
                continue
            state = told.get("state")
            clean = self._state(name, state) if isinstance(state, dict) else None
            if clean is not None:
                words = ("model_name", "model_module", "model_module_version")
                kept[comm_id] = {word: str(told.get(word)) for word in words} | {"state": clean}
        paths = data.get("buffer_paths")
        pairs = [
            (path, buffer)
            for path, buffer in zip(paths if isinstance(paths, list) else [], buffers, strict=False)
            if isinstance(path, list) and path and path[0] in kept
        ]
        told_paths = [path for path, _ in pairs]
        found = {"method": "update_states", "states": kept, "buffer_paths": told_paths}
        return found, [buffer for _, buffer in pairs]

    def _state(self, model: str, state: dict[str, Any]) -> dict[str, Any] | None:
        """The state as it may be shown, None for a widget of another module."""
        for module in MODULES:
            named = state.get(module)
            if named is not None and named not in STOCK:
                self._policy.leave_out(f"widget of {str(named)[:80]}")
                return None
        if state.get("_model_name", model) != model:
            return None  # what it is now would be cleaned as what it was
        view = str(state.get("_view_name")).removesuffix("View")
        if view in _OWN_VIEWS and view != model.removesuffix("Model"):
            return None
        return {name: self._field(model, name, value) for name, value in state.items()}

    def _field(self, model: str, name: str, value: Any) -> Any:
        """One value of a state. Front ends show text as text, but for these."""
        if model in _MARKUP_MODELS and name == "value":
            value = markup.cleaned(value) if isinstance(value, str) else ""
        elif model == "OutputModel" and name == "outputs":
            found = value if isinstance(value, list) else []
            value = [self._output(item) for item in found if isinstance(item, dict)]
        elif name == "format" and value == "url":
            value = _FORMATS.get(model, "png")
        elif name in ("description_allow_html", "tooltip_allow_html"):
            value = False
        elif name == "_dom_classes":
            given = value if isinstance(value, list) else []
            value = [one for one in given if isinstance(one, str) and _is_class(one)]
        elif isinstance(value, str) and _is_style(model, name) and _FETCHES.search(value):
            value = None
        return value

    def _output(self, output: dict[str, Any]) -> dict[str, Any]:
        """One output that a widget of type Output holds."""
        kind = output.get("output_type")
        if kind == "stream":
            name = "stderr" if output.get("name") == "stderr" else "stdout"
            text = self._policy.text(_text(output.get("text")))
            return {"output_type": kind, "name": name, "text": text}
        if kind == "error":
            lines = output.get("traceback")
            told = {
                word: self._policy.text(_text(output.get(word))) for word in ("ename", "evalue")
            }
            shown = [self._policy.text(_text(line)) for line in lines or ()]
            return {"output_type": kind, **told, "traceback": shown}
        data, metadata = output.get("data"), output.get("metadata")
        bundle, words = self._policy.bundle(
            data if isinstance(data, dict) else {},
            metadata if isinstance(metadata, dict) else {},
            self,
        )
        return {"output_type": "display_data", "data": bundle, "metadata": words}


def _text(value: object) -> str:
    return "".join(map(str, value)) if isinstance(value, list) else str(value)


def _is_style(model: str, name: str) -> bool:
    return (model == "LayoutModel" or model.endswith("StyleModel")) and not name.startswith("_")


def _is_class(name: str) -> bool:
    return not name.startswith(_OF_THE_PAGE) and name.isprintable() and " " not in name
