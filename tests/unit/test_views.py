"""What all views share: text stays text, two languages, one module for the page, nothing else."""

from __future__ import annotations

import ast
import gzip
import importlib
import inspect
import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from sandbox_kernel.errors import InvalidOption
from sandbox_kernel.widgets import contract, kinds, language
from sandbox_kernel.widgets.contract import View
from sandbox_kernel.widgets.markup import Markup, element, plain

HOSTILE = [
    "<img src=x onerror=alert(1)>", "</style><script>alert(1)</script>", "\" onfocus=\"alert(1)",
    "\x1b[31mred\x07", "\u202egnp.exe", "a\u2066b\u2069", "\x00\r\n", "\udcff", "x" * 10_000,
]  # fmt: skip


def view_classes() -> list[type[View]]:
    """Every view that there is."""
    for where in kinds.KINDS.values():
        importlib.import_module(where.partition(":")[0])
    for name in kinds.KINDS:
        try:
            importlib.import_module(f"sandbox_kernel.widgets.{name.replace('-', '_')}")
        except ModuleNotFoundError:
            continue
    return sorted(View.__subclasses__(), key=lambda each: each.__name__)


@pytest.mark.parametrize("text", HOSTILE)
def test_what_comes_from_a_container_is_text_and_can_be_seen(text: str) -> None:
    made = element("p", text, title=text, data_key=text)
    parsed = ElementTree.fromstring(made)
    assert list(parsed) == []
    assert set(parsed.attrib) == {"title", "data-key"}
    assert parsed.text == parsed.get("title") == plain(text)
    assert (parsed.text or "").isprintable()
    assert len(parsed.text or "") < 900


def test_only_what_was_made_as_markup_passes_as_markup() -> None:
    inner = element("b", "1 < 2")
    assert element("p", inner, "<i>") == "<p><b>1 &lt; 2</b>&lt;i&gt;</p>"
    assert element("p", "".join(inner)).count("&lt;") == 2
    assert element("br") == "<br>"
    assert element("p", hidden=True, title=None, lang=False) == '<p hidden=""></p>'
    assert isinstance(element("p"), Markup)


@pytest.mark.parametrize("made", view_classes(), ids=lambda made: made.__name__)
def test_a_view_says_everything_in_both_languages(made: type[View]) -> None:
    tree = ast.parse(inspect.getsource(sys.modules[made.__module__]))
    said = {
        call.args[0].value
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "say"
        and isinstance(call.args[0], ast.Constant)
    }
    known = {**language.FRAME, **made.CHINESE}
    assert {sentence for sentence in said if sentence not in known} == set()
    assert made.title in known
    for english, chinese in made.CHINESE.items():
        assert re.findall(r"{\w+}", english) == re.findall(r"{\w+}", chinese) or sorted(
            re.findall(r"{\w+}", english)
        ) == sorted(re.findall(r"{\w+}", chinese)), english


@pytest.mark.parametrize("made", view_classes(), ids=lambda made: made.__name__)
def test_a_view_with_no_facts_yet_has_markup_and_text(made: type[View]) -> None:
    for spoken in ("en", "zh"):
        view = made("<work>", spoken)
        root = ElementTree.fromstring(view.markup())
        assert root.get("data-state") == "live"
        assert root.get("lang") == {"en": "en", "zh": "zh-CN"}[spoken]
        assert "&lt;work&gt;" in view.page() or made.name in kinds.OF_ALL
        view.end("the container ended")
        assert language.reason("the container ended", spoken) in view.text()
        with pytest.raises(InvalidOption):
            view.act("no such action", {})
        assert set(view.bundle()) == {"text/plain", "text/html"}


def test_the_language_is_that_of_the_locale_or_of_the_page(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    assert language.of_the_user() == "en"
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    assert language.of_the_user() == "zh"
    (made, *_) = view_classes()
    view = made("work")
    assert view.spoken == "zh"
    view.act("language", {"wanted": "en-GB"})
    assert view.spoken == "en"


def test_nothing_is_loaded_from_anywhere_and_it_is_small() -> None:
    styles = {name: contract.style(name) for name in kinds.KINDS}
    for text in (contract.script(), *styles.values()):
        assert not re.search(
            r"https?:(?!//www\.w3\.org/2000/svg)|//cdn|@import|url\(|import\s*\(|fetch\(|\bfrom\s+[\"']",
            text,
        )
    everything = contract.script() + "".join(styles.values())
    assert len(gzip.compress(everything.encode())) < 250_000


def test_the_package_loads_without_its_widgets() -> None:
    code = (
        "import sys, sandbox_kernel, sandbox_kernel.widgets, magics.grammar; "
        "print({'ipywidgets', 'anywidget', 'IPython', 'sandbox_kernel.widgets.live'} "
        "& set(sys.modules)); "
        "from sandbox_kernel.widgets import Limits; print(Limits.__name__)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["set()", "Limits"]
