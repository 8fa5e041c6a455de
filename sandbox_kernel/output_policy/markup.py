"""HTML and Markdown of a stranger, as markup that can do nothing in the page it is put into.

`nh3` does the cleaning. What would lose by it, since it has scripts or style sheets, is shown in a
frame of its own instead: see `frames.py`.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

TAGS = {
    "a", "abbr", "b", "bdi", "bdo", "blockquote", "br", "caption", "cite", "code", "col",
    "colgroup", "dd", "del", "details", "dfn", "div", "dl", "dt", "em", "figcaption", "figure",
    "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "img", "ins", "kbd", "li", "mark", "ol", "p",
    "pre", "q", "rp", "rt", "ruby", "s", "samp", "small", "span", "strong", "sub", "summary",
    "sup", "table", "tbody", "td", "tfoot", "th", "thead", "time", "tr", "tt", "u", "ul", "var",
    "wbr",
}  # fmt: skip
ATTRIBUTES = {
    "*": {"title", "dir", "lang", "style", "align", "valign"},
    "a": {"href"},
    "col": {"span", "width"},
    "colgroup": {"span"},
    "details": {"open"},
    "img": {"src", "alt", "width", "height"},
    "ol": {"start", "type", "reversed"},
    "table": {"border", "cellpadding", "cellspacing", "width"},
    "td": {"colspan", "rowspan", "width"},
    "th": {"colspan", "rowspan", "scope", "width"},
}
CLASSES = {"table": {"dataframe"}}
"""No others: the page's own style sheets would make a dialogue or a toolbar of them."""
STYLES = {
    "background-color", "border", "border-bottom", "border-collapse", "border-color", "border-left",
    "border-radius", "border-right", "border-style", "border-top", "border-width", "color",
    "font-family", "font-size", "font-style", "font-weight", "line-height", "max-width",
    "min-width", "padding", "padding-bottom", "padding-left", "padding-right", "padding-top",
    "text-align", "text-decoration", "vertical-align", "white-space", "width",
}  # fmt: skip
"""Nothing that moves an element over others, and nothing that fetches."""
MOST_TAGS, MOST_DEPTH, MOST_AS_TEXT = 20_000, 200, 10_000
_BEGIN = re.compile(r"<[a-zA-Z/!?]")
_TAG = re.compile(
    r"<(?:(/?)([a-zA-Z][a-zA-Z0-9-]*+)(?:\s++[a-zA-Z_:][\w:.-]*+(?:\s*+=\s*+(?:\"[^\"<>]*+\""
    r"|'[^'<>]*+'|[^\s\"'<>=`]++))?){0,60}+\s*+/?>|!--|!doctype html>)",
    re.IGNORECASE,
)
_VOID = {"br", "hr", "img", "wbr", "col", "input", "link", "meta"}
_LINK = re.compile(r"(?:https?|mailto):", re.IGNORECASE)
_PICTURE = re.compile(r"data:image/(?:png|jpeg|gif|webp|bmp|svg\+xml)[;,]", re.IGNORECASE)
_ACTIVE = re.compile(
    r"<(?:script|iframe|frame|object|embed|applet|link|meta|canvas|svg|math|video|audio|form|input"
    r"|button|select|textarea|template|portal|style(?!\s+scoped))\b|[\s\"'/]on\w+\s*=",
    re.IGNORECASE,
)
_TEX = re.compile(
    r"\\(?=(?:href|url|class|cssId|style|data|html\w*|require|toggle|action\w*|mmlToken|unicode"
    r"|includegraphics|def|let|newcommand|renewcommand|newenvironment|newextarrow|definecolor)\b)"
)
_JOINER = "\N{WORD JOINER}"


def is_active(html: str) -> bool:
    """Whether cleaning would take what it is made of. Either way it is shown safely."""
    return _ACTIVE.search(html) is not None


def is_simple(html: str) -> bool:
    """Whether it can be cleaned in little time: tags of one plain form, not too many, not too deep.

    What parses HTML as pages do takes quadratic time for tags that are never closed, and for
    attributes without number. For tags of this form there is one way to read them.
    """
    if html.count("&") + html.count("<") > 3 * MOST_TAGS:
        return False
    depths: dict[str, int] = {}
    deep = 0
    for number, begin in enumerate(_BEGIN.finditer(html)):
        tag = _TAG.match(html, begin.start())
        if tag is None or number >= MOST_TAGS:
            return False
        name = (tag[2] or "").lower()
        if not tag[1] and name and name not in _VOID:
            depths[name] = depths.get(name, 0) + 1
            deep += 1
        elif tag[1] and depths.get(name):
            depths[name] -= 1
            deep -= 1
        if deep > MOST_DEPTH:
            return False
    return True


def cleaned(html: str) -> str:
    """The markup with tags, attributes, styles and links of the lists above and no others."""
    if not is_simple(html):
        from html import escape  # as in `frames`

        return f"<pre>{escape(html[:MOST_AS_TEXT])}</pre>"
    return without_tex_commands(_cleaner()(html))


def from_markdown(text: str) -> str:
    """Markdown as clean HTML. What is HTML in it is shown as text."""
    return cleaned(_markdown()(text))


def without_tex_commands(text: str) -> str:
    """The text, with commands of TeX that do more than typeset made words: pages typeset HTML."""
    return _TEX.sub(lambda _: "\\" + _JOINER, text)


def is_plain_tex(text: str) -> bool:
    """Whether a formula only typesets."""
    return _TEX.search(text) is None and "<" not in text.replace("< ", "")


@cache
def _cleaner() -> Any:
    import nh3

    def attribute(tag: str, name: str, value: str) -> str | None:
        if (tag, name) == ("a", "href"):
            return value if _LINK.match(value) else None
        if (tag, name) == ("img", "src"):
            return value if _PICTURE.match(value) else None
        return value

    def clean(html: str) -> str:
        made = nh3.clean(
            html,
            tags=set(TAGS),
            clean_content_tags={"script", "style", "title", "template", "noscript", "iframe"},
            attributes={tag: set(names) for tag, names in ATTRIBUTES.items()},
            attribute_filter=attribute,
            allowed_classes={tag: set(names) for tag, names in CLASSES.items()},
            filter_style_properties=set(STYLES),
            url_schemes={"http", "https", "mailto", "data"},
            link_rel="noopener noreferrer nofollow",
            set_tag_attribute_values={"a": {"target": "_blank"}},
            strip_comments=True,
        )
        return str(made)

    return clean


@cache
def _markdown() -> Any:
    from markdown_it import MarkdownIt

    maker = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    return maker.render
