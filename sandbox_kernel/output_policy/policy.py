"""The decision: a mime bundle, a text or a failure in, what may be shown of it out.

`trusted` shows all, as Jupyter does. `safe` shows what the tables below list, in a frame if it runs
scripts, and the rest as plain text. `text` shows plain text. What is left out is told once for each
type.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Container, Mapping
from typing import Any

import msgspec

from sandbox_kernel.grammar import OUTPUT_LEVELS

from . import drawings, frames, markup, terminal

TEXT, SAFE, TRUSTED = OUTPUT_LEVELS
PLAIN, HTML, WIDGET = "text/plain", "text/html", "application/vnd.jupyter.widget-view+json"
MOST_HTML, MOST_MARKDOWN = 2 << 20, 64 << 10
"""Characters that are read here. What is longer is shown in a frame, or as text."""
PICTURES = ("image/png", "image/jpeg", "image/gif", "image/webp", "image/bmp")
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
_METADATA = ("width", "height", "needs_background", "unconfined")
_QUIETLY = (drawings.BOKEH_LOAD,)
"""Types that only prepare the page for others."""
_SETTING = '`output = "trusted"` in your own settings shows it'

Bundle = dict[str, Any]


class OutputPolicy:
    """What one kernel or one run may show. `news` are lines for the reader, each said once."""

    def __init__(self, level: str) -> None:
        self.level = level
        self._told: set[str] = set()
        self._news: list[str] = []

    @property
    def shows_all(self) -> bool:
        """Whether nothing is decided here."""
        return self.level == TRUSTED

    def news(self) -> list[str]:
        """What was left out since the last time and was not told before."""
        news, self._news = self._news, []
        return news

    def leave_out(self, what: str, remedy: str = _SETTING) -> None:
        """Notes that something is not shown."""
        if what not in self._told and len(self._told) < 100:
            self._told.add(what)
            self._news.append(f"`{what}` is not shown with `--output {self.level}`: {remedy}")

    def text(self, text: str) -> str:
        """Text of a stream, an error or a prompt."""
        return text if self.shows_all else terminal.cleaned(text)

    def bundle(
        self,
        data: Mapping[str, Any],
        metadata: Mapping[str, Any],
        models: Container[str] = (),
    ) -> tuple[Bundle, Bundle]:
        """A mime bundle and its metadata as they may be shown.

        Values may be JSON that is not decoded yet (`msgspec.Raw`). `models`: the widgets that may
        be shown. Raises msgspec.MsgspecError for JSON that is none.
        """
        if self.shows_all:
            return dict(data), dict(metadata)
        kept: Bundle = {}
        if PLAIN in data and (text := _text(data[PLAIN])) is not None:
            kept[PLAIN] = text
        if self.level == TEXT:
            if not kept and data:
                kept[PLAIN] = f"<output of type {_shown(next(iter(data)))}>"
            return kept, {}
        self._take_safe(data, kept, models)
        if not kept and data and not any(mime in data for mime in _QUIETLY):
            kept[PLAIN] = f"<output of type {_shown(next(iter(data)))}, which is not shown>"
        return kept, _metadata(metadata, kept)

    def _take_safe(self, data: Mapping[str, Any], kept: Bundle, models: Container[str]) -> None:
        for mime, keep in _KEPT.items():
            if mime in data and (value := keep(data[mime])) is not None:
                kept[mime] = value
        if WIDGET in data:
            view = _value(data[WIDGET])
            if isinstance(view, dict) and view.get("model_id") in models:
                kept[WIDGET] = {
                    name: view[name]
                    for name in ("model_id", "version_major", "version_minor")
                    if isinstance(view.get(name), str | int)
                }
        chart = drawings.find(data)
        html = self._chart(chart, data) if chart else _first_markup(data)
        if html:
            kept[HTML] = html
        if chart or kept.keys() > {PLAIN} or any(mime in data for mime in _QUIETLY):
            return  # something of it is shown, or was told
        for mime in data.keys() - kept.keys() - _MARKUP.keys() - {WIDGET, PLAIN}:
            self.leave_out(_shown(mime))

    def _chart(self, mime: str, data: Mapping[str, Any]) -> str | None:
        wanted = {mime, drawings.SCRIPT} & data.keys()
        chart = drawings.draw(mime, {name: _value(data[name]) for name in wanted})
        if chart.html is None:
            remedy = f"install `{chart.missing}` where sandbox-kernel is installed: it draws this"
            self.leave_out(mime, remedy)
        return chart.html


def _first_markup(data: Mapping[str, Any]) -> str | None:
    for mime, make in _MARKUP.items():
        if mime in data and isinstance(text := _value(data[mime]), str):
            return make(text)
    return None


def _html(text: str) -> str:
    if (drawn := drawings.of_altair(text)) is not None:
        return drawn
    if len(text) > MOST_HTML or markup.is_active(text) or not markup.is_simple(text):
        return frames.framed(text, frames.height_of(text))
    return markup.cleaned(text)


def _svg(text: str) -> str | None:
    """As a picture: what is an image element runs nothing and fetches nothing."""
    start = text.find("<svg")
    if start < 0:
        return None
    if "xmlns=" not in text[start : start + 4096]:
        text = text.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    packed = base64.b64encode(text.encode("utf-8", "replace")).decode()
    return f'<img alt="a drawing" src="data:image/svg+xml;base64,{packed}">'


def _markdown(text: str) -> str | None:
    return markup.from_markdown(text) if len(text) <= MOST_MARKDOWN else None


def _text(item: Any) -> Any:
    """Text as it came, if there is nothing to clean in it; None for what is none."""
    if isinstance(item, msgspec.Raw):
        raw = memoryview(item)
        if bytes(raw[:1]) == b'"' and not terminal.has_escapes(raw):
            return item
        item = _value(item)
    return terminal.cleaned(item) if isinstance(item, str) else None


def _picture(item: Any) -> Any:
    """Base64 and nothing else, as it came."""
    if isinstance(item, msgspec.Raw):
        raw = bytes(item)
        inner = raw[1:-1].replace(b"\\n", b"")
        good = raw[:1] == b'"' and not inner.translate(None, _BASE64)
        return item if good else None
    if not isinstance(item, str) or item.encode("utf-8", "replace").translate(
        None, _BASE64 + b"\n"
    ):
        return None
    return item


def _tex(item: Any) -> str | None:
    text = _value(item)
    return text if isinstance(text, str) and markup.is_plain_tex(text) else None


_KEPT: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(PICTURES, _picture),
    "text/latex": _tex,
    "application/json": lambda item: item,  # shown as a tree of text
}
_MARKUP: dict[str, Callable[[str], str | None]] = {
    HTML: _html,
    "image/svg+xml": _svg,
    "text/markdown": _markdown,
}
"""In this order: of these one is shown, as HTML."""


def _metadata(metadata: Mapping[str, Any], kept: Bundle) -> Bundle:
    """How large a picture is. Other words in it ask pages to trust or to isolate."""
    found: Bundle = {}
    for mime in PICTURES:
        told = _value(metadata.get(mime))
        if mime in kept and isinstance(told, dict):
            words = {name: told[name] for name in _METADATA if _is_number(told.get(name))}
            if words:
                found[mime] = words
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) or value in ("light", "dark")


def _value(item: Any) -> Any:
    return msgspec.json.decode(item) if isinstance(item, msgspec.Raw) else item


def _shown(mime: str) -> str:
    return re.sub(r"[^\w./+-]", "?", mime[:100])
