"""Interactive charts as frames: what Plotly, Vega and Bokeh say of a chart, with their own library.

The library is that of this environment, never one of a container, and is put into the frame
compressed, because a frame may fetch nothing.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import re
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from . import frames

PLOTLY = "application/vnd.plotly.v1+json"
VEGA = re.compile(r"application/vnd\.(vega|vegalite)\.v\d{1,2}(?:\.\d{1,3})*\+json")
BOKEH, BOKEH_LOAD = "application/vnd.bokehjs_exec.v0+json", "application/vnd.bokehjs_load.v0+json"
SCRIPT = "application/javascript"
_ALTAIR, _ALTAIR_CALL = 'id="altair-viz-', "})("
LIBRARY_SECONDS = 30.0
CHART_HEIGHT = 470
_BOKEH_PARTS = ("bokeh", "bokeh-gl", "bokeh-widgets", "bokeh-tables", "bokeh-mathjax", "bokeh-api")
_VEGA_PROGRAM = "import vl_convert, sys; sys.stdout.write(vl_convert.javascript_bundle())"
_START = """
(async () => {
  const run = text => {
    const made = document.createElement("script");
    made.textContent = text;
    document.head.append(made);
  };
  for (const part of document.querySelectorAll("script[type=library]")) {
    const packed = Uint8Array.from(atob(part.textContent), one => one.charCodeAt(0));
    const opened = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    run(await new Response(opened).text());
  }
  run(document.getElementById("drawing").textContent);
})();
"""


class Chart(NamedTuple):
    """HTML that draws it, or the package of this environment that is missing for that."""

    html: str | None
    missing: str = ""


def find(data: Mapping[str, Any]) -> str | None:
    """The type in a bundle that is a chart, or None."""
    for mime in data:
        if mime in (PLOTLY, BOKEH) or VEGA.fullmatch(mime):
            return mime
    return None


def draw(mime: str, data: Mapping[str, Any]) -> Chart:
    """The chart of that type in a bundle. Values that are no chart give an empty frame."""
    if mime == PLOTLY:
        return _plotly(data[mime])
    if mime == BOKEH:
        return _bokeh(data.get(SCRIPT))
    found = VEGA.fullmatch(mime)
    return _vega(data[mime], "vega-lite" if found and found[1] == "vegalite" else "vega")


def of_altair(html: str) -> str | None:
    """The chart in a page that Altair made, which would fetch its library: drawn with ours."""
    start = html.rfind(_ALTAIR_CALL) if _ALTAIR in html else -1
    if start < 0:
        return None
    try:
        spec, _ = json.JSONDecoder().raw_decode(html, start + len(_ALTAIR_CALL))
    except (ValueError, RecursionError):
        return None
    return _vega(spec, "vega-lite").html


def _plotly(figure: Any) -> Chart:
    library = _packed(_file("plotly", "package_data/plotly.min.js"))
    if not library:
        return Chart(None, "plotly")
    layout = figure.get("layout") if isinstance(figure, dict) else None
    asked = layout.get("height") if isinstance(layout, dict) else None
    height = int(asked) if isinstance(asked, int | float) and 0 < asked < 1e6 else CHART_HEIGHT
    drawing = (
        f"const figure = {_script(figure)};"
        "Plotly.newPlot('chart', figure.data, figure.layout, {responsive: true, ...figure.config})"
        ".then(() => figure.frames && Plotly.addFrames('chart', figure.frames));"
    )
    return Chart(_frame([library], drawing, height + 10))


def _vega(spec: Any, mode: str) -> Chart:
    library = _packed(_vega_library())
    if not library:
        return Chart(None, "vl-convert-python")
    asked = spec.get("height") if isinstance(spec, dict) else None
    height = (
        int(asked) + 120 if isinstance(asked, int | float) and 0 < asked < 1e6 else CHART_HEIGHT
    )
    options = json.dumps({"mode": mode, "actions": False})
    drawing = f"vegaEmbed('#chart', {_script(spec)}, {options});"
    return Chart(_frame([library], drawing, height))


def _bokeh(script: Any) -> Chart:
    if not isinstance(script, str):
        return Chart("")
    parts = [_packed(_file("bokeh", f"server/static/js/{part}.min.js")) for part in _BOKEH_PARTS]
    libraries = [part for part in parts if part]
    if not libraries:
        return Chart(None, "bokeh")
    # It looks for elements that another output was to bring into the same page.
    drawing = (
        "const known = document.getElementById.bind(document);"
        "document.getElementById = id => known(id) || (() => {"
        " const made = document.createElement('div'); made.id = id;"
        " document.getElementById('chart').append(made); return made; })();"
        f"(0, eval)({_script(script)});"
    )
    return Chart(_frame(libraries, drawing, 620))


def _frame(libraries: list[str], drawing: str, height: int) -> str:
    held = "".join(f"<script type=library>{library}</script>" for library in libraries)
    body = (
        f'<div id="chart" style="width:100%;height:100%"></div>{held}'
        f'<script type=drawing id="drawing">{drawing}</script><script>{_START}</script>'
    )
    return frames.framed(body, height)


def _script(value: Any) -> str:
    """A value as it can stand in a script that stands in HTML."""
    return json.dumps(value).replace("<", "\\u003c").replace(">", "\\u003e")


def _file(package: str, path: str) -> bytes | None:
    """A file of a package of this environment, which is not imported for it."""
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    for folder in (found and found.submodule_search_locations) or ():
        try:
            with open(f"{folder}/{path}", "rb") as file:
                return file.read()
        except OSError:
            continue
    return None


@cache
def _vega_library() -> bytes | None:
    """Vega-Embed as one script. It is put together by a process that ends with it: it is large."""
    if importlib.util.find_spec("vl_convert") is None:
        return None
    import subprocess

    try:
        made = subprocess.run(
            [sys.executable, "-I", "-c", _VEGA_PROGRAM],
            capture_output=True, check=True, timeout=LIBRARY_SECONDS, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return made.stdout


@cache
def _packed(library: bytes | None) -> str:
    if not library:
        return ""
    import gzip

    return base64.b64encode(gzip.compress(library, mtime=0)).decode()
