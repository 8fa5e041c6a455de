"""Promises about what an output may do in the page: by type, whatever stands in it."""

from __future__ import annotations

import base64
import os
import re
import time
from html import unescape
from pathlib import Path
from typing import Any

import altair
import msgspec
import pytest

from sandbox_kernel import policy, settings
from sandbox_kernel.errors import NotAllowed
from sandbox_kernel.output_policy import OutputPolicy, drawings, frames, markup, terminal

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()

MOST_SECONDS = 20 if "SANDBOX_KERNEL_TEST_MACHINE" in os.environ else 5


def shown(data: dict[str, Any], metadata: dict[str, Any] | None = None) -> dict[str, Any]:
    return OutputPolicy("safe").bundle(data, metadata or {})[0]


ATTACKS = [
    "<script>x()</script>",
    "<ScRiPt src=//evil.example/x></sCrIpT>",
    "<img src=x onerror=x()>",
    "<svg onload=x()><a xlink:href='javascript:x()'>",
    "<math><mi xlink:href='javascript:x()'>m",
    "<a href='javascript:x()'>a</a>",
    "<a href='java\tscript:x()'>a</a>",
    "<a href='data:text/html,<script>x()</script>'>a</a>",
    "<a href='/api/shutdown'>a</a>",
    "<iframe src='javascript:x()'></iframe>",
    "<iframe srcdoc='<script>x()</script>'>",
    "<object data='javascript:x()'>",
    "<embed src='//evil.example/x.swf'>",
    "<form action='/api/kernels' method=post><button>go",
    "<meta http-equiv=refresh content='0;url=//evil.example'>",
    "<link rel=stylesheet href=//evil.example>",
    "<base href=//evil.example>",
    "<style>*{background:url(//evil.example)}</style>",
    "<div style='position:fixed;top:0;left:0'>over all",
    "<div style='background-image:url(//evil.example)'>",
    "<img src='http://evil.example/beacon'>",
    "<img src='/logout'>",
    "<button data-commandlinker-command='apputils:reset'>b",
    "<span data-commandlinker-command='x' class='jp-Dialog' id='jp-main'>s",
    "<noscript><p title='</noscript><img src=x onerror=x()>'>",
    "<table><style><img title='</style><img src=x onerror=x()>'>",
]
FORBIDDEN = re.compile(
    r"<(?:script|iframe|svg|math|object|embed|form|meta|link|base|style|button)|\son\w+=|javascript:"
    r"|evil\.example|data-|position|url\(|jp-|/logout|/api",
    re.IGNORECASE,
)


def in_the_page(html: str) -> str:
    return re.sub(r"<iframe sandbox=\"allow-scripts\" [^>]*></iframe>", "", html)


@pytest.mark.parametrize("attack", ATTACKS)
def test_76_no_attack_in_html_stands_in_the_page(attack: str) -> None:
    assert not FORBIDDEN.search(markup._cleaner()(attack))
    html = shown({"text/html": attack}).get("text/html", "")
    assert not FORBIDDEN.search(in_the_page(html))


@pytest.mark.parametrize(
    "bomb",
    [
        "<div>" * 300_000,
        "<b a=1><i b=2><p>" * 60_000,
        "<a href=x>" * 100_000,
        "<table><tr><td>" * 50_000,
        "</div>" * 100_000 + "<div>" * 100_000,
        "<tr><td>1</td></tr>" * 50_000,
        "<p " + "a=b " * 300_000 + ">",
        '<p " x=">" ' + "a " * 300_000 + ">",
        "<" * 1_000_000,
        "&" * 1_000_000,
        "[" * 200_000,
        "*_" * 100_000,
        "> " * 100_000,
        "[a](" * 50_000,
        "<svg" * 200_000,
        " on" * 300_000,
        "<p" + " " * 1_000_000,
    ],
    ids=lambda bomb: bomb[:12],
)
def test_76_no_html_takes_long_to_be_cleaned(bomb: str) -> None:
    begun = time.process_time()
    for mime in ("text/html", "image/svg+xml", "text/markdown"):
        shown({mime: bomb})
    markup.cleaned(bomb)
    assert time.process_time() - begun < MOST_SECONDS


