"""`SystemCalls`: what the filter of a container says, what is called and refused, and calls to try.

Counting is switched on by its reader: whoever counts makes the calls of the container slower.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from sandbox_kernel.errors import InvalidOption
from sandbox_kernel.observe.called import Called
from sandbox_kernel.observe.filters import Filter
from sandbox_kernel.widgets import attempts
from sandbox_kernel.widgets.contract import Deed, View
from sandbox_kernel.widgets.markup import Markup, element, joined, plain

MOST_CALLS = 16
MOST_REFUSED = 30
LAYERS = {"filter": "seccomp filter", "kernel": "kernel"}
LONGEST_LINE = 400


class SystemCallsView(View):
    """The calls of one container."""

    name = "system-calls"
    title = "System calls"
    CHINESE: ClassVar[Mapping[str, str]] = {
        **attempts.CHINESE,
        "System calls": "系统调用",
        "{allowed} allowed, {conditional} by their arguments, {refused} refused, "
        "all others {error}":
            "{allowed} 个允许，{conditional} 个取决于参数，{refused} 个拒绝，其余均为 {error}",
        "no filter: every call reaches the kernel": "没有过滤器：每个调用都到达内核",
        "in force on the last process": "已在最后的进程上生效",
        "not in force": "未生效",
        "allowed": "允许",
        "by their arguments": "取决于参数",
        "refused with {error}": "以 {error} 拒绝",
        "count": "开始计数",
        "stop counting": "停止计数",
        "counting makes the calls of this container many times slower":
            "计数期间，此容器的调用会慢很多倍",
        "calls are not counted": "未计数",
        "{total} calls of {followed} threads in {seconds} s":
            "{seconds} 秒内 {followed} 个线程共 {total} 次调用",
        "counted: {total} calls in {seconds} s": "已计数：{seconds} 秒内 {total} 次调用",
        "nobody was refused anything": "没有任何拒绝",
        "call": "调用",
        "count of calls": "次数",
        "each second": "每秒",
        "error": "错误",
        "refused by": "拒绝者",
        "calls by name": "按名称统计的调用",
        "refused calls": "被拒绝的调用",
        "and {count} others": "以及另外 {count} 个",
        "not followed: {list}": "未跟踪：{list}",
        "counting ended: {why}": "计数已结束：{why}",
        "what the filter says": "过滤器的规定",
    }  # fmt: skip

    def __init__(self, subject: str, spoken: str | None = None) -> None:
        super().__init__(subject, spoken)
        self._facts: Called | None = None

    def take(self, facts: Called) -> None:
        self._facts = facts

    def ask(self, action: str, fields: Mapping[str, str]) -> Deed | None:
        """`try`: a call. `count`: switch counting on or off."""
        if action == "try":
            return attempts.ask(self.name, fields)
        wanted = fields.get("wanted", "")
        if action != "count" or wanted not in ("on", "off"):
            raise InvalidOption(self.name, wanted or action, "on or off")
        return Deed("count", {"on": wanted == "on"})

    # -- in text ----------------------------------------------------------------------------------

    def lines(self) -> list[str]:
        facts = self._facts
        if facts is None:
            return []
        found = [self._says(facts.filter), self._in_force(facts), self._counted(facts)]
        found += [f"  {name} {count}" for name, count in facts.counted.calls[:MOST_CALLS]]
        for refused in facts.counted.refused[:MOST_REFUSED]:
            layer = self.say(LAYERS[refused.layer])
            found.append(
                f"  {refused.name} {refused.error} {refused.count}: "
                f"{self.say('refused by')} {layer}"
            )
        found += attempts.lines(facts.outcomes, self.say)
        return [plain(line, LONGEST_LINE) for line in found]

    def _says(self, filter_: Filter | None) -> str:
        if filter_ is None:
            return self.say("no filter: every call reaches the kernel")
        return self.say(
            "{allowed} allowed, {conditional} by their arguments, {refused} refused, "
            "all others {error}",
            allowed=len(filter_.allowed),
            conditional=len(filter_.conditional),
            refused=len(filter_.refused),
            error=filter_.otherwise,
        )

    def _in_force(self, facts: Called) -> str:
        known = facts.in_force.value
        if known is None:
            return facts.in_force.reason
        if known.mode != "filter":
            return self.say("not in force")
        return self.say("in force on the last process")

    def _counted(self, facts: Called) -> str:
        counted, seconds = facts.counted, f"{facts.seconds:.0f}"
        if facts.stopped:
            return self.say("counting ended: {why}", why=facts.stopped)
        if facts.counting:
            return self.say(
                "{total} calls of {followed} threads in {seconds} s",
                total=f"{counted.total:,}",
                followed=counted.followed,
                seconds=seconds,
            )
        if counted.total:
            total = f"{counted.total:,}"
            return self.say("counted: {total} calls in {seconds} s", total=total, seconds=seconds)
        return self.say("calls are not counted")

    # -- as markup --------------------------------------------------------------------------------

    def body(self) -> Markup:
        facts = self._facts
        if facts is None:
            return Markup("")
        return joined(
            [
                self._filter(facts),
                self._switch(facts),
                self._tables(facts) if facts.counted.total else None,
                element("p", self.say("try it"), class_="sandbox-heading", data_key="try-head"),
                attempts.table(facts.outcomes, self.say, live=self.live),
                attempts.form(self.say, live=self.live),
            ]
        )

    def _filter(self, facts: Called) -> Markup:
        """A bar of all calls that it names, and on demand their names."""
        words = f"{self._says(facts.filter)} ({self._in_force(facts)})"
        known = facts.filter
        if known is None:
            return element("p", words, data_key="filter")
        by_error: dict[str, list[str]] = {}
        for name, error in known.refused:
            by_error.setdefault(error, []).append(name)
        groups: list[tuple[str, str, Sequence[str]]] = [
            ("allowed", self.say("allowed"), known.allowed),
            ("conditional", self.say("by their arguments"), known.conditional),
            *(
                ("refused", self.say("refused with {error}", error=error), names)
                for error, names in sorted(by_error.items(), key=lambda item: -len(item[1]))
            ),
        ]
        bar = [
            element("span", style=f"flex: {len(names)}", class_=f"sandbox-{kind}")
            for kind, _, names in groups
        ]
        shown = [
            joined(
                [
                    element("dt", f"{title} ({len(names)})", class_=f"sandbox-{kind}"),
                    element(
                        "dd",
                        joined(joined([element("code", name), " "]) for name in sorted(names)),
                    ),
                ]
            )
            for kind, title, names in groups
        ]
        return element(
            "details",
            element(
                "summary",
                words,
                element("div", *bar, class_="sandbox-bar", aria_hidden="true"),
            ),
            element("dl", *shown),
            data_key="filter",
            title=self.say("read from {source}", source=known.source),
        )

    def _switch(self, facts: Called) -> Markup:
        parts: list[Markup | str | None] = []
        if self.live:
            parts.append(
                element(
                    "button",
                    self.say("stop counting" if facts.counting else "count"),
                    data_act="count",
                    data_wanted="off" if facts.counting else "on",
                    data_key="switch",
                    aria_pressed="true" if facts.counting else "false",
                )
            )
        parts += [" ", element("b", self._counted(facts), data_key="sum")]
        note = self.say("counting makes the calls of this container many times slower")
        parts.append(element("small", f" {note}", data_key="note"))
        if facts.counted.not_followed:
            each = "; ".join(f"{pid}: {why}" for pid, why in facts.counted.not_followed[:5])
            parts.append(
                element("small", self.say("not followed: {list}", list=each), data_key="silent")
            )
        return element("p", *parts, class_="sandbox-switch", data_key="counting")

    def _tables(self, facts: Called) -> Markup:
        return element(
            "div", self._calls(facts), self._refused(facts), class_="sandbox-halves",
            data_key="tables",
        )  # fmt: skip

    def _calls(self, facts: Called) -> Markup:
        rates = dict(facts.rates)
        calls = facts.counted.calls
        most = max((count for _, count in calls), default=1)
        rows = [
            element(
                "tr",
                element("th", element("code", name), scope="row"),
                element("td", _meter(count / most), class_="sandbox-share"),
                element("td", f"{count:,}", class_="sandbox-number"),
                element(
                    "td", f"{rates.get(name, 0):,.0f}" if facts.counting else "-",
                    class_="sandbox-number",
                ),
                data_key=f"call-{name}",
            )
            for name, count in calls[:MOST_CALLS]
        ]  # fmt: skip
        head = element(
            "tr",
            element("th", self.say("call"), scope="col"),
            element("td"),
            element("th", self.say("count of calls"), scope="col", class_="sandbox-number"),
            element("th", self.say("each second"), scope="col", class_="sandbox-number"),
        )
        others = len(calls) - MOST_CALLS
        note = self.say("and {count} others", count=others) if others > 0 else ""
        table = element("table", element("thead", head), element("tbody", *rows),
                        aria_label=self.say("calls by name"), data_key="table")  # fmt: skip
        return element("div", table, element("small", note, data_key="more"), data_key="calls")

    def _refused(self, facts: Called) -> Markup:
        refused = facts.counted.refused
        if not refused:
            said = self.say("nobody was refused anything")
            return element("p", said, class_="sandbox-quiet", data_key="refused")
        rows = [
            element(
                "tr",
                element("th", element("code", plain(each.name, 40)), scope="row"),
                element("td", each.error, class_="sandbox-code sandbox-refused"),
                element("td", f"{each.count:,}", class_="sandbox-number"),
                element(
                    "td",
                    element("span", self.say(LAYERS[each.layer]), class_="sandbox-layer",
                            data_layer=LAYERS[each.layer].replace(" ", "-")),
                ),
                data_key=f"refused-{each.name}-{each.error}-{each.layer}",
            )
            for each in refused[:MOST_REFUSED]
        ]  # fmt: skip
        heads = ("refused calls", "error", "count of calls", "refused by")
        head = [
            element("th", self.say(word), scope="col",
                    class_="sandbox-number" if word == "count of calls" else None)
            for word in heads
        ]  # fmt: skip
        return element(
            "table",
            element("thead", element("tr", *head)),
            element("tbody", *rows),
            aria_label=self.say("refused calls"),
            data_key="refused",
        )


def _meter(share: float) -> Markup:
    return element(
        "span",
        element("span", style=f"width: {100 * share:.1f}%"),
        class_="sandbox-meter-line",
        aria_hidden="true",
    )
