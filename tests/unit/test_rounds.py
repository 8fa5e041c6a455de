"""Threads that look at many things in turn, and what a view tells when nothing changes."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

import pytest

from sandbox_kernel.observe import Limits, Reading, sample
from sandbox_kernel.observe.observer import ENDED, STOPPED, Observer
from sandbox_kernel.observe.source import Source
from sandbox_kernel.widgets.limits import LimitsView
from sandbox_kernel.widgets.live import Live, Opened

SECONDS = 30.0


class Counting(Source):
    """Says how often it was looked at, until it was often enough."""

    quick = True

    def __init__(self, most: int = 1 << 30) -> None:
        super().__init__("counting", interval=0.01)
        self.most = most
        self.looks = 0
        self.threads: set[int] = set()
        self.open_now = False

    def opened(self) -> tuple[int, ...]:
        self.open_now = True
        return ()

    def facts(self) -> int | None:
        self.looks += 1
        self.threads.add(threading.get_ident())
        return self.looks if self.looks <= self.most else None

    def closed(self) -> None:
        self.open_now = False


class Slow(Counting):
    """One for which nobody shall wait."""

    quick = False


class Told:
    """What an observer says, to be waited for."""

    def __init__(self, source: Source) -> None:
        self.facts: list[Any] = []
        self.why: list[str] = []
        self._news = threading.Condition()
        self.observer = Observer(source, self._told, self._ended)

    def _told(self, facts: Any) -> None:
        with self._news:
            self.facts.append(facts)
            self._news.notify_all()

    def _ended(self, why: str) -> None:
        with self._news:
            self.why.append(why)
            self._news.notify_all()

    def until(self, wanted: Callable[[], object]) -> None:
        with self._news:
            assert self._news.wait_for(wanted, SECONDS)


def test_what_is_quick_shares_a_thread_and_what_is_slow_has_its_own() -> None:
    sources = [Counting(), Counting(), Slow(), Slow()]
    told = [Told(source) for source in sources]
    for each in told:
        each.until(lambda each=each: len(each.facts) >= 3)  # type: ignore[misc]
    for each in told:
        each.observer.stop()
    assert [each.why for each in told] == [[STOPPED]] * 4
    assert [source.open_now for source in sources] == [False] * 4
    threads = [source.threads for source in sources]
    assert threads[0] == threads[1]
    assert len(set().union(*threads)) == 3
    again = Told(Counting(most=2))  # the thread has ended, or is about to: another one comes
    again.until(lambda: again.why)
    assert (again.facts, again.why) == ([1, 2], [ENDED])


def test_a_mistake_in_one_is_shown_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[str] = []
    monkeypatch.setattr("sys.excepthook", lambda kind, value, trace: shown.append(str(value)))

    class Broken(Counting):
        def facts(self) -> int | None:
            raise LookupError("a mistake")

    sound, broken = Told(Counting()), Told(Broken())
    broken.until(lambda: broken.why)
    before = len(sound.facts)
    sound.until(lambda: len(sound.facts) > before + 2)
    sound.observer.stop()
    assert (shown, broken.why) == (["a mistake"], ["a mistake"])
    assert not broken.observer.running


class Samples(Source):
    """Samples of a container in which nothing happens until somebody says so."""

    quick = True

    def __init__(self) -> None:
        super().__init__("samples", interval=0.02)
        self.memory = 1 << 20
        self.looks = 0

    def facts(self) -> object:
        self.looks += 1
        usage = {"memory_bytes": self.memory, "pids": 2, "cpu_seconds": 1.0}
        now = Reading(self.looks, usage)
        return sample(None, now, Limits(memory=8 << 20, pids=9), 1.0)


def test_a_chart_in_which_nothing_changes_is_told_seldom_and_a_change_at_once() -> None:
    source = Samples()
    news: list[dict[str, Any]] = []
    heard = threading.Condition()
    live: Live | None = None

    def changed() -> None:
        with heard:
            if live is not None and (told := live.news()):
                news.append(told)
            heard.notify_all()

    live = Live(Opened(view=LimitsView("work", "en"), source=source), changed)

    def until(wanted: Callable[[], object]) -> None:
        with heard:
            assert heard.wait_for(wanted, SECONDS)

    until(lambda: len(news) >= 3)
    assert source.looks > 3 * len(news)  # fifty looks in a second, and one message
    source.memory = 3 << 20
    until(lambda: "3 MiB" in news[-1].get("markup", ""))
    live.stop("stopped")
    rows = [told["series"] for told in news if "series" in told]
    assert rows[-1]["rows"][-1][4] == 3 << 20
    for before, after in itertools.pairwise(rows):  # and no row is missing
        assert after["from"] == before["from"] + len(before["rows"])
