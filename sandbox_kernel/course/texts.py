"""What the course says, in both languages, and which of them this notebook is in."""

from __future__ import annotations

import locale
import os
from typing import NamedTuple

ENGLISH, CHINESE = LANGUAGES = ("en", "zh")
NOTEBOOK_VARIABLE = "JPY_SESSION_NAME"
"""Jupyter Server names the notebook of a kernel in it."""


class Text(NamedTuple):
    """One text for people, in English and in Chinese."""

    en: str
    zh: str

    def in_language(self, language: str) -> str:
        """The one of the two that this language is."""
        return self.zh if language == CHINESE else self.en


def same(text: str) -> Text:
    """What is no language: a number, the name of a file."""
    return Text(text, text)


def _working_folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""


BEGAN_IN = _working_folder()
"""Where this program was when the course was first asked for: chapters change to other folders."""


def of_the_folder() -> str:
    """The language of the course in whose folder the notebook lies; empty elsewhere."""
    notebook = os.environ.get(NOTEBOOK_VARIABLE, "")
    for folder in (os.path.dirname(notebook), BEGAN_IN):
        name = os.path.basename(folder)
        if name in LANGUAGES:
            return name
    return ""


def language() -> str:
    """That of the folder in which the notebook lies, `en` or `zh`; elsewhere that of the user."""
    if found := of_the_folder():
        return found
    given = [os.environ.get(name, "") for name in ("LC_ALL", "LC_MESSAGES", "LANG")]
    spoken = next((value for value in given if value), "")
    return CHINESE if locale.normalize(spoken).startswith("zh") else ENGLISH
