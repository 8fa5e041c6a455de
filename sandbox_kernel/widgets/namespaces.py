"""`Namespaces`: containers as boxes on the host, what they share, and both sides of one of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from sandbox_kernel.errors import InvalidOption
from sandbox_kernel.observe.boxes import Box, Side, World
from sandbox_kernel.observe.fact import Fact
from sandbox_kernel.observe.identities import Extent, Offsets
from sandbox_kernel.observe.namespaces import KINDS
from sandbox_kernel.observe.processes import Process
from sandbox_kernel.widgets.contract import Deed, View
from sandbox_kernel.widgets.markup import Markup, element, joined, plain

MOST_PROCESSES = 40
MOST_MOUNTS = 60
MEANING = {
    "user": "users and capabilities", "mount": "mounts", "pid": "processes", "network": "network",
    "ipc": "shared memory and queues", "uts": "host name", "cgroup": "control groups",
    "time": "clocks",
}  # fmt: skip


class NamespacesView(View):
    """The containers of one user, seen from the host."""

    name = "namespaces"
    title = "Namespaces"
    CHINESE: ClassVar[Mapping[str, str]] = {
        "Namespaces": "命名空间",
        "host": "宿主机",
        "this machine": "本机",
        "users and capabilities": "用户和权能",
        "mounts": "挂载点",
        "processes": "进程",
        "network": "网络",
        "shared memory and queues": "共享内存和队列",
        "host name": "主机名",
        "control groups": "控制组",
        "clocks": "时钟",
        "shared with the host": "与宿主机共享",
        "shared with {names}": "与 {names} 共享",
        "its own": "自己的",
        "inside {name}": "{name} 内部所见",
        "on the host": "宿主机所见",
        "look into {name}": "查看 {name} 的内部",
        "{count} processes": "{count} 个进程",
        "{count} mounts": "{count} 个挂载点",
        "users": "用户",
        "links": "网络接口",
        "ids {first} to {last} are {outside} to {end} of the host":
            "内部 {first} 至 {last} 即宿主机 {outside} 至 {end}",
        "id {first} is {outside} of the host": "内部 {first} 即宿主机 {outside}",
        "all ids as they are": "所有 id 原样不变",
        "set off by {seconds} s": "偏移 {seconds} 秒",
        "as the host's": "与宿主机相同",
        "as they are": "原样",
        "pid": "进程号",
        "user": "用户",
        "program": "程序",
        "the same process, numbered twice": "同一个进程，两套编号",
        "none of the host's": "宿主机上没有",
        "no such id": "没有这个 id",
        "and {count} more": "还有 {count} 个",
        "owner: user {uid} of the host": "所有者：宿主机用户 {uid}",
        "namespace": "命名空间",
        "number": "编号",
        "who shares it": "与谁共享",
        "read-only": "只读",
        "what is mounted inside": "内部挂载了什么",
    }  # fmt: skip

    def __init__(self, subject: str, spoken: str | None = None) -> None:
        super().__init__(subject, spoken)
        self._world: World | None = None

    def take(self, facts: World) -> None:
        self._world = facts

    def ask(self, action: str, fields: Mapping[str, str]) -> Deed | None:
        """`choose`: look into another box."""
        boxes = self._world.boxes if self._world else ()
        if action == "choose" and any(box.id == fields.get("id") for box in boxes):
            return Deed("choose", {"id": fields["id"]})
        raise InvalidOption(self.name, fields.get("id", action), "a container that is shown")

    # -- who shares what --------------------------------------------------------------------------

    def _members(self) -> dict[tuple[str, int], list[str]]:
        """Who is in each namespace, the host left out."""
        found: dict[tuple[str, int], list[str]] = {}
        for box in self._world.boxes if self._world else ():
            for kind, inode in box.namespaces.items():
                found.setdefault((kind, inode), []).append(box.id)
        return found

    def _sharing(self, box: Box, kind: str) -> tuple[str, str]:
        """`host`, `some`, `own` or `unseen`; and the same in words."""
        assert self._world is not None
        inode = box.namespaces.get(kind)
        if inode is None:
            return "unseen", self.say("not visible to you")
        if self._world.host.get(kind) == inode:
            return "host", self.say("shared with the host")
        names = {each.id: each.name for each in self._world.boxes}
        others = [
            plain(names[each], 30)
            for each in self._members().get((kind, inode), ())
            if each != box.id
        ]
        if others:
            return "some", self.say("shared with {names}", names=", ".join(others[:5]))
        return "own", self.say("its own")

    # -- as text ----------------------------------------------------------------------------------

    def lines(self) -> list[str]:
        world = self._world
        if world is None:
            return []
        lines = []
        for box in world.boxes:
            lines.append(f"{plain(box.name, 40)}{' *' if box.id == world.chosen else ''}")
            for kind in KINDS:
                if kind in world.host or kind in box.namespaces:
                    _, words = self._sharing(box, kind)
                    lines.append(f"  {kind:<8} {box.namespaces.get(kind, '-')!s:<12} {words}")
        chosen = self._chosen(world)
        lines += ["", f"{self.say('inside {name}', name=plain(chosen, 40))} | "
                  f"{self.say('on the host')}"]  # fmt: skip
        for name, inside, outside in self._both(world):
            lines.append(f"  {name:<10} {inside} | {outside}")
        lines += ["", self.say("the same process, numbered twice")]
        for each in world.processes[:MOST_PROCESSES]:
            lines.append(
                f"  {each.inner_pid or '-'!s:>7} {_known(each.inner_uid):>6} | "
                f"{each.pid:>7} {each.uid:>6}  {plain(_command(each), 60)}"
            )
        return lines

    @staticmethod
    def _chosen(world: World) -> str:
        return next((box.name for box in world.boxes if box.id == world.chosen), world.chosen)

    # -- as markup --------------------------------------------------------------------------------

    def body(self) -> Markup:
        world = self._world
        if world is None:
            return Markup("")
        members = self._members()
        groups = {
            key: number
            for number, key in enumerate(key for key, ids in members.items() if len(ids) > 1)
        }
        boxes = [self._box(box, world, groups) for box in world.boxes]
        host = element(
            "div",
            element(
                "div",
                element("strong", self.say("host")),
                " ",
                element("span", world.outside.hostname.shown, class_="sandbox-code"),
                class_="sandbox-box-head",
            ),
            self._chips((kind, str(inode), "host", MEANING[kind]) for kind, inode in
                        world.host.items()),
            element("div", *boxes, class_="sandbox-boxes"),
            class_="sandbox-host",
            data_key="host",
        )  # fmt: skip
        return joined([host, self._sides(world), self._processes(world), self._mounts(world)])

    def _chips(self, given: Iterable[tuple[str, str, str, str]]) -> Markup:
        chips = [
            element(
                "span",
                element("b", kind),
                " ",
                element("span", number, class_="sandbox-inode"),
                class_=f"sandbox-chip sandbox-kind-{kind}",
                data_sharing=sharing,
                title=self.say(words) if words in self.CHINESE else words,
                role="listitem",
            )
            for kind, number, sharing, words in given
        ]
        return element("div", *chips, class_="sandbox-chips", role="list")

    def _box(self, box: Box, world: World, groups: Mapping[tuple[str, int], int]) -> Markup:
        chosen = box.id == world.chosen
        name = plain(box.name, 40)
        chips = []
        for kind in KINDS:
            if kind not in world.host and kind not in box.namespaces:
                continue
            sharing, words = self._sharing(box, kind)
            inode = box.namespaces.get(kind)
            number = "—" if inode is None else str(inode)
            if sharing == "some" and inode is not None:
                number += f" · {chr(ord('A') + groups.get((kind, inode), 0) % 26)}"
            chips.append((kind, number, sharing, words))
        return element(
            "div",
            element(
                "button",
                element("span", name, class_="sandbox-code"),
                " ",
                element("small", f"pid {box.pid}"),
                type="button",
                class_="sandbox-box-head",
                data_act="choose",
                data_id=box.id,
                aria_pressed="true" if chosen else "false",
                aria_label=self.say("look into {name}", name=name),
            ),
            self._chips(chips),
            class_="sandbox-box",
            data_key=box.id,
            data_chosen="true" if chosen else None,
        )

    def _both(self, world: World) -> list[tuple[str, str, str]]:
        """What there is inside and on the host, row by row."""
        inside, outside = world.inside, world.outside
        rows = [
            (self.say("host name"), inside.hostname.shown, outside.hostname.shown),
            (self.say("processes"), self.say("{count} processes", count=inside.processes),
             self.say("{count} processes", count=outside.processes)),
            (self.say("users"), self._users(inside.users), self.say("as they are")),
            (self.say("mounts"), self._count("{count} mounts", inside.mounts),
             self._count("{count} mounts", outside.mounts)),
            (self.say("links"), self._links(inside), self._links(outside)),
            (self.say("clocks"), self._clocks(inside.clocks), self.say("as they are")),
        ]  # fmt: skip
        return [(name, plain(one, 160), plain(other, 160)) for name, one, other in rows]

    def _sides(self, world: World) -> Markup:
        name = plain(self._chosen(world), 40)
        rows = [
            element("tr", element("th", what, scope="row"), element("td", one), element("td", two))
            for what, one, two in self._both(world)
        ]
        head = element(
            "tr",
            element("td"),
            element("th", self.say("inside {name}", name=name), scope="col"),
            element("th", self.say("on the host"), scope="col"),
        )
        return element(
            "table",
            element("thead", head),
            element("tbody", *rows),
            class_="sandbox-sides",
            data_key="sides",
        )

    def _processes(self, world: World) -> Markup:
        rows = [
            element(
                "tr",
                element("td", str(each.inner_pid or "-"), class_="sandbox-number"),
                element("td", _known(each.inner_uid), class_="sandbox-number"),
                element("td", str(each.pid), class_="sandbox-number sandbox-outer"),
                element("td", str(each.uid), class_="sandbox-number sandbox-outer"),
                element("td", plain(_command(each), 90), class_="sandbox-code"),
                data_key=f"process {each.pid} {each.started}",
            )
            for each in world.processes[:MOST_PROCESSES]
        ]
        more = len(world.processes) - MOST_PROCESSES
        if more > 0:
            text = self.say("and {count} more", count=more)
            rows.append(element("tr", element("td", text, colspan=5), data_key="more"))
        columns = [self.say("pid"), self.say("user")]
        inside = self.say("inside {name}", name=plain(self._chosen(world), 20))
        return element(
            "table",
            element("caption", self.say("the same process, numbered twice")),
            element(
                "thead",
                element(
                    "tr",
                    element("th", inside, colspan=2, scope="colgroup", class_="sandbox-number"),
                    element("th", self.say("on the host"), colspan=2, scope="colgroup",
                            class_="sandbox-number sandbox-outer"),
                    element("td"),
                ),
                element(
                    "tr",
                    *(element("th", column, scope="col", class_="sandbox-number")
                      for column in columns),
                    *(element("th", column, scope="col", class_="sandbox-number sandbox-outer")
                      for column in columns),
                    element("th", self.say("program"), scope="col"),
                ),
            ),
            element("tbody", *rows),
            class_="sandbox-processes",
            data_key="processes",
        )  # fmt: skip

    def _mounts(self, world: World) -> Markup:
        found = world.inside.mounts
        rows = [
            element(
                "tr",
                element("td", each.target, class_="sandbox-code"),
                element("td", each.kind),
                element("td", self.say("read-only") if each.read_only else ""),
                data_key=f"mount {each.number}",
            )
            for each in (found.value or ())[:MOST_MOUNTS]
        ]
        more = len(found.value or ()) - MOST_MOUNTS
        if more > 0:
            text = self.say("and {count} more", count=more)
            rows.append(element("tr", element("td", text, colspan=3), data_key="more"))
        return element(
            "details",
            element("summary", self.say("what is mounted inside")),
            element("table", element("tbody", *rows)) if rows else found.reason,
            data_key="mounts",
        )

    # -- words ------------------------------------------------------------------------------------

    def _users(self, users: Fact[tuple[Extent, ...]]) -> str:
        if users.value is None:
            return users.reason
        return "; ".join(self._extent(extent) for extent in users.value[:4])

    def _extent(self, extent: Extent) -> str:
        if extent.count >= 1 << 31:
            return self.say("all ids as they are")
        if extent.count == 1:
            return self.say("id {first} is {outside} of the host", first=extent.inside,
                            outside=extent.outside)  # fmt: skip
        return self.say(
            "ids {first} to {last} are {outside} to {end} of the host",
            first=extent.inside, last=extent.inside + extent.count - 1,
            outside=extent.outside, end=extent.outside + extent.count - 1,
        )  # fmt: skip

    def _count(self, sentence: str, found: Fact[Any]) -> str:
        return found.reason if found.value is None else self.say(sentence, count=len(found.value))

    def _links(self, side: Side) -> str:
        if side.links.value is None:
            return side.links.reason
        names = ", ".join(link.name for link in side.links.value[:6])
        addresses = side.addresses.value or ()
        return f"{names} ({', '.join(addresses[:4])})" if addresses else names

    def _clocks(self, clocks: Fact[Offsets]) -> str:
        if clocks.value is None:
            return clocks.reason
        if not clocks.value.monotonic and not clocks.value.boottime:
            return self.say("as the host's")
        return self.say("set off by {seconds} s", seconds=f"{clocks.value.boottime:g}")


def _known(number: int | None) -> str:
    return "-" if number is None else str(number)


def _command(each: Process) -> str:
    words: Sequence[str] = each.command or (f"[{each.name}]",)
    return " ".join(words)
