"""`Containers`: the administrator's view of all containers; its rows are those of `top`, too."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import ClassVar, NamedTuple

from sandbox_kernel.cli.output import shown_age, text_table
from sandbox_kernel.errors import InvalidOption
from sandbox_kernel.grammar import shown_size
from sandbox_kernel.observe.containers import Row
from sandbox_kernel.widgets.contract import Deed, View
from sandbox_kernel.widgets.markup import Markup, element, joined, plain

HEADINGS = (
    "id", "container", "image", "state", "age", "memory", "processors", "held back", "processes",
    "written", "files",
)  # fmt: skip
SHOWN = (
    "container", "image", "state", "age", "memory", "processors", "processes", "files",
)  # fmt: skip
"""In a page, which is narrower than a terminal: an id is there for who points at the name."""
MOST_POINTS = 48
POINT_SECONDS = 1.0
"""The curve moves on no sooner: what stands in it is the most of that time."""
MOST_ROWS = 300
HIGH, FULL = 80, 95


class Cell(NamedTuple):
    """One number of a row: in words, and as percent of its limit, if it has one."""

    used: str
    limit: str = ""
    percent: float | None = None

    @property
    def text(self) -> str:
        """Both in words."""
        return f"{self.used} of {self.limit}" if self.limit else self.used


class Cells(NamedTuple):
    """A row as it is shown, in the order of the headings."""

    id: str
    container: str
    image: str
    state: str
    age: str
    memory: Cell
    processors: Cell
    held_back: Cell
    processes: Cell
    written: Cell
    files: Cell

    def texts(self) -> tuple[str, ...]:
        """All of it as text."""
        return tuple(each.text if isinstance(each, Cell) else each for each in self)


def cells(row: Row, now: float) -> Cells:
    """What is shown of a container."""
    use = row.use
    name = row.name or row.id
    state = row.status or row.state
    age = shown_age(now - row.created) if row.created else "-"
    if use is None:
        return Cells(row.id, name, row.image, state, age, *[Cell("-")] * 6)
    limits = use.limits
    processors = None if use.processors is None else f"{use.processors:.2f}"
    return Cells(
        row.id,
        name,
        row.image or "-",
        state,
        age,
        _cell(_size(use.memory_bytes), _size(limits.memory), use.memory_bytes, limits.memory),
        _cell(processors, f"{limits.most_processors:g}", use.processors, limits.most_processors),
        Cell("-" if use.throttled is None else f"{use.throttled:.0%}"),
        _cell(_count(use.pids), _count(limits.pids), use.pids, limits.pids),
        Cell(_size(use.written_bytes) or "-"),
        _cell(_size(use.storage_bytes), _size(limits.storage), use.storage_bytes, limits.storage),
    )


class ContainersView(View):
    """Every container of this user; of root's reader those of all users."""

    name = "containers"
    title = "Containers"
    CHINESE: ClassVar[Mapping[str, str]] = {
        "Containers": "容器",
        "{count} containers": "{count} 个容器",
        "id": "编号",
        "of {limit}": "共 {limit}",
        "container": "容器",
        "image": "镜像",
        "state": "状态",
        "age": "时间",
        "memory": "内存",
        "processors": "处理器",
        "held back": "限流",
        "processes": "进程",
        "written": "写入",
        "files": "文件",
        "starting": "启动中",
        "running": "运行中",
        "ending": "结束中",
        "ended": "已结束",
        "other": "其他用户",
        "no container of yours is here": "这里没有你的容器",
        "user {uid}: its launcher tells only its own user more":
            "用户 {uid}：其启动器只向自己的用户提供更多信息",
        "logs": "日志",
        "hide logs": "收起日志",
        "stop": "停止",
        "really stop?": "确定停止？",
        "remove": "删除",
        "really remove?": "确定删除？",
        "it wrote nothing": "没有输出",
        "and {count} more": "还有 {count} 个",
        "actions": "操作",
        "memory over time": "内存变化",
    }  # fmt: skip

    def __init__(self, subject: str = "", spoken: str | None = None) -> None:
        super().__init__(subject, spoken)
        self._rows: tuple[Row, ...] = ()
        self._opened: set[str] = set()
        self._history: dict[str, deque[int]] = {}
        self._most: dict[str, int] = {}
        """Of each container since the curves moved on."""
        self._moved = float("-inf")

    def take(self, facts: Sequence[Row]) -> None:
        self._rows = tuple(facts)
        here = {row.id for row in facts}
        self._opened &= here
        for gone in set(self._history) - here:
            del self._history[gone]
        for row in facts:
            if row.use is not None and row.use.memory_bytes is not None:
                self._most[row.id] = max(self._most.get(row.id, 0), row.use.memory_bytes)
        now = time.monotonic()
        if now - self._moved >= POINT_SECONDS:
            self._moved = now
            for each, most in self._most.items():
                self._history.setdefault(each, deque(maxlen=MOST_POINTS)).append(most)
            self._most.clear()

    def ask(self, action: str, fields: Mapping[str, str]) -> Deed | None:
        """`logs` opens and closes, `stop` and `remove` are deeds; all of one `id`."""
        found = next((row for row in self._rows if row.id == fields.get("id")), None)
        if found is None or found.state == "other":
            raise InvalidOption(self.name, fields.get("id", ""), "a container of yours")
        if action == "logs":
            self._opened ^= {found.id}
            return Deed("show_logs", {"ids": sorted(self._opened)})
        if action in ("stop", "remove"):
            return Deed(action, {"id": found.id})
        return super().ask(action, fields)

    def shown_subject(self) -> str:
        return self.say("{count} containers", count=len(self._rows))

    def lines(self) -> list[str]:
        if not self._rows:
            return [self.say("no container of yours is here")]
        now = time.time()
        headings = [self.say(heading) for heading in HEADINGS]
        rows = [
            [plain(text, 40) for text in self._translated(cells(row, now)).texts()]
            for row in self._rows[:MOST_ROWS]
        ]
        return text_table(headings, rows).splitlines()

    def _translated(self, shown: Cells) -> Cells:
        state = self.say(shown.state) if shown.state in self.CHINESE else shown.state
        return shown._replace(state=state)

    def body(self) -> Markup:
        if not self._rows:
            return element("p", self.say("no container of yours is here"), class_="sandbox-quiet")
        now = time.time()
        rows: list[Markup] = []
        shown = self._rows[:MOST_ROWS]
        ordered = sorted(shown, key=lambda row: (row.user, row.launcher))
        for (user, launcher), group in groupby(ordered, key=lambda row: (row.user, row.launcher)):
            members = list(group)
            rows.append(self._head(user, launcher, members))
            for row in members:
                rows.append(self._row(row, now))
                if row.logs is not None and row.id in self._opened:
                    rows.append(self._logs(row))
        head = element(
            "tr",
            *(
                element("th", self.say(heading), scope="col",
                        class_="sandbox-number" if index > 2 else None)
                for index, heading in enumerate(SHOWN)
            ),
            element("th", self.say("actions"), scope="col"),
        )  # fmt: skip
        more = len(self._rows) - len(shown)
        return joined(
            [
                element(
                    "div",
                    element("table", element("thead", head), element("tbody", *rows)),
                    class_="sandbox-scroll",
                    tabindex=0,
                    role="group",
                    aria_label=self.say("Containers"),
                ),
                element("p", self.say("and {count} more", count=more)) if more else None,
            ]
        )

    def _head(self, user: int, launcher: str, members: Sequence[Row]) -> Markup:
        """A program, above the containers that it asked for."""
        program = members[0].program
        if members[0].state == "other":
            program = self.say("user {uid}: its launcher tells only its own user more", uid=user)
        return element(
            "tr",
            element(
                "th", element("span", program or "-"), colspan=len(SHOWN) + 1, scope="rowgroup"
            ),
            class_="sandbox-program",
            data_key=f"program {user} {launcher}",
        )

    def _row(self, row: Row, now: float) -> Markup:
        shown = self._translated(cells(row, now))
        numbers = [
            self._cell(cell)
            for cell in (shown.memory, shown.processors, shown.processes, shown.files)
        ]
        named = element("span", shown.container, class_="sandbox-code", title=row.id)
        return element(
            "tr",
            element("th", named, self._spark(row), scope="row"),
            element("td", shown.image, class_="sandbox-image-name", title=shown.image),
            element("td", shown.state, class_=f"sandbox-state-{row.state}"),
            element("td", shown.age, class_="sandbox-number"),
            *numbers,
            element("td", *self._buttons(row), class_="sandbox-buttons"),
            data_key=row.id,
            data_id=row.id,
        )  # fmt: skip

    def _cell(self, cell: Cell) -> Markup:
        level = bar = limit = None
        if cell.limit:
            limit = element("small", " ", self.say("of {limit}", limit=cell.limit))
        if cell.percent is not None:
            level = "full" if cell.percent >= FULL else "high" if cell.percent >= HIGH else None
            bar = element("i", style=f"width: {min(100, cell.percent):.0f}%", aria_hidden="true")
        return element(
            "td", element("b", cell.used), limit, bar, class_="sandbox-number", data_level=level
        )

    def _spark(self, row: Row) -> Markup | None:
        past = self._history.get(row.id, ())
        most = max(past, default=0)
        limit = row.use.limits.memory if row.use and row.use.limits.memory else None
        top = max(most * 1.2, min(limit or most * 2, most * 4), 1)
        start = MOST_POINTS - len(past)
        points = " ".join(
            f"{start + at},{20 - 19 * value / top:.3g}" for at, value in enumerate(past)
        )
        return element(
            "svg", element("polyline", points=Markup(points)), class_="sandbox-spark",
            viewBox=f"0 0 {MOST_POINTS - 1} 20", preserveAspectRatio="none", role="img",
            aria_label=self.say("memory over time"),
        )  # fmt: skip

    def _buttons(self, row: Row) -> list[Markup]:
        if row.state == "other":
            return []
        opened = row.id in self._opened
        name = plain(row.name or row.id, 40)
        logs = self.say("hide logs" if opened else "logs")
        word = "remove" if row.state == "ended" else "stop"
        return [
            element("button", logs, type="button", data_act="logs", data_id=row.id,
                    aria_expanded="true" if opened else "false", aria_label=f"{logs}: {name}"),
            element("button", self.say(word), type="button", data_act=word, data_id=row.id,
                    data_confirm=self.say(f"really {word}?"),
                    aria_label=f"{self.say(word)}: {name}"),
        ]  # fmt: skip

    def _logs(self, row: Row) -> Markup:
        lines = [element("div", line or " ") for line in row.logs or ()]
        if not lines:
            lines = [element("div", self.say("it wrote nothing"), class_="sandbox-quiet")]
        return element(
            "tr",
            element("td", element("pre", *lines), colspan=len(SHOWN) + 1),
            class_="sandbox-log",
            data_key=f"log {row.id}",
        )


def _cell(used: str | None, limit: str | None, number: float | None, most: float | None) -> Cell:
    if used is None:
        return Cell("-")
    if limit is None or not most:
        return Cell(used)
    return Cell(used, limit, None if number is None else 100 * number / most)


def _size(count: int | None) -> str | None:
    return None if count is None else shown_size(count)


def _count(count: int | None) -> str | None:
    return None if count is None else str(count)
