"""`Limits`: what a container uses against its limits, over the last minute.

Each quantity is a chart with its limit as a line that can be dragged. A reader who sees no colours,
or no pictures, has all of it in words.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from sandbox_kernel.errors import InvalidOption
from sandbox_kernel.grammar import shown_seconds, shown_size
from sandbox_kernel.observe.sampling import Sample
from sandbox_kernel.widgets import charts
from sandbox_kernel.widgets.charts import HEIGHT, LEAST_SPAN, MIB, WIDTH
from sandbox_kernel.widgets.contract import Deed, View
from sandbox_kernel.widgets.markup import Markup, element, joined

MOST_SAMPLES = 240
HIGH, FULL = 80, 95
"""Percent of a limit from which the words "near" and "at" stand beside it."""
BAR = 20
LEAST = {"memory": 6 * MIB, "cpus": 0.01, "pids_limit": 1}
"""The smallest limit that can be asked for."""
COLUMN = {"memory": 4, "cpus": 5, "pids_limit": 6, "storage": 7}
"""Where a quantity stands in a row of numbers; before them the parts of the memory."""
PARTS = {
    "anon": "of processes", "shmem": "files in memory", "file": "cache of files",
    "kernel": "of the kernel",
}  # fmt: skip
"""Parts of the memory as they are stacked, the lowest first."""


class Row(NamedTuple):
    """One quantity at the newest sample, and its past."""

    option: str
    """The option that limits it; the key of the row."""
    name: str
    used: str
    more: tuple[str, ...]
    """What stands below, each a few words."""
    limit: float | None
    limit_text: str
    percent: int | None
    """Of the limit. None: there is no limit, or nothing is known yet."""
    top: float
    """The end of the axis."""
    step: float
    unit: str

    @property
    def level(self) -> str:
        """`ok`, `high` or `full`."""
        percent = self.percent or 0
        return "full" if percent >= FULL else "high" if percent >= HIGH else "ok"


class LimitsView(View):
    """Samples of one container."""

    name = "limits"
    title = "Limits"
    CHINESE: ClassVar[Mapping[str, str]] = {
        "Limits": "限制",
        "Memory": "内存",
        "CPU": "处理器",
        "Processes": "进程",
        "Files": "文件",
        "of {limit}": "共 {limit}",
        "at most {value}": "最高 {value}",
        "{value} in all": "累计 {value}",
        "processors": "个处理器",
        ": near the limit": "：接近限制",
        ": at the limit": "：达到限制",
        "of processes": "进程",
        "files in memory": "内存中的文件",
        "cache of files": "文件缓存",
        "of the kernel": "内核",
        "held back for {value} in all": "累计被限流 {value}",
        "{value} written to devices": "写入设备 {value}",
        "{value} read from devices": "从设备读取 {value}",
        "out of memory": "内存不足",
        "forks refused: {count}": "被拒绝的新进程：{count}",
        "a fork was refused": "拒绝了一个新进程",
        "waited in the last 10 s: {list}": "最近 10 秒内的等待：{list}",
        "this machine counts no waiting of a group": "本机不按组统计等待",
        "limit of {name}": "{name}的限制",
        "memory": "内存",
        "cpu": "处理器",
        "io": "输入输出",
    }

    def __init__(self, subject: str, spoken: str | None = None) -> None:
        super().__init__(subject, spoken)
        self._samples: deque[Sample] = deque(maxlen=MOST_SAMPLES)
        self._numbers: deque[list[float | None]] = deque(maxlen=MOST_SAMPLES)
        self._taken = 0
        self._rows: dict[str, tuple[tuple[object, ...], Markup]] = {}
        self._parts: dict[tuple[str, str], tuple[object, Markup | None]] = {}

    def take(self, facts: Sample) -> None:
        self._samples.append(facts)
        parts = facts.memory_parts
        used = facts.processors
        self._numbers.append(
            [
                *(parts.get(part) for part in PARTS),
                facts.memory_bytes,
                None if used is None else round(used, 3),
                facts.pids,
                facts.storage_bytes,
            ]
        )
        self._taken += 1

    def drawn(self) -> tuple[int, Sequence[Sequence[float | None]]]:
        return self._taken - len(self._numbers), self._numbers

    def made_of(self) -> object:
        last, first = self.last, self._samples[0] if self._samples else None
        if last is None or first is None:
            return ()
        happened = last.oom_kills != first.oom_kills or last.forks_refused != first.forks_refused
        if happened or last.limits.memory is None or last.limits.pids is None:
            return None  # marks wander with the time, and an axis follows all that is shown
        return (
            last.limits,
            last.memory_bytes,
            last.memory_peak_bytes,
            *last.memory_parts.values(),
            None if last.processors is None else round(last.processors, 3),
            None if last.cpu_seconds is None else round(last.cpu_seconds, 2),
            last.throttled_seconds,
            last.pids,
            last.pids_peak,
            last.storage_bytes,
            last.read_bytes,
            last.written_bytes,
            last.oom_kills,
            last.forks_refused,
            *last.pressure.items(),
        )

    def finish(self, usage: Mapping[str, Any]) -> None:
        """What was used in the end, from who saw the end: as the last sample."""
        last = self.last
        if last is None:
            return
        names = (
            "memory_bytes",
            "memory_peak_bytes",
            "cpu_seconds",
            "pids",
            "pids_peak",
            "throttled_seconds",
            "read_bytes",
            "written_bytes",
            "storage_bytes",
            "oom_kills",
        )
        known = {name: usage[name] for name in names if usage.get(name) is not None}
        self.take(last._replace(**known, processors=None, throttled=None, memory_parts={}))

    @property
    def last(self) -> Sample | None:
        """The newest sample."""
        return self._samples[-1] if self._samples else None

    def ask(self, action: str, fields: Mapping[str, str]) -> Deed | None:
        """`limit`: the limit of an option was dragged to a value."""
        option = fields.get("option", "")
        if action != "limit" or option not in LEAST:
            raise InvalidOption(self.name, action, "a limit that can change while it lives")
        try:
            value = float(fields.get("value", ""))
        except ValueError:
            value = math.nan
        if not LEAST[option] <= value < 1 << 62:
            raise InvalidOption(option, fields.get("value", ""), f"at least {LEAST[option]:g}")
        wanted: object = round(value, 2) if option == "cpus" else int(value)
        return Deed("set_limits", {option: wanted})

    # -- what there is to show --------------------------------------------------------------------

    def rows(self) -> list[Row]:
        """Memory, CPU, processes and files; without those that this machine does not count."""
        last = self.last
        if last is None:
            return []
        limits = last.limits
        rows = []
        if last.memory_bytes is not None:
            more = []
            if last.memory_peak_bytes is not None:
                more.append(self.say("at most {value}", value=shown_size(last.memory_peak_bytes)))
            rows.append(self._row("memory", "Memory", limits.memory, more, unit="bytes"))
        if last.cpu_seconds is not None:
            spent = shown_seconds(round(last.cpu_seconds, 2))
            more = [self.say("{value} in all", value=spent)]
            if last.throttled_seconds and last.throttled_seconds >= 0.05:
                held = f"{last.throttled_seconds:.1f} s"
                more.append(self.say("held back for {value} in all", value=held))
            rows.append(
                self._row(
                    "cpus",
                    "CPU",
                    limits.processors,
                    more,
                    unit="processors",
                    top=float(limits.available),
                )
            )
        if last.pids is not None:
            more = []
            if last.pids_peak is not None:
                more.append(self.say("at most {value}", value=last.pids_peak))
            if last.forks_refused:
                more.append(self.say("forks refused: {count}", count=last.forks_refused))
            rows.append(self._row("pids_limit", "Processes", limits.pids, more))
        if last.storage_bytes is not None:
            rows.append(self._row("storage", "Files", limits.storage, [], unit="bytes"))
        return rows

    def _row(
        self,
        option: str,
        name: str,
        limit: float | None,
        more: list[str],
        *,
        unit: str = "",
        top: float | None = None,
    ) -> Row:
        column = COLUMN[option]
        now = self._numbers[-1][column]
        end = top
        if end is None:
            most = 0.0 if limit else max(row[column] or 0.0 for row in self._numbers)
            end = charts.end_of_axis(most, limit, unit)
        of = limit if limit is not None else top
        percent = None if now is None or not of else _percent(now, of)
        shown = self.say("no limit") if limit is None else self._shown(limit, unit)
        step = {
            "bytes": max(MIB, 2 ** round(math.log2(end / 128))) if end else MIB,
            "processors": 0.05,
        }.get(unit, max(1, round(end / 128)))
        return Row(
            option,
            self.say(name),
            "-" if now is None else self._shown(now, unit),
            tuple(more),
            limit,
            shown,
            percent,
            end,
            step,
            unit,
        )

    def history(self, option: str) -> list[float | None]:
        """What was used of a quantity, the oldest first."""
        return [row[COLUMN[option]] for row in self._numbers]

    def _shown(self, value: float, unit: str) -> str:
        if unit == "bytes":
            return shown_size(int(value))
        return f"{value:.2f}" if unit == "processors" else str(int(value))

    def _words(self, row: Row) -> str:
        """The numbers of a row, and what its colour says, in one line."""
        limit = row.limit_text
        if row.limit is not None:
            if row.unit == "processors":
                limit = f"{row.limit:g} {self.say('processors')}"
            limit = self.say("of {limit}", limit=limit)
        else:
            limit = ", " + limit
        warning = {"ok": "", "high": ": near the limit", "full": ": at the limit"}[row.level]
        words = f"{row.used}{'' if limit.startswith(',') else ' '}{limit}"
        return ", ".join([words, *row.more]) + (self.say(warning) if warning else "")

    def notes(self) -> list[str]:
        """What has no limit to be measured against, each in a few words."""
        last = self.last
        if last is None:
            return []
        found = []
        if last.read_bytes:
            found.append(self.say("{value} read from devices", value=shown_size(last.read_bytes)))
        if last.written_bytes:
            written = shown_size(last.written_bytes)
            found.append(self.say("{value} written to devices", value=written))
        if last.pressure:
            each = ", ".join(f"{self.say(key)} {part:g} %" for key, part in last.pressure.items())
            found.append(self.say("waited in the last 10 s: {list}", list=each))
        elif last.memory_parts:
            found.append(self.say("this machine counts no waiting of a group"))
        if last.oom_kills:
            found.append(self.say("out of memory"))
        return found

    # -- as it is shown ---------------------------------------------------------------------------

    def lines(self) -> list[str]:
        lines = []
        for row in self.rows():
            filled = "#" * round((row.percent or 0) * BAR / 100)
            bar = " " * (BAR + 2) if row.percent is None else f"[{filled:-<{BAR}}]"
            percent = "" if row.percent is None else f"{row.percent} %"
            lines.append(f"{row.name:<10}{bar} {percent:>5}  {self._words(row)}")
        return [*lines, *self.notes()]

    def body(self) -> Markup:
        notes = element("p", " · ".join(self.notes()), class_="sandbox-notes", data_key="notes")
        return joined([*(self._markup(row) for row in self.rows()), notes])

    def _markup(self, row: Row) -> Markup:
        """A row is made anew when something in it changed."""
        parts = self.last.memory_parts if self.last and row.option == "memory" else {}
        marks = self._marks(row)
        key = (row, tuple(parts.values()), marks, self.live, self.spoken, self.still)
        known = self._rows.get(row.option)
        if known is None or known[0] != key or self.still:
            known = self._rows[row.option] = key, self._make(row, marks)
        return known[1]

    def _part(
        self, name: str, row: Row, of: object, make: Callable[[Row], Markup | None]
    ) -> Markup | None:
        """A part of a row that seldom changes: as it was made of the same before."""
        if self.still:
            return make(row)
        key = (of, row.limit, row.top, self.live, self.spoken)
        known = self._parts.get((name, row.option))
        if known is None or known[0] != key:
            known = self._parts[name, row.option] = key, make(row)
        return known[1]

    def _make(self, row: Row, marks: Markup | None) -> Markup:
        percent = "" if row.percent is None else f"{row.percent} %"
        limit = self.say("of {limit}", limit=row.limit_text) if row.limit else row.limit_text
        return element(
            "div",
            element("span", row.name, class_="sandbox-row-name"),
            element(
                "div",
                self._meter(row),
                self._part("line", row, row.limit_text, self._line),
                marks,
                class_="sandbox-plot",
            ),
            element(
                "div",
                element("b", row.used),
                " ",
                element("span", limit),
                " ",
                element("em", percent, class_="sandbox-percent"),
                element("small", " · ".join(row.more)) if row.more else None,
                self._legend() if row.option == "memory" else None,
                class_="sandbox-numbers",
            ),
            class_="sandbox-row",
            data_key=row.option,
            data_level=row.level,
        )

    def _meter(self, row: Row) -> Markup:
        parts = tuple(self.last.memory_parts) if self.last else ()
        drawn = self._part("chart", row, parts, self._chart)
        if row.percent is None:
            return element("div", drawn, class_="sandbox-meter")
        return element(
            "div",
            drawn,
            class_="sandbox-meter",
            role="meter",
            aria_label=row.name,
            aria_valuemin=0,
            aria_valuemax=100,
            aria_valuenow=row.percent,
            aria_valuetext=self._words(row),
        )

    def _line(self, row: Row) -> Markup | None:
        """The limit: where it can change while the container lives, a line to drag."""
        place = 100 if row.limit is None else min(100, 100 * row.limit / row.top)
        tag = element("span", row.limit_text, class_="sandbox-limit-tag")
        style = f"bottom: {place:.2f}%"
        if row.option not in LEAST or not self.live:
            if row.limit is None:
                return None
            return element("div", class_="sandbox-limit", style=style, aria_hidden="true")
        value = row.top if row.limit is None else row.limit
        return element(
            "div",
            tag,
            class_="sandbox-limit",
            role="slider",
            tabindex=0,
            aria_label=self.say("limit of {name}", name=row.name),
            aria_orientation="vertical",
            aria_valuemin=_plain_number(LEAST[row.option]),
            aria_valuemax=_plain_number(row.top),
            aria_valuenow=_plain_number(value),
            aria_valuetext=row.limit_text,
            data_act="limit",
            data_option=row.option,
            data_step=_plain_number(row.step),
            data_unit=row.unit,
            data_none="" if row.limit is not None else "true",
            style=style,
        )

    def _marks(self, row: Row) -> Markup | None:
        """Where on the time axis the limit bit: out of memory, and forks that were refused."""
        counted = {
            "memory": ("oom_kills", "out of memory"),
            "pids_limit": ("forks_refused", "a fork was refused"),
        }.get(row.option)
        if counted is None:
            return None
        first, last = (getattr(self._samples[at], counted[0]) for at in (0, -1))
        if first == last:
            return None  # counters only grow: nothing happened in between
        counts = [getattr(sample, counted[0]) or 0 for sample in self._samples]
        span, start = charts.span(len(counts))
        places = [
            (start + index) / (span - 1)
            for index in range(1, len(counts))
            if counts[index] > counts[index - 1]
        ]
        said = self.say(counted[1])
        return joined(
            element(
                "span",
                class_="sandbox-mark",
                role="img",
                aria_label=said,
                title=said,
                style=f"left: {100 * place:.2f}%",
            )
            for place in places
        )

    def _chart(self, row: Row) -> Markup:
        """The past: drawn here for a page that stays as it is, else by the page itself."""
        parts = []
        if row.option == "memory" and self.last:
            parts = [at for at, part in enumerate(PARTS) if part in self.last.memory_parts]
        frame = {
            "viewBox": f"0 0 {WIDTH} {HEIGHT}",
            "preserveAspectRatio": "none",
            "aria_hidden": "true",
        }
        if self.still:
            drawn = charts.drawn(list(self._numbers), parts, COLUMN[row.option], row.top)
            return element("svg", *drawn, **frame)
        return element(
            "svg",
            **frame,
            data_draw=COLUMN[row.option],
            data_stack=",".join(map(str, parts)),
            data_top=_plain_number(row.top),
            data_least=LEAST_SPAN,
            data_most=MOST_SAMPLES,
        )

    def _legend(self) -> Markup | None:
        """What the areas of the memory's chart stand for, with their sizes now."""
        parts = self.last.memory_parts if self.last else {}
        shown = [
            element(
                "span",
                self.say(words),
                " ",
                element("b", shown_size(parts[part])),
                class_=f"sandbox-part sandbox-part-{number}",
            )
            for number, (part, words) in enumerate(PARTS.items())
            if part in parts
        ]
        return element("div", *shown, class_="sandbox-legend") if shown else None


def _percent(value: float, most: float) -> int:
    return max(0, min(100, round(100 * value / most)))


def _plain_number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else f"{value:.6g}"
