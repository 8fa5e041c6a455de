"""`Plan`: each value that will be in force, or is, and where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from sandbox_kernel.errors import InvalidOption
from sandbox_kernel.observe.planned import Line, Planned
from sandbox_kernel.widgets.contract import Deed, View
from sandbox_kernel.widgets.markup import Markup, element, joined, plain

GROUPS = ("image", "limits", "network", "files", "isolation", "container", "process", "start",
          "kernel")  # fmt: skip
NOT_SET = "-"
KINDS_OF_SOURCE = {
    "built-in default": "default",
    "magic": "asked",
    "command line": "asked",
    "program": "asked",
    "notebook": "notebook",
    "kernelspec": "notebook",
}
LONGEST_LINE = 400


class PlanView(View):
    """The plan of one container, or of the next one."""

    name = "plan"
    title = "Plan"
    CHINESE: ClassVar[Mapping[str, str]] = {
        "Plan": "计划",
        "the next cell": "下一个单元格",
        "option": "选项",
        "value": "值",
        "from": "来源",
        "in force": "生效",
        "yes": "是",
        "no": "否",
        "yes, read back from the kernel": "是，已从内核读回",
        "the kernel says {value}": "内核显示 {value}",
        "can be held": "可以保证",
        "can't be held: {why}": "无法保证：{why}",
        "{count} values are set, {asked} of them asked for":
            "已设置 {count} 个值，其中 {asked} 个由人指定",
        "show what is not set, too": "也显示未设置的",
        "show only what is set": "只显示已设置的",
        "not set": "未设置",
        "image": "镜像",
        "limits": "限制",
        "network": "网络",
        "files": "文件",
        "isolation": "隔离",
        "container": "容器",
        "process": "进程",
        "start": "启动",
        "kernel": "内核",
        "other": "其他",
        "built-in default": "内置默认值",
        "magic": "魔法命令",
        "command line": "命令行",
        "program": "程序",
        "notebook": "笔记本",
        "kernelspec": "内核规格",
    }  # fmt: skip

    def __init__(self, subject: str, spoken: str | None = None) -> None:
        super().__init__(subject, spoken)
        self._facts: Planned | None = None
        self._all = False

    def take(self, facts: Planned) -> None:
        self._facts = facts

    def ask(self, action: str, fields: Mapping[str, str]) -> Deed | None:
        """`all`: show what is not set, too, or no more."""
        if action != "all" or fields.get("wanted") not in ("on", "off"):
            raise InvalidOption(self.name, action, "all: on or off")
        self._all = fields["wanted"] == "on"
        return None

    def shown_subject(self) -> str:
        return super().shown_subject() or self.say("the next cell")

    def lines(self) -> list[str]:
        found = []
        for group, lines in self._groups():
            found.append(f"{self.say(group)}:")
            found += [
                f"  {line.option:<20} {plain(line.value, 60):<20} "
                f"{self._source(line)}  {self._state(line)}".rstrip()
                for line in lines
            ]
        return [plain(line, LONGEST_LINE) for line in found]

    def body(self) -> Markup:
        facts = self._facts
        if facts is None:
            return Markup("")
        known = [line for line in facts.lines if line.value != NOT_SET]
        said = self.say(
            "{count} values are set, {asked} of them asked for",
            count=len(known),
            asked=sum(line.source != "built-in default" for line in known),
        )
        switch = element(
            "button",
            self.say("show only what is set" if self._all else "show what is not set, too"),
            data_act="all",
            data_wanted="off" if self._all else "on",
            aria_pressed="true" if self._all else "false",
        )
        head = element("p", said, " ", switch if self.live else None, data_key="head")
        bodies = [self._group(group, lines) for group, lines in self._groups()]
        words = ("option", "value", "from", "in force")
        heads = element("tr", *(element("th", self.say(word), scope="col") for word in words))
        table = element("table", element("thead", heads), *bodies, aria_label=self.say(self.title),
                        data_key="table")  # fmt: skip
        return joined([head, table])

    def _groups(self) -> list[tuple[str, list[Line]]]:
        if self._facts is None:
            return []
        found: dict[str, list[Line]] = {}
        for line in self._facts.lines:
            if self._all or line.value != NOT_SET:
                group = line.group if line.group in GROUPS else "other"
                found.setdefault(group, []).append(line)
        return [(group, found[group]) for group in (*GROUPS, "other") if group in found]

    def _group(self, group: str, lines: list[Line]) -> Markup:
        rows = [self._row(line) for line in lines]
        head = element("tr", element("th", self.say(group), colspan=4, scope="rowgroup"),
                       class_="sandbox-group")  # fmt: skip
        return element("tbody", head, *rows, data_key=f"group-{group}")

    def _row(self, line: Line) -> Markup:
        unset = line.value == NOT_SET
        state = self._state(line)
        kind = "bad" if line.lacking or line.in_force not in ("", "yes") else "good"
        return element(
            "tr",
            element(
                "th", element("code", "--" + line.option.replace("_", "-")), scope="row",
                title=line.help,
            ),
            element("td", self.say("not set") if unset else plain(line.value, 80),
                    class_="sandbox-quiet" if unset else "sandbox-value"),
            element("td", element("span", self._source(line), class_="sandbox-from",
                    data_kind=KINDS_OF_SOURCE.get(line.source, "file"))),
            element("td", state, class_=f"sandbox-{kind}"),
            data_key=line.option,
            data_asked="yes" if line.asked else "no",
        )  # fmt: skip

    def _source(self, line: Line) -> str:
        return self.CHINESE.get(line.source, line.source) if self.spoken == "zh" else line.source

    def _state(self, line: Line) -> str:
        if line.value == NOT_SET:
            return ""
        if line.lacking:
            return self.say("can't be held: {why}", why=line.lacking)
        if line.in_force == "yes":
            return self.say("yes, read back from the kernel" if line.read_back else "yes")
        if line.in_force in ("no", ""):
            return self.say("no" if line.in_force else "can be held")
        return self.say("the kernel says {value}", value=line.in_force)
