"""`Lifecycle`: from image to removal as a picture of states, with the times that were noted.

The image is the class, the container one object of it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import ClassVar

from sandbox_kernel.grammar import shown_seconds
from sandbox_kernel.observe.lifecycle import Life, RunOf, Stage
from sandbox_kernel.widgets.contract import View
from sandbox_kernel.widgets.markup import Markup, element, joined, plain

SHOWN = ("image", "created", "started", "running", "stopping", "ended", "removed")
WIDTH, HEIGHT = 760, 132
BOX, TALL, TOP = 86, 40, 34
MOST_RUNS = 12
SPEED = {
    "created": "asked for",
    "started": "made",
    "running": "program started",
    "stopping": "asked to stop",
    "ended": "all processes over",
    "removed": "nothing left",
}
"""What the moment of a state is."""
LONGEST_LINE = 400


class LifecycleView(View):
    """The life of one container."""

    name = "lifecycle"
    title = "Lifecycle"
    CHINESE: ClassVar[Mapping[str, str]] = {
        "Lifecycle": "生命周期",
        "image": "镜像",
        "created": "已创建",
        "started": "已启动",
        "running": "运行中",
        "stopping": "停止中",
        "ended": "已结束",
        "removed": "已删除",
        "asked for": "收到请求",
        "made": "已建成",
        "program started": "程序已启动",
        "asked to stop": "收到停止请求",
        "all processes over": "全部进程结束",
        "nothing left": "没有任何残留",
        "class": "类",
        "object": "对象",
        "the image is the class": "镜像是类",
        "the container is an object of it": "容器是它的对象",
        "{count} containers of it live": "现有 {count} 个由它创建的容器",
        "{count} layers": "{count} 层",
        "id": "标识",
        "number on the host": "本机进程号",
        "started by": "由谁启动",
        "state": "状态",
        "now: {state}": "当前：{state}",
        "after {time}": "{time} 后",
        "run": "运行",
        "began": "开始",
        "took": "用时",
        "how it ended": "结束方式",
        "goes on": "仍在运行",
        "programs that ran in it": "在其中运行过的程序",
        "why it ended: {why}": "结束原因：{why}",
        "the launcher no longer knows what came first": "启动器已不记得最初的事件",
        "picture of the states": "状态图",
        "before": "此前",
    }

    def __init__(self, subject: str, spoken: str | None = None) -> None:
        super().__init__(subject, spoken)
        self._life: Life | None = None

    def take(self, facts: Life) -> None:
        self._life = facts

    # -- in text ----------------------------------------------------------------------------------

    def lines(self) -> list[str]:
        life = self._life
        if life is None:
            return []
        found = [
            f"{self.say('class')}: {plain(life.image, 60)} ({self._class_words(life)})",
            f"{self.say('object')}: {life.id} {plain(life.name, 60)}",
            self.say("now: {state}", state=self.say(life.state)),
        ]
        found += [
            f"  {self.say(stage.name):<10} {_moment(stage.at)} {self._after(life, stage)}".rstrip()
            for stage in life.stages
            if stage.at is not None
        ]
        found += [f"  {' '.join(self._cells(run, life))}" for run in life.runs[-MOST_RUNS:]]
        return [plain(line, LONGEST_LINE) for line in (*found, *self._notes(life))]

    def _class_words(self, life: Life) -> str:
        words = [self.say("{count} containers of it live", count=life.objects)]
        if life.layers:
            words.insert(0, self.say("{count} layers", count=life.layers))
        return ", ".join(words)

    def _notes(self, life: Life) -> list[str]:
        found = []
        if life.reason:
            found.append(self.say("why it ended: {why}", why=plain(life.reason)))
        if life.missed:
            found.append(self.say("the launcher no longer knows what came first"))
        return found

    def _after(self, life: Life, stage: Stage) -> str:
        """How long after the state before it that has a time."""
        before = [each.at for each in life.stages if each.at is not None and each is not stage]
        earlier = [at for at in before if stage.at is not None and at <= stage.at]
        if stage.at is None or not earlier or stage.name == "created":
            return ""
        return self.say("after {time}", time=_span(stage.at - max(earlier)))

    def _cells(self, run: RunOf, life: Life) -> tuple[str, ...]:
        took = "-"
        if run.started is not None:
            took = _span((run.ended or life.taken) - run.started)
        how = plain(run.how, 40) if run.ended is not None else self.say("goes on")
        return str(run.number), _moment(run.started), took, how

    # -- as markup --------------------------------------------------------------------------------

    def body(self) -> Markup:
        life = self._life
        if life is None:
            return Markup("")
        return joined([self._classes(life), self._drawn(life), self._runs(life), self._said(life)])

    def _classes(self, life: Life) -> Markup:
        digest = plain(life.digest, 26)
        return element(
            "div",
            element(
                "div",
                element("small", self.say("class")),
                element("b", plain(life.image, 60)),
                element("code", digest),
                element("small", self._class_words(life)),
                class_="sandbox-class",
                title=self.say("the image is the class"),
            ),
            element("span", "→", class_="sandbox-arrow", aria_hidden="true"),
            element(
                "div",
                element("small", self.say("object")),
                element("b", plain(life.name, 60)),
                element("code", life.id),
                element(
                    "small",
                    f"{self.say('number on the host')} {life.pid}" if life.pid else "",
                    f" · {self.say('started by')} {plain(life.program, 30)}"
                    if life.program else "",
                ),
                class_="sandbox-object",
                title=self.say("the container is an object of it"),
            ),
            class_="sandbox-kinds",
            data_key="kinds",
        )  # fmt: skip

    def _drawn(self, life: Life) -> Markup:
        """A chain of states: those that were, the one that is, those that may come."""
        step = (WIDTH - BOX) / (len(SHOWN) - 1)
        at = {stage.name: stage for stage in life.stages}
        place = SHOWN.index(life.state)
        drawn = []
        for number, name in enumerate(SHOWN):
            stage = at[name]
            left = number * step
            known = name == "image" or stage.at is not None
            # One that was left out, as when a container ends without being asked to, never was.
            state = "now" if number == place else "was" if known else "ahead"
            drawn.append(self._state(life, stage, left, state))
            if number:
                drawn.append(_arrow(left - step + BOX, left, "was" if known else "ahead"))
        return element(
            "svg",
            *drawn,
            class_="sandbox-states",
            viewBox=f"0 0 {WIDTH} {HEIGHT}",
            role="img",
            aria_label=f"{self.say('picture of the states')}: {'; '.join(self.lines()[2:])}",
            data_key="states",
        )

    def _state(self, life: Life, stage: Stage, left: float, state: str) -> Markup:
        middle = left + BOX / 2
        texts = [_text(self.say(stage.name), middle, TOP + 25, "sandbox-name")]
        if stage.at is not None:
            texts.append(_text(_moment(stage.at), middle, TOP + TALL + 18, "sandbox-small"))
            texts.append(_text(self._after(life, stage), middle, TOP + TALL + 34, "sandbox-took"))
            texts.append(_text(self.say(SPEED[stage.name]), middle, TOP - 10, "sandbox-small"))
        elif stage.name == "image":
            texts.append(_text(self.say("before"), middle, TOP + TALL + 18, "sandbox-small"))
        return element(
            "g",
            element("rect", x=f"{left + 1:g}", y=TOP, width=BOX - 2, height=TALL, rx=8),
            *texts,
            element("title", self.say("read from {source}", source=stage.source)),
            class_="sandbox-state",
            data_state=state,
            data_key=f"state-{stage.name}",
        )

    def _runs(self, life: Life) -> Markup | None:
        if not life.runs:
            return None
        words = ("run", "began", "took", "how it ended")
        heads = [
            element("th", self.say(word), scope="col", class_="sandbox-number" if word == "took"
                    else None)
            for word in words
        ]  # fmt: skip
        rows = []
        for run in reversed(life.runs[-MOST_RUNS:]):
            number, began, took, how = self._cells(run, life)
            rows.append(
                element(
                    "tr",
                    element("th", number, scope="row"),
                    element("td", began, class_="sandbox-quiet"),
                    element("td", took, class_="sandbox-number"),
                    element("td", how),
                    data_key=f"run-{run.number}",
                    data_state="over" if run.ended is not None else "on",
                )
            )
        return element(
            "table",
            element("thead", element("tr", *heads)),
            element("tbody", *rows),
            aria_label=self.say("programs that ran in it"),
            data_key="runs",
        )

    def _said(self, life: Life) -> Markup:
        return element("p", " · ".join(self._notes(life)), class_="sandbox-notes", data_key="notes")


def _moment(at: float | None) -> str:
    if at is None:
        return "-"
    whole = time.strftime("%H:%M:%S", time.localtime(at))
    return f"{whole}.{int(at % 1 * 1000):03d}"


def _span(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.1f} ms"
    return shown_seconds(round(seconds, 1 if seconds < 60 else 0))


def _arrow(left: float, right: float, state: str) -> Markup:
    y = TOP + TALL / 2
    return element(
        "path",
        d=f"M{left + 3:g} {y:g}H{right - 4:g}m-5 -4l5 4l-5 4",
        class_="sandbox-step",
        data_state=state,
    )


def _text(text: str, x: float, y: float, kind: str) -> Markup:
    return element("text", plain(text, 40), x=f"{x:g}", y=f"{y:g}", class_=kind)
