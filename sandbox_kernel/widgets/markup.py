"""Markup made of elements: what is not made here is text, and stays text whatever is in it.

Names of processes, files and hosts come out of containers. A string that is given as a child or as
an attribute is shown cut, with what can't be seen written out, and escaped; only what `element`
made passes as it is.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable

MOST_CHARACTERS = 200
_VOID = {"br", "hr", "input"}
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Categories of Unicode that move the cursor, turn the direction of text, or show nothing."""


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def plain(text: object, most: int = MOST_CHARACTERS) -> str:
    """The text as one short line in which everything can be seen: `\\x1b`, `\\u202e`, …"""
    given = text if type(text) is str else str(text)
    cut = given[:most] if len(given) > most else given
    if not (cut.isascii() and cut.isprintable()):
        cut = "".join(_seen(character) for character in cut)
    return cut + "…" if len(given) > most else cut


def _seen(character: str) -> str:
    if unicodedata.category(character) not in _UNSEEN:
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else (
        f"\\U{code:08x}"
    )  # fmt: skip


def element(name: str, *children: str | None, **attributes: object) -> Markup:
    """`element("td", "web", class_="name", data_key="web")`.

    `_` in the name of an attribute is `-`, but for one at its end, which is left out. An attribute
    that is None or False is left out, one that is True has no value.
    """
    written = "".join(
        [
            _attribute(key, value)
            for key, value in attributes.items()
            if value is not None and value is not False
        ]
    )
    if name in _VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{joined(children)}</{name}>")


def joined(children: Iterable[str | None]) -> Markup:
    """Children one behind the other."""
    return Markup("".join([_child(child) for child in children if child is not None]))


def _child(child: str) -> str:
    if type(child) is str and _ORDINARY.fullmatch(child):
        return child
    return child if type(child) is Markup else _escaped(plain(child))


def _attribute(key: str, value: object) -> str:
    name = _NAMES.get(key)
    if name is None:
        name = _NAMES[key] = key.rstrip("_").replace("_", "-")
    if value is True:
        return f' {name}=""'
    if type(value) is str and _ORDINARY.fullmatch(value):
        return f' {name}="{value}"'
    return f' {name}="{value if type(value) is Markup else _escaped(plain(value))}"'


def _escaped(text: str) -> str:
    return html.escape(text) if _SPECIAL.search(text) else text


_NAMES: dict[str, str] = {}
"""How attributes are spelled; the names stand in our code, so there are few."""
_SPECIAL = re.compile("[&<>\"']")
_ORDINARY = re.compile(f"[ !#-%(-;=?-~]{{0,{MOST_CHARACTERS}}}")
"""What is shown as it is: most of what there is, found out by one look."""
