"""`Compare`: one workload behind several walls, measured on this machine at that moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import ClassVar, NamedTuple

from sandbox_kernel.errors import InvalidOption
from sandbox_kernel.grammar import shown_size
from sandbox_kernel.observe.compared import Compared
from sandbox_kernel.observe.comparing import WALLS, Measured
from sandbox_kernel.observe.workload import CALLS
from sandbox_kernel.widgets.contract import Deed, View
from sandbox_kernel.widgets.markup import Markup, element, joined, plain

LONGEST_LINE = 400
TITLES = {
    "process": "process",
    "container": "container",
    "runc": "runc",
    "crun": "crun",
    "gvisor": "gVisor",
    "machine": "virtual machine",
}


class _Row(NamedTuple):
    """One property: its name, a number to draw, and how it is said."""

    name: str
    number: Callable[[Measured], float | None]
    words: Callable[[Measured], str | None]
    note: str


class CompareView(View):
    """The walls side by side."""

    name = "compare"
    title = "Compare"
    CHINESE: ClassVar[Mapping[str, str]] = {
        "Compare": "比较",
        "one workload, several walls": "同一负载，不同隔离方式",
        "process": "进程",
        "container": "容器",
        "runc": "runc",
        "crun": "crun",
        "gVisor": "gVisor",
        "virtual machine": "虚拟机",
        "time to start": "启动时间",
        "memory": "内存",
        "kernel that it sees": "所见内核",
        "files in its root": "根目录中的文件",
        "processes that it sees": "所见进程",
        "system calls that reach the host": "到达本机的系统调用",
        "the administrator sees": "管理员看到",
        "its open file is found": "能找到它打开的文件",
        "yes": "是",
        "no": "否",
        "not here: {why}": "这里没有：{why}",
        "measuring {wall}": "正在测量 {wall}",
        "waiting": "等待中",
        "measured here at {time}": "于 {time} 在本机测量",
        "measure again": "重新测量",
        "until its first output": "直到首次输出",
        "of all its processes on the host, shared pages divided": "本机上其全部进程，共享页均分",
        "for {count} calls of three kinds": "三类调用共 {count} 次",
        "not counted: {why}": "未计数：{why}",
        "names of its processes in the host's /proc": "本机 /proc 中其进程的名称",
        "through /proc/PID/fd on the host": "通过本机的 /proc/PID/fd",
        "property": "属性",
    }

    def __init__(self, subject: str, spoken: str | None = None) -> None:
        super().__init__(subject, spoken)
        self._facts: Compared | None = None

    def take(self, facts: Compared) -> None:
        self._facts = facts

    def ask(self, action: str, fields: Mapping[str, str]) -> Deed | None:
        """`again`: measure once more."""
        if action != "again":
            raise InvalidOption(self.name, action, "again")
        return Deed("again", {})

    def shown_subject(self) -> str:
        return self.say("one workload, several walls")

    def lines(self) -> list[str]:
        if self._facts is None:
            return []
        found = [self._moment(self._facts)]
        measured = {each.wall: each for each in self._facts.measured}
        for wall in WALLS:
            title = self.say(TITLES[wall])
            known = measured.get(wall)
            if known is None:
                found.append(f"{title}: {self._pending(wall)}")
            elif known.reason:
                found.append(f"{title}: {self.say('not here: {why}', why=plain(known.reason))}")
            else:
                words = [f"{self.say(row.name)} {row.words(known) or '-'}" for row in self._rows()]
                found.append(f"{title}: {'; '.join(words)}")
        return [plain(line, LONGEST_LINE) for line in found]

    def body(self) -> Markup:
        facts = self._facts
        if facts is None:
            return Markup("")
        measured = {each.wall: each for each in facts.measured}
        again = None
        if self.live and not facts.running:
            again = element("button", self.say("measure again"), data_act="again")
        head = element("p", self._moment(facts), " ", again, data_key="head")
        heads = [element("td")]
        for wall in WALLS:
            known = measured.get(wall)
            state = "pending" if known is None else "absent" if known.reason else "here"
            heads.append(
                element("th", self.say(TITLES[wall]), scope="col", data_state=state, data_wall=wall)
            )
        table = element(
            "table",
            element("thead", element("tr", *heads)),
            element("tbody", self._absences(measured), *(
                self._row(row, measured) for row in self._rows()
            )),
            aria_label=self.say(self.title),
            data_key="table",
        )  # fmt: skip
        return joined([head, table])

    def _absences(self, measured: Mapping[str, Measured]) -> Markup:
        """The reason under each wall that is not here, and which is being measured."""
        cells = []
        for wall in WALLS:
            known = measured.get(wall)
            if known is None:
                cells.append(element("td", element("small", self._pending(wall))))
            elif known.reason:
                why = self.say("not here: {why}", why=known.reason)
                cells.append(element("td", element("small", why)))
            else:
                cells.append(element("td"))
        return element("tr", element("th", "", scope="row"), *cells, class_="sandbox-absences",
                       data_key="absences")  # fmt: skip

    def _pending(self, wall: str) -> str:
        running = self._facts is not None and self._facts.running == wall
        title = self.say(TITLES[wall])
        return self.say("measuring {wall}", wall=title) if running else self.say("waiting")

    def _row(self, row: _Row, measured: Mapping[str, Measured]) -> Markup:
        numbers = {wall: row.number(known) for wall, known in measured.items() if not known.reason}
        most = max((number for number in numbers.values() if number), default=0)
        cells = []
        for wall in WALLS:
            known = measured.get(wall)
            if known is None or known.reason:
                cells.append(element("td", "", class_="sandbox-absent"))
                continue
            number = numbers.get(wall)
            bar = None
            if number is not None and most:
                bar = element(
                    "span",
                    element("span", style=f"width: {max(0.5, 100 * number / most):.1f}%"),
                    class_="sandbox-meter-line",
                    data_wall=wall,
                    aria_hidden="true",
                )
            cells.append(element("td", element("b", row.words(known) or "-"), bar))
        return element(
            "tr",
            element("th", self.say(row.name), element("small", row.note), scope="row"),
            *cells,
            data_key=row.name,
        )

    def _rows(self) -> list[_Row]:
        say = self.say
        return [
            _Row(
                "time to start",
                lambda each: each.start_seconds,
                lambda each: None if each.start_seconds is None else _time(each.start_seconds),
                say("until its first output"),
            ),
            _Row(
                "memory",
                lambda each: each.memory.value,
                lambda each: each.memory.reason if each.memory.value is None
                else shown_size(each.memory.value),
                say("of all its processes on the host, shared pages divided"),
            ),
            _Row(
                "system calls that reach the host",
                lambda each: each.calls,
                lambda each: say("not counted: {why}", why=each.calls_reason)
                if each.calls is None else f"{each.calls:,}",
                say("for {count} calls of three kinds", count=3 * CALLS),
            ),
            _Row("files in its root", _none, lambda each: str(each.files_seen), ""),
            _Row("processes that it sees", lambda each: each.processes_seen,
                 lambda each: str(each.processes_seen), ""),
            _Row("kernel that it sees", _none, lambda each: plain(each.kernel, 30), ""),
            _Row("the administrator sees", _none,
                 lambda each: plain(", ".join(each.names), 60),
                 say("names of its processes in the host's /proc")),
            _Row("its open file is found", _none,
                 lambda each: None if each.file_found is None
                 else say("yes" if each.file_found else "no"),
                 say("through /proc/PID/fd on the host")),
        ]  # fmt: skip

    def _moment(self, facts: Compared) -> str:
        if facts.running:
            return self.say("measuring {wall}", wall=self.say(TITLES[facts.running]))
        moment = time.strftime("%H:%M:%S", time.localtime(facts.taken))
        return self.say("measured here at {time}", time=moment)


def _none(_: Measured) -> None:
    return None


def _time(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"