@pytest.mark.parametrize("attack", ATTACKS)
def test_76_markdown_shows_html_as_text(attack: str) -> None:
    made = shown({"text/markdown": f"# title\n\n{attack}\n\n[a](javascript:x()) ![b](http://b/)"})

    assert list(made) == ["text/html"]
    assert "<h1>title</h1>" in made["text/html"]
    tags = re.findall(r"<[^>]*>", made["text/html"])
    assert not [tag for tag in tags if FORBIDDEN.search(tag)]
    assert "<img src" not in made["text/html"]


def test_76_a_frame_has_another_origin_and_fetches_nothing() -> None:
    html = frames.framed("<script>x()</script>", 200)
    outer = re.fullmatch(r'<iframe sandbox="allow-scripts" [^>]*srcdoc="([^"]*)"></iframe>', html)
    assert outer
    document = unescape(outer[1])
    inner = re.search(r'<iframe sandbox="allow-scripts" [^>]*srcdoc="([^"]*)"></iframe>', document)
    assert inner
    for page in (document, unescape(inner[1])):
        content = page.index("Content-Security-Policy")
        assert content < page.index("<body>")
        assert "default-src 'none'" in page[content:]
        assert "connect-src 'none'" in page[content:]
        assert "frame-src 'none'" in page[content:]
    assert unescape(inner[1]).endswith("<script>x()</script>")


def test_a_table_of_pandas_stays_a_table_in_the_page() -> None:
    table = '<div><style scoped>th{}</style><table border="1" class="dataframe"><tr><td>1'
    made = shown({"text/html": table, "text/plain": "1"})
    assert made["text/html"] == (
        '<div><table border="1" class="dataframe"><tbody><tr><td>1</td></tr></tbody></table></div>'
    )


def test_a_picture_is_base64_and_nothing_else() -> None:
    assert shown({"image/png": PNG})["image/png"] == PNG
    raw = msgspec.json.encode(PNG)
    assert bytes(shown({"image/png": msgspec.Raw(raw)})["image/png"]) == raw
    for evil in ('x" onerror="x()', {"a": 1}, msgspec.Raw(b'"x\\" onerror"'), msgspec.Raw(b"[1]")):
        assert "image/png" not in shown({"image/png": evil})


def test_77_text_that_came_as_json_goes_out_as_it_came_unless_something_is_in_it() -> None:
    plain = msgspec.Raw(rb'"x\ny"')
    assert shown({"text/plain": plain})["text/plain"] is plain
    for evil in (b"\\u001b[2J", b"\\f", b"\x7f", b"\xc2\x9b2J", b"\\u009b2J", b"\\u0007"):
        held = msgspec.Raw(b'"x' + evil + b'y"')
        assert shown({"text/plain": held})["text/plain"] == "xy"
    assert shown({"text/plain": msgspec.Raw(b"[1]")})["text/plain"].startswith("<output of type")


@pytest.mark.parametrize("escape", ["\x1b", "\x0c", "\x7f", "\x9b"])
def test_77_an_escape_far_into_a_long_text_is_seen_wherever_it_lies(escape: str) -> None:
    for length in (0, 65_000, 65_520, 131_000):
        for more in range(24):
            text = "x" * (length + more)
            raw = msgspec.json.encode(text + escape + "2Jy")
            assert terminal.has_escapes(raw), (length, more)
            assert not terminal.has_escapes(msgspec.json.encode(text + "é\n°\\u00e4\ty"))


def test_76_an_svg_is_a_picture() -> None:
    made = shown({"image/svg+xml": "<svg onload='x()'><script>x()</script></svg>"})["text/html"]
    assert re.fullmatch(r'<img [^>]*src="data:image/svg\+xml;base64,[A-Za-z0-9+/=]+">', made)


def test_76_formulas_only_typeset() -> None:
    assert shown({"text/latex": r"$\frac{a}{b}$"})["text/latex"] == r"$\frac{a}{b}$"
    for evil in (r"$\href{javascript:x()}{a}$", r"$\style{position:fixed}{a}$", r"\require{html}"):
        assert "text/latex" not in shown({"text/latex": evil})
        assert not re.search(r"\\(?:href|style|require)", markup.cleaned(f"<p>{evil}</p>"))


def test_metadata_says_only_how_large_a_picture_is() -> None:
    told = {"image/png": {"width": 5, "height": 5, "x": 1}, "isolated": True, "trusted": True}
    _, metadata = OutputPolicy("safe").bundle({"image/png": PNG, "text/html": "<b>b"}, told)
    assert metadata == {"image/png": {"width": 5, "height": 5}}


