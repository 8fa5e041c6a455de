"""What every view is: facts in; markup, text, and what a click, a drag or a key asks for, out.

A view is pure: it holds the facts that it was given last and how its reader looks at them, and does
nothing to a container. `live.py` brings it together with where its facts come from.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from sandbox_kernel.errors import InvalidOption
from sandbox_kernel.widgets import language
from sandbox_kernel.widgets.markup import Markup, element, plain

MOST_LINE = 400
FOLDER = os.path.dirname(os.path.abspath(__file__))


class Deed(NamedTuple):
    """What is to be done to a container. The view has read and checked the fields."""

    name: str
    fields: Mapping[str, Any]


class View(ABC):
    """How the facts of one kind look. For one thread at a time."""

    name: ClassVar[str]
    """The word for `--show`; the class of its element is `sandbox-NAME`, its style NAME.css."""
    title: ClassVar[str]
    CHINESE: ClassVar[Mapping[str, str]] = {}
    """Each sentence of this view: English to Chinese."""

    def __init__(self, subject: str, spoken: str | None = None) -> None:
        """`subject`: the name of the container. `spoken`: the language, None for the user's."""
        self.subject = subject
        self.spoken = spoken or language.of_the_user()
        self.live = True
        self.why_ended = ""
        self.refusal = ""
        self.still = False
        """Whether it is made for a page in which nothing moves, and nobody answers."""
        self._answered = 0
        self._at: float | None = None
        self._last: tuple[object, Markup] | None = None

    # -- of each view -----------------------------------------------------------------------------

    @abstractmethod
    def take(self, facts: Any) -> None:
        """The newest facts."""

    @abstractmethod
    def body(self) -> Markup:
        """What is below the head."""

    @abstractmethod
    def lines(self) -> list[str]:
        """The same in text."""

    def drawn(self) -> tuple[int, Sequence[Sequence[float | None]]]:
        """Rows of numbers that a page draws: the number of the first, and all that are kept.

        An `svg` with `data-draw` names columns of them (see `front.js`). They are sent once, so
        that what moves all the time is not made anew all the time.
        """
        return 0, ()

    def made_of(self) -> object:
        """What all of the body follows from, where that is found sooner than the body is made.

        While it stays equal the markup of the last time is good. None: make it each time.
        """
        return None

    def ask(self, action: str, fields: Mapping[str, str]) -> Deed | None:
        """What a reader asks for by an element with `data-act`. Raises InvalidOption."""
        raise InvalidOption(self.name, action, "what this view offers")

    # -- of all -----------------------------------------------------------------------------------

    def say(self, sentence: str, /, **values: object) -> str:
        """The sentence in the reader's language, with `{names}` filled in."""
        said = sentence
        if self.spoken == language.CHINESE:
            said = self.CHINESE.get(sentence) or language.FRAME[sentence]
        return said.format(**values) if values else said

    def show(self, facts: Any, taken: float | None = None) -> None:
        """Takes new facts, of that time (seconds since the epoch, default: now)."""
        self.take(facts)
        self._at = time.time() if taken is None else taken

    def act(self, action: str, fields: Mapping[str, str]) -> Deed | None:
        """As `ask`, for what all views offer too. Raises InvalidOption."""
        self.refusal = ""
        if action == "language":
            self.spoken = language.nearest(fields.get("wanted", ""))
            return None
        return self.ask(action, fields)

    def answered(self, number: int, refusal: str = "") -> None:
        """The request of this number was carried out, or was not: why."""
        self._answered = max(self._answered, number)
        self.refusal = refusal

    def end(self, why: str, *, known: bool = False) -> None:
        """No more facts come. The first reason counts, unless who says another one knows it."""
        if self.live or known:
            self.live, self.why_ended = False, why

    def status(self) -> str:
        """Whether it is live, and of when it is."""
        if self.live:
            return self.say("waiting for the first look" if self._at is None else "live")
        why = language.reason(self.why_ended, self.spoken)
        if self._at is None:
            return why
        return f"{why} ({time.strftime('%H:%M:%S', time.localtime(self._at))})"

    def text(self) -> str:
        """For terminals, for pages without HTML, and for who hears rather than sees."""
        head = f"{self.say(self.title)}, {self.shown_subject()}: {self.status()}"
        return "\n".join([head, *(plain(line, MOST_LINE) for line in self.lines())])

    def markup(self) -> Markup:
        """As HTML without style and script, for the live view."""
        of = None if self.still else self.made_of()
        if of is None:
            return self._made()
        key = (of, self.status(), self.live, self.refusal, self._answered, self.spoken)
        if self._last is None or self._last[0] != key:
            self._last = key, self._made()
        return self._last[1]

    def _made(self) -> Markup:
        title = self.say(self.title)
        return element(
            "div",
            element(
                "div",
                element("strong", title, class_="sandbox-title"),
                element("span", self.shown_subject(), class_="sandbox-subject"),
                element("span", self.status(), role="status", class_="sandbox-status"),
                class_="sandbox-head",
            ),
            self.body(),
            element("p", self.refusal, role="alert", class_="sandbox-refusal", data_key="refusal"),
            class_=f"sandbox-view sandbox-{self.name}",
            role="group",
            lang={"zh": "zh-CN"}.get(self.spoken, self.spoken),
            aria_label=f"{title}: {self.shown_subject()}",
            data_state="live" if self.live else "ended",
            # JupyterLab takes keys for commands of its notebook, arrows and Enter among them.
            data_lm_suppress_shortcuts="true",
            data_answered=self._answered,
            data_silent=self.say("no news any more; this was the last"),
            data_waiting=self.say("asked; the notebook's kernel is busy"),
        )

    def shown_subject(self) -> str:
        """Whose facts these are, as a line of text."""
        return plain(self.subject, 60)

    def page(self) -> str:
        """As HTML with its style, for a saved notebook."""
        self.still = True
        try:
            return f"<style>{style(self.name)}</style>{self.markup()}"
        finally:
            self.still = False

    def bundle(self) -> dict[str, str]:
        """The state as it stays in a notebook, where no widget is."""
        return {"text/plain": self.text(), "text/html": self.page()}


def script() -> str:
    """The one module that keeps every live view up to date in the page."""
    return _file("front.js")


def style(name: str) -> str:
    """How the view of this name looks, in light and in dark."""
    own = f"{name}.css"
    return _file("front.css") + (_file(own) if os.path.exists(f"{FOLDER}/{own}") else "")


def _file(name: str) -> str:
    with open(f"{FOLDER}/{name}", encoding="utf-8") as file:
        return file.read()
