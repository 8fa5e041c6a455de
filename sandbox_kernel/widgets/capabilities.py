"""`Capabilities`: what root in a container may do and may not, in five sets, process by process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from sandbox_kernel.errors import InvalidOption
from sandbox_kernel.observe.capabilities import MEANS, SETS, Sets
from sandbox_kernel.observe.permitted import OfProcess, Permitted
from sandbox_kernel.observe.trials import TRIALS
from sandbox_kernel.widgets import attempts
from sandbox_kernel.widgets.capability_words import CHINESE as MEANS_IN_CHINESE
from sandbox_kernel.widgets.contract import Deed, View
from sandbox_kernel.widgets.markup import Markup, element, joined, plain

NEEDING = tuple(trial for trial in TRIALS if trial.needs)
"""What can be tried of it: calls for which the kernel asks for a capability."""
MOST_SHOWN = 30
LONGEST_LINE = 400


class CapabilitiesView(View):
    """What is held in one container."""

    name = "capabilities"
    title = "Capabilities"
    CHINESE: ClassVar[Mapping[str, str]] = {
        **attempts.CHINESE,
        **{MEANS[name]: words for name, words in MEANS_IN_CHINESE.items()},
        "Capabilities": "能力（capabilities）",
        "{name} holds {count} of {all} capabilities": "{name} 持有 {all} 项能力中的 {count} 项",
        "root in this container": "此容器中的 root",
        "over its own user namespace {inode} only": "仅在其自己的用户命名空间 {inode} 内有效",
        "no program can get more (no_new_privs)": "任何程序都无法获得更多（no_new_privs）",
        "this program on the host holds {count}": "本机上的此程序持有 {count} 项",
        "process": "进程",
        "processes": "进程",
        "capability": "能力",
        "what it lets a process do": "允许进程做什么",
        "held": "持有",
        "not held": "未持有",
        "here": "容器内",
        "host": "本机",
        "effective": "有效集",
        "permitted": "许可集",
        "inheritable": "可继承集",
        "bounding": "边界集",
        "ambient": "环境集",
        "number inside": "内部进程号",
        "number on the host": "本机进程号",
        "user inside": "内部用户",
        "user on the host": "本机用户",
        "all {count} capabilities": "全部 {count} 项能力",
        "no process can be seen": "看不到任何进程",
        "number of each set": "各集合的数目",
    }

    def __init__(self, subject: str, spoken: str | None = None) -> None:
        super().__init__(subject, spoken)
        self._facts: Permitted | None = None
        self._chosen: int | None = None

    def take(self, facts: Permitted) -> None:
        self._facts = facts

    def ask(self, action: str, fields: Mapping[str, str]) -> Deed | None:
        """`try`: a call. `process`: look at this one."""
        if action == "try":
            return attempts.ask(self.name, fields)
        there = {str(each.pid) for each in self._facts.processes} if self._facts else set()
        wanted = fields.get("pid", "")
        if action != "process" or wanted not in there:
            raise InvalidOption(self.name, wanted or action, "a process of the container")
        self._chosen = int(wanted)
        return None

    # -- in text ----------------------------------------------------------------------------------

    def lines(self) -> list[str]:
        facts = self._facts
        if facts is None:
            return []
        found = [*self._summary(facts)]
        chosen = self._shown(facts)
        sets = None if chosen is None else chosen.sets.value
        if chosen is not None and sets is not None:
            for kind in SETS:
                held = getattr(sets, kind)
                found.append(f"{self.say(kind)}: {' '.join(held) or self.say('none')}")
        elif chosen is not None:
            found.append(chosen.sets.reason)
        for each in facts.processes[:MOST_SHOWN]:
            found.append(" ".join(self._cells(each)))
        found += attempts.lines(facts.outcomes, self.say)
        return [plain(line, LONGEST_LINE) for line in found]

    def _summary(self, facts: Permitted) -> list[str]:
        chosen = self._shown(facts)
        if chosen is None:
            return [self.say("no process can be seen")]
        held = len(chosen.sets.value.effective) if chosen.sets.value else 0
        who = plain(chosen.name, 30)
        if chosen.inner_uid == 0:
            who = f"{self.say('root in this container')} ({who})"
        found = [
            self.say(
                "{name} holds {count} of {all} capabilities",
                name=who,
                count=held,
                all=len(facts.known),
            )
        ]
        if facts.user_namespace not in (None, facts.host_user_namespace):
            found.append(
                self.say("over its own user namespace {inode} only", inode=facts.user_namespace)
            )
        if facts.filter.value is not None and facts.filter.value.no_new_privileges:
            found.append(self.say("no program can get more (no_new_privs)"))
        if facts.host.value is not None:
            count = len(facts.host.value.effective)
            found.append(self.say("this program on the host holds {count}", count=count))
        return found

    def _shown(self, facts: Permitted) -> OfProcess | None:
        """The process that was chosen, else the last one: pid 1 only holds the container."""
        by_pid = {each.pid: each for each in facts.processes}
        if self._chosen in by_pid:
            return by_pid[self._chosen]
        return facts.processes[-1] if facts.processes else None

    def _cells(self, process: OfProcess) -> tuple[str, ...]:
        sets = process.sets.value
        counts = "-" if sets is None else "/".join(str(len(getattr(sets, kind))) for kind in SETS)
        inner = "-" if process.inner_pid is None else str(process.inner_pid)
        user = "-" if process.inner_uid is None else str(process.inner_uid)
        return plain(process.name, 30), inner, str(process.pid), user, str(process.uid), counts

    # -- as markup --------------------------------------------------------------------------------

    def body(self) -> Markup:
        facts = self._facts
        if facts is None:
            return Markup("")
        first, *others = self._summary(facts)
        return joined(
            [
                element(
                    "p", element("b", first), " ", element("span", " · ".join(others),
                    class_="sandbox-quiet"), data_key="summary",
                ),
                self._grid(facts),
                self._processes(facts),
                element("p", self.say("try it"), class_="sandbox-heading", data_key="try-head"),
                attempts.table(facts.outcomes, self.say, live=self.live, chosen=NEEDING),
            ]
        )  # fmt: skip

    def _grid(self, facts: Permitted) -> Markup:
        """Every capability as a tile: lit when it is held; what it means at its side."""
        chosen = self._shown(facts)
        held = None if chosen is None else chosen.sets.value
        tiles = [self._tile(name, held, facts.host.value) for name in facts.known]
        return element(
            "details",
            element("summary", self.say("all {count} capabilities", count=len(facts.known))),
            element("ul", *tiles, class_="sandbox-tiles"),
            open=True,
            data_key="grid",
        )

    def _tile(self, name: str, held: Sets | None, host: Sets | None) -> Markup:
        there = held is not None and name in held.effective
        at_host = host is not None and name in host.effective
        marks = [
            element(
                "i",
                class_="sandbox-set",
                data_held="yes" if held is not None and name in getattr(held, kind) else "no",
                title=self.say(kind),
            )
            for kind in SETS
        ]
        state = self.say("held" if there else "not held")
        at = self.say("held" if at_host else "not held")
        return element(
            "li",
            element("span", *marks, class_="sandbox-sets", aria_hidden="true"),
            element("b", name.removeprefix("CAP_").lower(), class_="sandbox-code"),
            element("small", self.say(MEANS[name]) if name in MEANS else ""),
            element(
                "span", f"{self.say('here')}: {state}, {self.say('host')}: {at}",
                class_="sandbox-hidden",
            ),
            data_held="yes" if there else "no",
            data_host="yes" if at_host else "no",
            data_key=name,
        )  # fmt: skip

    def _processes(self, facts: Permitted) -> Markup:
        heads = ("process", "number inside", "number on the host", "user inside",
                 "user on the host", "number of each set")  # fmt: skip
        chosen = self._shown(facts)
        rows = []
        for each in facts.processes[:MOST_SHOWN]:
            name, *numbers = self._cells(each)
            current = chosen is not None and each.pid == chosen.pid
            rows.append(
                element(
                    "tr",
                    element(
                        "th",
                        element(
                            "button", name, data_act="process", data_pid=each.pid,
                            aria_pressed="true" if current else "false",
                        ),
                        scope="row",
                    ),
                    *(element("td", number, class_="sandbox-number") for number in numbers),
                    data_key=f"process-{each.pid}",
                    title=self.say("read from {source}", source=each.sets.source),
                )
            )  # fmt: skip
        head = [
            element("th", self.say(word), scope="col", class_="sandbox-number" if index else None)
            for index, word in enumerate(heads)
        ]
        return element(
            "table",
            element("thead", element("tr", *head)),
            element("tbody", *rows),
            aria_label=self.say("processes"),
            data_key="processes",
        )