def test_what_is_left_out_is_told_once_and_something_is_shown() -> None:
    decided = OutputPolicy("safe")
    for _ in range(2):
        data, _ = decided.bundle({"application/vnd.evil+json": {}}, {})
        assert "application/vnd.evil+json" in data["text/plain"]
    assert len(decided.news()) == 1
    assert decided.news() == []


@pytest.mark.parametrize(
    ("data", "uses"),
    [
        ({"application/vnd.plotly.v1+json": {"data": [], "layout": {}}}, "Plotly.newPlot"),
        ({"application/vnd.vegalite.v5+json": {"mark": "bar"}}, "vegaEmbed"),
        ({"application/vnd.vegalite.v6.4.1+json": {"mark": "bar"}}, "vegaEmbed"),
        (
            {drawings.BOKEH: "", "application/javascript": "Bokeh.embed"},
            "Bokeh.embed",
        ),
    ],
)
def test_a_chart_is_drawn_in_a_frame_with_its_library(data: dict[str, Any], uses: str) -> None:
    evil = {"text/html": "<script>x()</script>", "text/plain": "chart"}
    made = shown({**data, **evil})

    assert set(made) == {"text/plain", "text/html"}
    assert in_the_page(made["text/html"]) == ""
    assert uses in made["text/html"]
    assert "script type=library" in unescape(unescape(made["text/html"]))


def test_a_chart_that_altair_made_a_page_of_is_drawn_without_what_the_page_fetches() -> None:
    made = altair.Chart(altair.Data(values=[{"a": "x", "b": 1}])).mark_bar().encode(x="a:N")
    page = made._repr_mimebundle_()["text/html"]
    drawn = unescape(unescape(shown({"text/html": page})["text/html"]))

    assert "jsdelivr" in page
    assert "cdn.jsdelivr.net/npm/vega@" not in drawn
    assert "vegaEmbed('#chart'" in drawn
    assert '"type": "bar"' in drawn


def test_a_chart_can_not_end_the_script_that_draws_it() -> None:
    evil = {"data": [], "layout": {"title": "</script><script>x()</script>"}}
    made = unescape(unescape(shown({drawings.PLOTLY: evil})["text/html"]))
    assert "<script>x()" not in made


def test_a_chart_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawings, "_file", lambda package, path: None)
    decided = OutputPolicy("safe")
    data, _ = decided.bundle({drawings.PLOTLY: {}, "text/plain": "Figure()"}, {})
    assert data == {"text/plain": "Figure()"}
    assert "install `plotly`" in decided.news()[0]


def test_77_pieces_of_an_escape_are_put_together_before_they_are_cleaned() -> None:
    whole = b"a\x1b[31mred\x1b]0;title\x07\x1b[2J\xc3\xa9\x1b[0m\n"
    for size in (1, 2, 3, 7):
        stream = terminal.Stream()
        pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
        said = b"".join(stream.clean(piece) for piece in [*pieces, b""])
        assert said == b"a\x1b[31mred\xc3\xa9\x1b[0m\n"


@pytest.fixture
def within(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HOME", str(tmp_path))

    def made(text: str = "") -> settings.Settings:
        folder = tmp_path / ".config/sandbox-kernel"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.toml").write_text(text)
        return settings.load(str(tmp_path))

    return made


def test_a_notebook_may_narrow_what_outputs_do_and_never_widen_it(within: Any) -> None:
    for source in (settings.MAGIC, settings.NOTEBOOK, settings.KERNELSPEC):
        assert policy.plan(source, within=within(), output="text").output == "text"
        with pytest.raises(NotAllowed, match="output"):
            policy.plan(source, within=within(), output="trusted")
        with pytest.raises(NotAllowed, match="output"):
            policy.plan(source, within=within('output = "text"'), output="safe")
    assert policy.plan(settings.MAGIC, within=within('output = "trusted"')).output == "trusted"
    allowed = within('[ceiling]\noutput = "trusted"')
    assert policy.plan(settings.MAGIC, within=allowed).output == "safe"
    assert policy.plan(settings.MAGIC, within=allowed, output="trusted").output == "trusted"
    assert policy.plan(settings.COMMAND_LINE, within=within(), output="trusted").output == "trusted"
