"""Objects to mime bundles, as IPython does it, without IPython: `display`, results, updates."""

import os
import sys

from .channel import flush

# Order and names of IPython.core.formatters.
METHODS = (
    ("text/html", "_repr_html_"),
    ("text/markdown", "_repr_markdown_"),
    ("image/svg+xml", "_repr_svg_"),
    ("image/png", "_repr_png_"),
    ("application/pdf", "_repr_pdf_"),
    ("image/jpeg", "_repr_jpeg_"),
    ("text/latex", "_repr_latex_"),
    ("application/json", "_repr_json_"),
    ("application/javascript", "_repr_javascript_"),
)
CANARY = "_ipython_canary_method_should_not_exist_"
MOST_ITEMS = 1000
WIDTH = 79


current = None
"""The display of the cell that runs. A template has none: what its modules show goes nowhere."""


def display(*values, **options):
    """Shows values in the notebook. With `display_id`, returns a handle that can update."""
    return None if current is None else current.display(*values, **options)


def publish(data, metadata=None, source=None, **options):
    """Sends one mime bundle."""
    if current is not None:
        current.publish(data, metadata, source, **options)


def clear_output(wait=False):
    """Clears the cell's output now, or with `wait` when there is a next one."""
    if current is not None:
        current.clear_output(wait)


class Handle:
    """What `display(..., display_id=True)` returns: shows again, or updates."""

    def __init__(self, display_id=None):
        self.display_id = display_id or os.urandom(16).hex()

    def __repr__(self):
        return "<DisplayHandle display_id=%s>" % self.display_id

    def display(self, value, **options):
        display(value, display_id=self.display_id, **options)

    def update(self, value, **options):
        display(value, display_id=self.display_id, update=True, **options)


class Display:
    """What is behind these functions: shows by the channel of one cell."""

    def __init__(self, channel):
        self.channel = channel

    def display(
        self,
        *values,
        include=None,
        exclude=None,
        metadata=None,
        transient=None,
        display_id=None,
        raw=False,
        clear=False,
        update=False,
        **options,
    ):
        """Shows values in the notebook. With `display_id`, returns a handle that can update."""
        if display_id is None and update:
            raise TypeError("display_id required for update_display")
        handle = None
        if display_id is not None:
            handle = Handle(None if display_id is True else display_id)
            transient = dict(transient or {}, display_id=handle.display_id)
        if clear:
            self.clear_output(wait=True)
        for value in values:
            data, found = (value, {}) if raw else self.bundle(value, include, exclude)
            if data:
                found.update(metadata or {})
                self.publish(data, found, transient=transient, update=update)
        return handle

    def publish(self, data, metadata=None, source=None, *, transient=None, update=False, **options):
        """Sends one mime bundle."""
        kind = "update" if update else "display"
        self._send(kind, data, metadata or {}, transient or {})

    def result(self, value):
        """Shows the value of a cell's last expression; None is not shown."""
        if value is None:
            return
        sys.modules["__main__"].__dict__["_"] = value
        data, metadata = self.bundle(value)
        if data:
            self._send("result", data, metadata, {})

    def clear_output(self, wait=False):
        """Clears the cell's output now, or with `wait` when there is a next one."""
        flush()
        self.channel.send({"kind": "clear", "wait": bool(wait)}, wait=True)

    def _send(self, kind, data, metadata, transient):
        parts, bodies = [], []
        for mime, item in data.items():
            form, body = encoded(item)
            parts.append([str(mime), len(body), form])
            bodies.append(body)
        header = {"kind": kind, "parts": parts, "metadata": metadata, "transient": transient}
        flush()
        self.channel.send(header, b"".join(bodies), wait=True)

    def bundle(self, value, include=None, exclude=None):
        """The mime bundle of one value, and its metadata."""
        if find(value, "_ipython_display_") is not None:
            try:
                value._ipython_display_()
                return {}, {}  # noqa: TRY300 - it has shown itself
            except NotImplementedError:
                pass
        data, metadata = {}, {}
        whole = find(value, "_repr_mimebundle_")
        if whole is not None:
            take(call(whole, include=include, exclude=exclude), data, metadata)
        for mime, name in METHODS:
            if mime in data or not wanted(mime, include, exclude):
                continue
            method = find(value, name)
            found = call(method) if method is not None else figure(value, mime)
            if isinstance(found, tuple) and len(found) == 2:
                found, metadata[mime] = found
            if found is not None:
                data[mime] = found
        if "text/plain" not in data:
            data["text/plain"] = plain(value)
        return {m: item for m, item in data.items() if wanted(m, include, exclude)}, metadata


def wanted(mime, include, exclude):
    return (not include or mime in include) and (not exclude or mime not in exclude)


def take(found, data, metadata):
    """A mime bundle method returns a bundle, or a bundle and its metadata."""
    if isinstance(found, tuple) and len(found) == 2:
        found, more = found
        metadata.update(more)
    if isinstance(found, dict):
        data.update(found)


def find(value, name):
    """The method of a value, unless the value is a class or claims to have every method."""
    if isinstance(value, type):
        return None
    try:
        if callable(getattr(value, CANARY, None)):
            return None
        method = getattr(value, name, None)
    except Exception:
        return None
    return method if callable(method) else None


def call(method, **options):
    """What the method returns; if it raises, the traceback is shown and the others are tried."""
    try:
        return method(**options)
    except NotImplementedError:
        return None
    except Exception as problem:
        sys.excepthook(type(problem), problem, problem.__traceback__)
        return None


def figure(value, mime):
    """matplotlib's figures have no method for this: IPython knows them, and so do we."""
    if mime != "image/png" or type(value).__name__ != "Figure":
        return None
    library = sys.modules.get("matplotlib.figure")
    if library is None or not isinstance(value, library.Figure):
        return None
    import io

    out = io.BytesIO()
    color = value.get_facecolor()
    value.savefig(out, format="png", dpi=value.dpi, bbox_inches="tight", facecolor=color)
    return out.getvalue()


def plain(value):
    """The text of a value: its repr; collections that are too wide get a line for each item."""
    pretty = sys.modules.get("IPython.lib.pretty")
    if pretty is not None:
        return pretty.pretty(value, max_seq_length=MOST_ITEMS)
    if type(value) in (list, tuple, dict, set, frozenset):
        if len(value) > MOST_ITEMS:
            return shortened(value)
        text = repr(value)
        if len(text) > WIDTH:
            import pprint

            return pprint.pformat(value, width=WIDTH)
        return text
    return repr(value)


def shortened(value):
    """The beginning of a long collection."""
    import itertools

    begin = itertools.islice(value.items() if isinstance(value, dict) else value, MOST_ITEMS)
    lines = ["%r: %r" % item if isinstance(value, dict) else repr(item) for item in begin]
    left = {list: "[", tuple: "("}.get(type(value), "{")
    right = {list: "]", tuple: ")"}.get(type(value), "}")
    return left + ",\n ".join([*lines, "..."]) + right


def encoded(item):
    """How an item of a bundle travels: as text, as bytes, or as JSON."""
    if isinstance(item, str):
        return "text", item.encode("utf-8", "backslashreplace")
    if isinstance(item, (bytes, bytearray, memoryview)):
        return "binary", bytes(item)
    import json

    return "json", json.dumps(item, default=str).encode("ascii")
