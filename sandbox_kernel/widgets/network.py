"""`Network`: containers, bridges, this machine, the internet; what flows, and what was dropped.

A line is as thick as what goes over it, and moves as long as something does. A reader who sees no
picture has the same as a table.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import ClassVar

from sandbox_kernel.grammar import shown_size
from sandbox_kernel.observe.traffic import Drop, Flow, Member, Picture, Segment
from sandbox_kernel.widgets.contract import View
from sandbox_kernel.widgets.markup import Markup, element, joined, plain

WIDTH = 760
BOX, BRIDGE, OUTSIDE = 190, 150, 120  # widths of what stands left, in the middle, right
ROW, GAP = 64, 22
RECENT_SECONDS = 3.0
MOST_ROWS = 40
LONGEST_LINE = 400

RULES = {
    "private": "a private, link-local or metadata address is never reached",
    "not-allowed": "it is not on the allow-list",
    "no-way-out": "this network has no way out",
    "spoofed": "the sender pretends to be another",
    "ipv6": "IPv6 is off",
    "to-gateway": "the gateway itself answers names only",
    "multicast": "no multicast",
    "unknown-protocol": "neither TCP, UDP nor ICMP",
}
"""What the name of a rule means."""


class NetworkView(View):
    """The traffic of one container and its neighbours, or of all."""

    name = "network"
    title = "Network"
    CHINESE: ClassVar[Mapping[str, str]] = {
        "Network": "网络",
        "network": "网络",
        "internet": "互联网",
        "this machine": "本机",
        "no way out": "无出口",
        "loopback only": "仅有回环",
        "container": "容器",
        "address": "地址",
        "received": "接收",
        "sent": "发送",
        "{rate}/s": "{rate}/秒",
        "in all": "累计",
        "packets dropped: {count}": "被丢弃的数据包：{count}",
        "nothing was dropped": "没有丢弃任何数据包",
        "time": "时间",
        "to": "目标",
        "rule": "规则",
        "why": "原因",
        "no container has a network": "没有容器联网",
        "Picture of {networks} networks with {members} containers":
            "{networks} 个网络、{members} 个容器的图",
        "dropped packets": "被丢弃的数据包",
        "links": "链路",
        RULES["private"]: "私有、链路本地和元数据地址永远不可达",
        RULES["not-allowed"]: "不在允许列表中",
        RULES["no-way-out"]: "此网络没有出口",
        RULES["spoofed"]: "发送者冒充他人",
        RULES["ipv6"]: "IPv6 已关闭",
        RULES["to-gateway"]: "网关本身只回答域名查询",
        RULES["multicast"]: "不允许组播",
        RULES["unknown-protocol"]: "不是 TCP、UDP 或 ICMP",
    }  # fmt: skip

    def __init__(self, subject: str, spoken: str | None = None) -> None:
        super().__init__(subject, spoken)
        self._picture: Picture | None = None

    def take(self, facts: Picture) -> None:
        self._picture = facts

    # -- in text ----------------------------------------------------------------------------------

    def lines(self) -> list[str]:
        picture = self._picture
        if picture is None:
            return []
        found = []
        for segment in picture.segments:
            where = self.say("internet" if segment.leads_out else "no way out")
            found.append(f"{plain(segment.name, 40)} {segment.subnet} -> {where}")
            found += [f"  {self._line(member)}" for member in segment.members]
        found += [
            f"{plain(member.name, 40)}: {self.say('loopback only')}" for member in picture.alone
        ]
        if not picture.segments and not picture.alone:
            found.append(self.say("no container has a network"))
        found.append(self._dropped(picture))
        found += [f"  {' '.join(self._cells(drop))}" for drop in picture.drops[:MOST_ROWS]]
        return [plain(line, LONGEST_LINE) for line in found]

    def _line(self, member: Member) -> str:
        flow = member.flow
        name = plain(member.name, 40)
        if member.reason:
            return f"{name} {member.address}: {member.reason}"
        received = f"{self.say('received')} {self._rate(flow.received_bytes)}"
        sent = f"{self.say('sent')} {self._rate(flow.sent_bytes)}"
        return f"{name} {member.address}: {received}, {sent}"

    def _rate(self, rate: float | None) -> str:
        return "-" if rate is None else self.say("{rate}/s", rate=shown_size(round(rate)))

    def _dropped(self, picture: Picture) -> str:
        if not picture.drops:
            return self.say("nothing was dropped")
        count = max(picture.dropped + picture.missed, len(picture.drops))
        return self.say("packets dropped: {count}", count=count)

    def _cells(self, drop: Drop) -> tuple[str, ...]:
        port = "" if drop.port is None else f":{drop.port}"
        why = RULES.get(drop.rule)
        return (
            time.strftime("%H:%M:%S", time.localtime(drop.time)),
            plain(drop.name or "-", 40),
            plain(f"{drop.protocol} {drop.destination}{port}", 60),
            plain(drop.rule, 40),
            self.say(why) if why else "",
        )

    # -- as markup --------------------------------------------------------------------------------

    def body(self) -> Markup:
        picture = self._picture
        if picture is None:
            return Markup("")
        return joined([self._drawn(picture), self._links(picture), self._drops(picture)])

    def _drawn(self, picture: Picture) -> Markup:
        drawn = []
        at = GAP / 2
        for segment in picture.segments:
            height = max(1, len(segment.members)) * ROW
            drawn.append(self._segment(picture, segment, at, height))
            at += height + GAP
        for member in picture.alone[:MOST_ROWS]:
            drawn.append(self._alone(member, at))
            at += ROW
        if not drawn:
            return element("p", self.say("no container has a network"), class_="sandbox-quiet")
        members = len(picture.alone) + sum(len(each.members) for each in picture.segments)
        said = self.say(
            "Picture of {networks} networks with {members} containers",
            networks=len(picture.segments),
            members=members,
        )
        return element(
            "svg",
            *drawn,
            class_="sandbox-wires",
            viewBox=f"0 0 {WIDTH} {at:g}",
            role="img",
            aria_label=said,
            data_key="wires",
        )

    def _segment(self, picture: Picture, segment: Segment, top: float, height: float) -> Markup:
        middle = (WIDTH - BRIDGE) / 2
        center = top + height / 2
        parts = [
            self._member(picture, segment, member, top + number * ROW)
            for number, member in enumerate(segment.members[:MOST_ROWS])
        ]
        if segment.leads_out:
            parts.append(self._way_out(segment, center))
        bridge = element(
            "g",
            element(
                "rect", x=f"{middle:g}", y=f"{top + 4:g}", width=BRIDGE, height=f"{height - 8:g}",
                rx=6, class_="sandbox-bridge",
            ),
            _text(segment.name, WIDTH / 2, center - 10, "sandbox-name", most=18),
            _text(segment.subnet, WIDTH / 2, center + 6, "sandbox-small"),
            _text(
                segment.gateway if segment.leads_out else self.say("no way out"),
                WIDTH / 2, center + 20, "sandbox-small",
            ),
        )  # fmt: skip
        return element("g", *parts, bridge, data_key=f"network-{segment.name}")

    def _member(self, picture: Picture, segment: Segment, member: Member, top: float) -> Markup:
        center = top + ROW / 2
        end = (WIDTH - BRIDGE) / 2
        flow = member.flow
        recent = sum(
            drop.name == member.name and picture.taken - drop.time < RECENT_SECONDS
            for drop in picture.drops
        )
        parts = [
            _box(member.name, member.address or member.reason, top),
            _flow(BOX + 4, end - 4, center - 6, flow.sent_bytes, forward=True),
            _flow(BOX + 4, end - 4, center + 6, flow.received_bytes, forward=False),
        ]
        between = (BOX + end) / 2
        if flow.sent_bytes:
            shown = f"→ {self._rate(flow.sent_bytes)}"
            parts.append(_text(shown, between, center - 13, "sandbox-rate"))
        if flow.received_bytes:
            shown = f"← {self._rate(flow.received_bytes)}"
            parts.append(_text(shown, between, center + 22, "sandbox-rate"))
        if recent:
            parts.append(
                element(
                    "g",
                    element("circle", cx=f"{end - 16:g}", cy=f"{center:g}", r=9),
                    _text(
                        f"✕{recent}" if recent < 10 else "✕",
                        end - 16,
                        center + 3.5,
                        "sandbox-cross",
                    ),
                    class_="sandbox-drop",
                )
            )
        return element("g", *parts, data_key=f"{segment.name}-{member.id}")

    def _way_out(self, segment: Segment, center: float) -> Markup:
        start, end = (WIDTH + BRIDGE) / 2, WIDTH - OUTSIDE
        flows = [member.flow for member in segment.members]
        return element(
            "g",
            _flow(start + 4, end - 4, center - 6, _sum(flows, "sent_bytes"), forward=True),
            _flow(start + 4, end - 4, center + 6, _sum(flows, "received_bytes"), forward=False),
            element(
                "rect", x=f"{end:g}", y=f"{center - 24:g}", width=OUTSIDE - 2, height=48, rx=24,
                class_="sandbox-cloud",
            ),
            _text(self.say("internet"), end + OUTSIDE / 2, center + 4, "sandbox-name"),
            class_="sandbox-out",
        )  # fmt: skip

    def _alone(self, member: Member, top: float) -> Markup:
        return element(
            "g",
            _box(member.name, self.say("loopback only"), top),
            data_key=f"alone-{member.id}",
            class_="sandbox-alone",
        )

    def _links(self, picture: Picture) -> Markup | None:
        rows = [
            element(
                "tr",
                element("th", plain(member.name, 40), scope="row"),
                element("td", segment.name),
                element("td", member.address, class_="sandbox-code"),
                element("td", self._rate(member.flow.received_bytes), class_="sandbox-number"),
                element("td", self._rate(member.flow.sent_bytes), class_="sandbox-number"),
                element(
                    "td",
                    member.reason
                    or f"{shown_size(member.flow.total_received)} / "
                    f"{shown_size(member.flow.total_sent)}",
                    class_="sandbox-number",
                    title=self.say("read from {source}", source=member.flow.source)
                    if member.flow.source else None,
                ),
                data_key=f"{segment.name}-{member.id}",
            )
            for segment in picture.segments
            for member in segment.members[:MOST_ROWS]
        ]  # fmt: skip
        if not rows:
            return None
        heads = ("container", "network", "address", "received", "sent", "in all")
        return element("table", self._head(heads, numbers=3), element("tbody", *rows),
                       aria_label=self.say("links"), data_key="links")  # fmt: skip

    def _drops(self, picture: Picture) -> Markup:
        head = element("p", self._dropped(picture), class_="sandbox-notes", data_key="dropped")
        if not picture.drops:
            return head
        rows = []
        for number, drop in enumerate(picture.drops[:MOST_ROWS]):
            moment, name, to, rule, why = self._cells(drop)
            rows.append(
                element(
                    "tr",
                    element("td", moment, class_="sandbox-quiet"),
                    element("td", name),
                    element("td", to, class_="sandbox-code"),
                    element("td", rule, class_="sandbox-code sandbox-rule"),
                    element("td", why),
                    data_key=f"drop-{number}",
                )
            )
        heads = ("time", "container", "to", "rule", "why")
        table = element("table", self._head(heads), element("tbody", *rows),
                        aria_label=self.say("dropped packets"))  # fmt: skip
        scrolled = element(
            "div", table, class_="sandbox-scroll", tabindex=0, role="region",
            aria_label=self.say("dropped packets"), data_key="drops",
        )  # fmt: skip
        return joined([head, scrolled])

    def _head(self, words: tuple[str, ...], numbers: int = 0) -> Markup:
        cells = [
            element(
                "th",
                self.say(word),
                scope="col",
                class_="sandbox-number" if index >= len(words) - numbers else None,
            )
            for index, word in enumerate(words)
        ]
        return element("thead", element("tr", *cells))


def _sum(flows: list[Flow], name: str) -> float:
    return sum(getattr(flow, name) or 0.0 for flow in flows)


def _box(name: str, below: str, top: float) -> Markup:
    center = top + ROW / 2
    return element(
        "g",
        element("rect", x=1, y=f"{top + 10:g}", width=BOX, height=ROW - 20, rx=6,
                class_="sandbox-box"),
        _text(name, BOX / 2, center - 2, "sandbox-name", most=22),
        _text(below, BOX / 2, center + 13, "sandbox-small", most=30),
    )  # fmt: skip


def _flow(left: float, right: float, y: float, rate: float | None, *, forward: bool) -> Markup:
    """A line; five levels of thickness and speed, so that it is not redrawn for each byte."""
    level = 0 if not rate else min(5, max(1, round(math.log10(rate + 1)) - 1))
    start, end = (left, right) if forward else (right, left)
    return element(
        "path",
        d=f"M{start:g} {y:g}H{end:g}",
        class_=f"sandbox-flow sandbox-{'sent' if forward else 'received'}",
        data_level=level,
    )


def _text(text: str, x: float, y: float, kind: str, most: int = 40) -> Markup:
    return element("text", plain(text, most), x=f"{x:g}", y=f"{y:g}", class_=kind)
