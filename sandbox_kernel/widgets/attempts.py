"""What a reader may have tried in a container: calls, and who refused each. Part of two views."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sandbox_kernel.errors import InvalidOption
from sandbox_kernel.observe import trials
from sandbox_kernel.observe.trials import Outcome, Trial
from sandbox_kernel.widgets.contract import Deed
from sandbox_kernel.widgets.markup import Markup, element, plain

LONGEST_NAME = 64
Say = Callable[..., str]

CHINESE: Mapping[str, str] = {
    "try it": "试一试",
    "try": "试",
    "try {what}": "尝试：{what}",
    "what": "做什么",
    "call": "调用",
    "answer": "回答",
    "refused by": "拒绝者",
    "allowed": "允许",
    "not tried": "未尝试",
    "calls to try in the container": "可在容器内尝试的调用",
    "any other call, by its name": "按名称尝试任何其他调用",
    "name of a system call": "系统调用名称",
    "seccomp filter": "seccomp 过滤器",
    "capabilities": "能力（capabilities）",
    "user namespace": "用户命名空间",
    "mounts": "挂载",
    "control group": "控制组",
    "kernel": "内核",
    "nobody": "无",
    "ask for its own number": "询问自己的进程号",
    "mount a file system": "挂载文件系统",
    "change the host name": "修改主机名",
    "make a user namespace": "创建用户命名空间",
    "become another user": "变成另一个用户",
    "give a file away": "改变文件所有者",
    "make a device": "创建设备",
    "take another root directory": "更换根目录",
    "send raw packets": "发送原始数据包",
    "take a better priority": "提高优先级",
    "look into another process": "查看另一个进程",
    "write a setting of the kernel": "改写内核设置",
    "load a kernel module": "加载内核模块",
    "restart the machine": "重启机器",
    "set the clock": "设置时钟",
    "read the kernel's messages": "读取内核消息",
    "load a BPF program": "加载 BPF 程序",
    "measure the machine": "测量整台机器",
    "use io_uring": "使用 io_uring",
    "keep a key in the kernel": "在内核中保存密钥",
}


def ask(view: str, fields: Mapping[str, str]) -> Deed:
    """What to try, from the fields of an action `try`. Raises InvalidOption."""
    name = fields.get("what", "").strip()
    if (
        not name
        or len(name) > LONGEST_NAME
        or not name.replace("'", "").replace("_", "").replace(" ", "").isalnum()
    ):
        raise InvalidOption(view, name, "the name of a system call, such as `mount`")
    return Deed("try", {"what": name})


def lines(outcomes: Sequence[Outcome], say: Say) -> list[str]:
    """What was tried, in text."""
    return [
        f"{say('try it')}: {_said(each.name, say)} ({each.call}): {_answer(each, say)}"
        + (f", {say('refused by')} {say(each.layer)}: {each.why}" if each.error else "")
        for each in outcomes
    ]


def table(outcomes: Sequence[Outcome], say: Say, *, live: bool,
          chosen: Sequence[Trial] = trials.TRIALS) -> Markup:  # fmt: skip
    """All that can be tried with a button each, and what came of it."""
    last = {each.name: each for each in reversed(outcomes)}
    known = {trial.name for trial in chosen}
    others = [Trial(each.name, each.call, (), None) for each in outcomes if each.name not in known]
    rows = [_row(trial, last.get(trial.name), say, live=live)
            for trial in (*chosen, *dict.fromkeys(others))]  # fmt: skip
    heads = [
        element("th", say(word), scope="col") for word in ("what", "call", "answer", "refused by")
    ]
    return element(
        "table",
        element("thead", element("tr", *heads, element("td"))),
        element("tbody", *rows),
        class_="sandbox-attempts",
        aria_label=say("calls to try in the container"),
        data_key="attempts",
    )


def form(say: Say, *, live: bool) -> Markup | None:
    """A field for any other call."""
    if not live:
        return None
    return element(
        "form",
        element(
            "label",
            say("any other call, by its name"),
            " ",
            element(
                "input", name_="what", type="text", maxlength=LONGEST_NAME, autocomplete="off",
                spellcheck="false", placeholder="mount", aria_label=say("name of a system call"),
            ),
        ),
        element("button", say("try"), type="submit"),
        class_="sandbox-any-call",
        data_act="try",
        data_key="any-call",
    )  # fmt: skip


def _row(trial: Trial, outcome: Outcome | None, say: Say, *, live: bool) -> Markup:
    name = _said(trial.name, say)
    if outcome is None:
        answer = element("td", say("not tried"), class_="sandbox-quiet")
        layer = element("td", "")
    else:
        kind = "sandbox-refused" if outcome.error else "sandbox-let"
        answer = element("td", _answer(outcome, say), class_=f"sandbox-code {kind}")
        layer = element(
            "td",
            element("span", say(outcome.layer), class_="sandbox-layer",
                    data_layer=outcome.layer.replace(" ", "-")),
            " ",
            element("small", outcome.why),
            title=say("read from {source}", source=outcome.source),
        ) if outcome.error else element("td", "")  # fmt: skip
    button = element(
        "button", say("try"), data_act="try", data_what=trial.name,
        aria_label=say("try {what}", what=name),
    )  # fmt: skip
    return element(
        "tr",
        element("th", name, scope="row"),
        element("td", trial.call, class_="sandbox-code"),
        answer,
        layer,
        element("td", button if live else None, class_="sandbox-number"),
        data_key=f"try-{trial.name}",
    )


def _answer(outcome: Outcome, say: Say) -> str:
    return outcome.error or f"{say('allowed')}: {outcome.result}"


def _said(name: str, say: Say) -> str:
    return say(name) if name in CHINESE else plain(name, LONGEST_NAME)
