"""`Layers`: the files of a container as a stack, and what it writes on top, as it does."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import ClassVar

from sandbox_kernel.errors import InvalidOption
from sandbox_kernel.grammar import shown_size
from sandbox_kernel.observe.layers import Layer, Stack, Written
from sandbox_kernel.widgets.contract import Deed, View
from sandbox_kernel.widgets.markup import Markup, element, joined, plain

MOST_SHOWN = 60
MOST_TREES = 12
SIGNS = {"new": "A", "copied": "C", "removed": "D", "hidden": "R"}
"""As `sandbox-kernel diff` has them; R: a folder replaced by another of its name."""
WORDS = {"new": "new", "copied": "copied up", "removed": "removed", "hidden": "replaced"}
MEANINGS = {
    "new": "it is in no layer below",
    "copied": "it was copied up from a layer below before it was changed",
    "removed": "a whiteout hides it: the layer below still has it",
    "hidden": "an opaque folder hides that of the layer below",
}


class LayersView(View):
    """The stack of one container."""

    name = "layers"
    title = "Layers"
    CHINESE: ClassVar[Mapping[str, str]] = {
        "Layers": "层",
        "writable layer": "可写层",
        "layer {number}": "第 {number} 层",
        "read-only": "只读",
        "files of this machine, shown read-only": "本机的文件，只读",
        "and {count} more": "还有 {count} 个",
        "{count} files": "{count} 个文件",
        "1 file": "1 个文件",
        "{size} wasted": "浪费 {size}",
        "{used} of {limit} used": "已用 {used}，共 {limit}",
        "{used} used": "已用 {used}",
        "nothing was written yet": "还没有写入任何内容",
        "{size} of layers below hidden": "遮住下层的 {size}",
        "there are more names than are looked at": "名称太多，只查看一部分",
        "not visible to you: {paths}": "对你不可见：{paths}",
        "new": "新增",
        "copied up": "写时复制",
        "removed": "已删除",
        "replaced": "已替换",
        "it is in no layer below": "下面各层都没有它",
        "it was copied up from a layer below before it was changed": "修改之前先从下层复制上来",
        "a whiteout hides it: the layer below still has it": "被删除标记遮住：下层仍然有它",
        "an opaque folder hides that of the layer below": "不透明目录遮住了下层的同名目录",
        "all": "全部",
        "file": "文件",
        "folder": "目录",
        "link": "链接",
        "pipe": "管道",
        "socket": "套接字",
        "device": "设备",
        "was {size}": "原为 {size}",
        "looking through it": "正在查看",
        "kind": "类别",
        "path": "路径",
        "size": "大小",
        "changed at": "时间",
        "what the writable layer holds": "可写层的内容",
        "show": "显示",
        "merged view: what the container sees": "合并视图：容器所见",
    }

    def __init__(self, subject: str, spoken: str | None = None) -> None:
        super().__init__(subject, spoken)
        self._stack: Stack | None = None
        self._only = ""

    def take(self, facts: Stack) -> None:
        self._stack = facts

    def ask(self, action: str, fields: Mapping[str, str]) -> Deed | None:
        """`only`: show names of one kind, or of all."""
        kind = fields.get("kind", "")
        if action != "only" or kind not in ("", *SIGNS):
            raise InvalidOption(self.name, kind or action, f"one of {', '.join(SIGNS)}")
        self._only = kind
        return None

    def _written(self) -> list[Written]:
        found = self._stack.written if self._stack else ()
        return [each for each in found if not self._only or each.kind == self._only]

    # -- as text ----------------------------------------------------------------------------------

    def lines(self) -> list[str]:
        stack = self._stack
        if stack is None:
            return []
        lines = [f"{self.say('writable layer')}: {self._summary(stack)}"]
        for each in self._written()[:MOST_SHOWN]:
            lines.append(
                f"  {SIGNS[each.kind]} {self._size(each):>12}  {plain(each.path)}"
                f"{self._before(each)}"
            )
        if not stack.written:
            lines.append(f"  {self.say('nothing was written yet')}")
        for number, layer in reversed(list(enumerate(stack.layers, 1))):
            said = [self.say("layer {number}", number=number), _short(layer.digest)]
            said += self._of_layer(layer)
            lines.append("  ".join(part for part in said if part))
            if layer.made_by:
                lines.append(f"  {plain(layer.made_by, 90)}")
        if stack.trees:
            lines.append(self.say("files of this machine, shown read-only"))
            lines.append(f"  {', '.join(plain(tree, 60) for tree in stack.trees[:MOST_TREES])}")
        return lines

    def _summary(self, stack: Stack) -> str:
        said = []
        if stack.used is not None:
            used = shown_size(stack.used)
            if stack.limit:
                limit = shown_size(stack.limit)
                said.append(self.say("{used} of {limit} used", used=used, limit=limit))
            else:
                said.append(self.say("{used} used", used=used))
        hidden = sum(each.below for each in stack.written)
        if hidden:
            said.append(self.say("{size} of layers below hidden", size=shown_size(hidden)))
        if stack.more:
            said.append(self.say("there are more names than are looked at"))
        return ", ".join(said)

    def _of_layer(self, layer: Layer) -> list[str]:
        if layer.bytes is None:
            return [self.say("looking through it")]
        said = [shown_size(layer.bytes), self._files(layer.files or 0)]
        if layer.wasted:
            said.append(self.say("{size} wasted", size=shown_size(layer.wasted)))
        return said

    def _files(self, count: int) -> str:
        return self.say("1 file") if count == 1 else self.say("{count} files", count=count)

    def _size(self, each: Written) -> str:
        if each.kind == "removed":
            return "—"
        return shown_size(each.bytes) if each.what == "file" else self.say(each.what)

    def _before(self, each: Written) -> str:
        if not each.below:
            return ""
        return f" ({self.say('was {size}', size=shown_size(each.below))})"

    # -- as markup --------------------------------------------------------------------------------

    def body(self) -> Markup:
        stack = self._stack
        if stack is None:
            return Markup("")
        most = max((layer.bytes or 0 for layer in stack.layers), default=0)
        slabs = [self._slab(number, layer, most) for number, layer in enumerate(stack.layers, 1)]
        below = element("ol", *reversed(slabs), class_="sandbox-slabs") if slabs else None
        if stack.trees:
            below = self._trees(stack)
        return joined(
            [
                element(
                    "p",
                    element("span", stack.image, class_="sandbox-code"),
                    " ",
                    element("small", _short(stack.digest), class_="sandbox-code"),
                    class_="sandbox-image",
                ),
                self._top(stack),
                below,
                element("p", self.say("not visible to you: {paths}",
                                      paths=", ".join(stack.unseen[:5])), class_="sandbox-unseen")
                if stack.unseen else None,
            ]
        )  # fmt: skip

    def _top(self, stack: Stack) -> Markup:
        counts: Counter[str] = Counter(each.kind for each in stack.written)
        buttons = [self._choice("", self.say("all"), len(stack.written))]
        buttons += [
            self._choice(kind, self.say(WORDS[kind]), counts[kind])
            for kind in SIGNS
            if counts[kind]
        ]
        shown = self._written()
        rows = [self._row(each) for each in shown[:MOST_SHOWN]]
        more = len(shown) - len(rows)
        if more > 0:
            text = self.say("and {count} more", count=more)
            rows.append(element("tr", element("td", text, colspan=4), data_key="\0more"))
        head = element(
            "tr",
            *(
                element("th", self.say(word), scope="col", class_=sort)
                for word, sort in (("kind", None), ("path", None), ("size", "sandbox-number"),
                                   ("changed at", "sandbox-number"))
            ),
        )  # fmt: skip
        table = element(
            "div",
            element("table", element("thead", head), element("tbody", *rows)),
            class_="sandbox-names",
            tabindex=0,
            role="group",
            aria_label=self.say("what the writable layer holds"),
        )
        share = None
        if stack.used is not None and stack.limit:
            percent = min(100.0, 100 * stack.used / stack.limit)
            share = element(
                "div",
                element("i", style=f"width: {percent:.2f}%"),
                class_="sandbox-share",
                role="meter",
                aria_label=self.say("writable layer"),
                aria_valuemin=0,
                aria_valuemax=100,
                aria_valuenow=round(percent),
                aria_valuetext=self._summary(stack),
            )
        empty = element("p", self.say("nothing was written yet"), class_="sandbox-quiet")
        return element(
            "div",
            element(
                "div",
                element("strong", self.say("writable layer")),
                element("small", self._summary(stack)),
                class_="sandbox-slab-head",
            ),
            share,
            element("div", *buttons, class_="sandbox-choices", role="group",
                    aria_label=self.say("show")) if stack.written else None,
            table if stack.written else empty,
            class_="sandbox-slab sandbox-writable",
            data_key="writable",
        )  # fmt: skip

    def _choice(self, kind: str, word: str, count: int) -> Markup:
        return element(
            "button",
            f"{word} {count}",
            type="button",
            data_act="only",
            data_kind=kind,
            data_key=f"only {kind}",
            aria_pressed="true" if self._only == kind else "false",
        )

    def _row(self, each: Written) -> Markup:
        return element(
            "tr",
            element(
                "td",
                element("abbr", self.say(WORDS[each.kind]), title=self.say(MEANINGS[each.kind]),
                        class_=f"sandbox-kind sandbox-kind-{each.kind}"),
            ),
            element("td", each.path, class_="sandbox-code sandbox-path"),
            element("td", self._size(each), element("small", self._before(each)),
                    class_="sandbox-number"),
            element("td", time.strftime("%H:%M:%S", time.localtime(each.changed)),
                    class_="sandbox-number sandbox-quiet"),
            data_key=f"{each.kind} {each.path}",
        )  # fmt: skip

    def _slab(self, number: int, layer: Layer, most: int) -> Markup:
        width = 100 * (layer.bytes or 0) / most if most else 0
        return element(
            "li",
            element(
                "div",
                element("strong", self.say("layer {number}", number=number)),
                element("span", _short(layer.digest), class_="sandbox-code sandbox-quiet"),
                element("small", " · ".join(self._of_layer(layer))),
                class_="sandbox-slab-head",
            ),
            element("div", element("i", style=f"width: {width:.2f}%"), class_="sandbox-share",
                    aria_hidden="true"),
            element("div", plain(layer.made_by, 160), class_="sandbox-code sandbox-quiet")
            if layer.made_by else None,
            class_="sandbox-slab",
            data_key=f"layer {number}",
        )  # fmt: skip

    def _trees(self, stack: Stack) -> Markup:
        more = len(stack.trees) - MOST_TREES
        return element(
            "div",
            element(
                "div",
                element("strong", self.say("files of this machine, shown read-only")),
                class_="sandbox-slab-head",
            ),
            *(
                element("span", tree, class_="sandbox-code sandbox-tree")
                for tree in stack.trees[:MOST_TREES]
            ),
            element("small", self.say("and {count} more", count=more)) if more > 0 else None,
            class_="sandbox-slab",
            data_key="trees",
        )


def _short(digest: str) -> str:
    return digest.partition(":")[2][:12] if ":" in digest else digest[:12]
