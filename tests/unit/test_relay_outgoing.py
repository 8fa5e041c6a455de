"""Promises about what comes out: nothing that the inside forges reaches a client."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from sandbox_kernel.kernel import wire
from sandbox_kernel.kernel.outgoing import Outgoing
from sandbox_kernel.kernel.requests import Ledger, Request
from sandbox_kernel.kernel.voice import Voice
from sandbox_kernel.kernel.widgets import Shown, Widgets
from sandbox_kernel.kernel.zmtp import Buffer, Received
from sandbox_kernel.observe import Polled
from sandbox_kernel.output_policy import OutputPolicy
from sandbox_kernel.widgets.limits import LimitsView
from sandbox_kernel.widgets.live import Opened

INNER, OUTER = wire.Signer(b"inner"), wire.Signer(b"outer")
LIMIT = 100_000


class Heard:
    """Stands where the outer sockets are, and reads what a client would."""

    shell = control = stdin = None

    def __init__(self) -> None:
        self.messages: list[tuple[str, Any, wire.Message]] = []

    def publish(self, frames: list[Buffer]) -> None:
        self._hear("iopub", frames)

    def answer(self, _: object, identities: list[bytes], frames: list[Buffer]) -> None:
        self._hear("reply", [*identities, *frames])

    def _hear(self, channel: str, frames: list[Buffer]) -> None:
        message = wire.Reader(OUTER, replays=False).read(frames)
        self.messages.append((channel, msgspec.json.decode(message.content), message))

    def types(self) -> list[str]:
        return [message.header.msg_type for _, _, message in self.messages]


class Outside:
    """A relay's checks, with one cell that runs."""

    def __init__(self, level: str = "safe") -> None:
        self.heard = Heard()
        self.ledger = Ledger()
        voice = Voice(self.heard, OUTER)  # type: ignore[arg-type]
        self.widgets = Widgets(voice)
        hooks = SimpleNamespace(
            probe_id="probe",
            cell_began=lambda request: None,
            cell_replied=lambda request, status: None,
            renamed=lambda request, failed: None,
            with_usage=lambda request, metadata: metadata,
            show_input=lambda request, count: None,
        )
        self.outgoing = Outgoing(
            voice, self.ledger, INNER,
            limit=LIMIT, hooks=hooks, widgets=self.widgets, policy=OutputPolicy(level),
        )  # fmt: skip
        self.cell = self.request("cell", "execute_request")
        self.say("status", {"execution_state": "busy"})
        self.heard.messages.clear()

    def request(self, msg_id: str, kind: str) -> Request:
        header = msgspec.json.encode({"msg_id": msg_id, "msg_type": kind, "session": "client"})
        frames = [b"client", *wire.frames(OUTER, header, b"{}", b"{}", b"{}")]
        request = Request(wire.Reader(OUTER, replays=False).read(frames), "shell")
        self.ledger.add(request)
        return request

    def heard_from_client(self, kind: str, content: Any) -> tuple[Request, wire.Message]:
        """A message of a client, as the relay reads it."""
        header = msgspec.json.encode({"msg_id": "m", "msg_type": kind, "session": "client"})
        made = wire.frames(OUTER, header, b"{}", b"{}", msgspec.json.encode(content))
        message = wire.Reader(OUTER, replays=False).read([b"client", *made])
        return Request(message, "shell"), message

    def say(
        self, kind: str, content: Any, parent: str = "cell", channel: str = "iopub"
    ) -> list[str]:
        """What a client hears of one message of the inside."""
        before = len(self.heard.messages)
        header = {"msg_id": "i", "msg_type": kind, "session": "evil", "username": "root"}
        made = wire.frames(
            INNER,
            msgspec.json.encode(header),
            msgspec.json.encode({"msg_id": parent, "session": "forged"} if parent else {}),
            b"{}",
            content if isinstance(content, bytes) else msgspec.json.encode(content),
        )
        received = Received(made, False, 0)
        if channel == "iopub":
            self.outgoing.published(received)
        elif channel == "stdin":
            self.outgoing.asked(received)
        else:
            self.outgoing.replied(channel, received)
        return self.heard.types()[before:]


@pytest.fixture
def outside() -> Outside:
    return Outside()


LABEL = {
    "_model_module": "@jupyter-widgets/controls",
    "_view_module": "@jupyter-widgets/controls",
    "_model_name": "LabelModel",
    "_view_name": "LabelView",
    "value": "hello",
}


def stream(text: str = "hello") -> dict[str, str]:
    return {"name": "stdout", "text": text}


def test_72_parent_session_and_name_are_the_relays_own(outside: Outside) -> None:
    assert outside.say("stream", stream()) == ["stream"]

    _, content, message = outside.heard.messages[-1]
    assert content == stream()
    assert message.raw_parent == outside.cell.header
    assert b"evil" not in message.raw_header
    assert b"root" not in message.raw_header


@pytest.mark.parametrize(
    ("kind", "content", "parent"),
    [
        ("stream", stream(), "somebody else's cell"),
        ("stream", {"name": "stdin", "text": "x"}, "cell"),
        ("stream", {"name": "stdout", "text": 1}, "cell"),
        ("status", {"execution_state": "busy"}, "cell"),
        ("status", {"execution_state": "restarting"}, "cell"),
        ("status", {"execution_state": "idle"}, ""),
        ("execute_result", {"data": {}, "execution_count": 1}, ""),
        ("display_data", {"data": "text"}, "cell"),
        ("update_display_data", {"data": {}, "transient": {"display_id": "other"}}, "cell"),
        ("comm_msg", {"comm_id": "never opened", "data": {}}, "cell"),
        ("debug_event", {"event": "stopped"}, "cell"),
        ("shutdown_reply", {"restart": False}, "cell"),
        ("kernel_info_reply", {"status": "ok"}, "cell"),
        ("input_request", {"prompt": "password:"}, "cell"),
        ("anything", {}, "cell"),
    ],
)
def test_72_73_75_what_is_not_allowed_now_is_dropped(
    outside: Outside, kind: str, content: Any, parent: str
) -> None:
    assert outside.say(kind, content, parent) == []
    assert sum(outside.outgoing.dropped.values()) == 1


def test_72_a_second_reply_and_a_second_idle_are_dropped(outside: Outside) -> None:
    reply = {"status": "ok", "execution_count": 1}
    assert outside.say("execute_reply", reply, channel="shell") == ["execute_reply"]
    assert outside.say("execute_reply", reply, channel="shell") == []
    idle = {"execution_state": "idle"}
    assert outside.say("status", idle) == ["status"]
    assert outside.say("status", idle) == []
    assert outside.say("execute_result", {"data": {}, "execution_count": 1}) == []
    assert outside.say("stream", stream("from a thread")) == ["stream"]


@pytest.mark.parametrize(
    ("channel", "kind"),
    [("shell", "kernel_info_reply"), ("control", "execute_reply"), ("shell", "shutdown_reply")],
)
def test_73_a_reply_of_another_kind_or_channel_is_dropped(
    outside: Outside, channel: str, kind: str
) -> None:
    assert outside.say(kind, {"status": "ok"}, channel=channel) == []


def test_73_81_a_question_is_asked_only_where_it_is_allowed(outside: Outside) -> None:
    question = {"prompt": "name?", "password": False}
    assert outside.say("input_request", question, channel="stdin") == []
    outside.cell.allow_stdin = True
    assert outside.say("input_request", question, channel="stdin") == ["input_request"]


def test_a_question_may_come_before_the_busy_of_its_cell_but_not_before_its_turn(
    outside: Outside,
) -> None:
    first, second = (outside.request(msg_id, "execute_request") for msg_id in ("one", "two"))
    first.allow_stdin = second.allow_stdin = True
    question = {"prompt": "name? ", "password": False}
    assert outside.say("input_request", question, "one", channel="stdin") == []  # `cell` runs
    outside.ledger.close(outside.cell)
    assert outside.say("input_request", question, "two", channel="stdin") == []
    assert outside.say("input_request", question, "one", channel="stdin") == ["input_request"]


def show(outside: Outside) -> Shown:
    """A view of the relay's own, of something that is over at the first look."""
    opened = Opened(view=LimitsView("mine"), source=Polled("mine", lambda: None))
    shown = Shown(opened, outside.cell, lambda: None)
    assert shown.live.wait_ended(30)
    outside.widgets._shown[shown.comm_id] = shown
    return shown


@pytest.mark.parametrize("kind", ["comm_open", "comm_msg", "comm_close"])
def test_74_the_inside_can_not_use_a_comm_of_the_relay(outside: Outside, kind: str) -> None:
    shown = show(outside)
    comm = {"comm_id": shown.comm_id, "target_name": "jupyter.widget", "data": {}}
    assert outside.say(kind, comm) == []


def test_what_a_client_says_to_a_comm_of_the_relay_stays_here(outside: Outside) -> None:
    shown = show(outside)
    asked = {"comm_id": shown.comm_id, "data": {"method": "request_state"}}
    other = {**asked, "comm_id": "of the inside"}
    assert outside.widgets.takes(*outside.heard_from_client("comm_msg", asked))
    assert outside.heard.types() == ["status", "comm_msg", "status"]
    _, content, _ = outside.heard.messages[1]
    assert "mine" in content["data"]["state"]["markup"]
    assert not outside.widgets.takes(*outside.heard_from_client("comm_msg", other))
    assert not outside.widgets.takes(*outside.heard_from_client("comm_msg", {"data": 1}))


def test_74_a_comm_lives_from_its_opening_to_its_closing(outside: Outside) -> None:
    comm = {"comm_id": "c", "target_name": "jupyter.widget", "data": {"state": LABEL}}
    comm["data"]["method"] = "update"
    heard = [outside.say(kind, comm) for kind in ("comm_open", "comm_msg", "comm_close")]
    assert heard == [["comm_open"], ["comm_msg"], ["comm_close"]]
    assert outside.say("comm_msg", comm) == []


def test_75_an_update_of_an_owned_display_passes(outside: Outside) -> None:
    shown = {"data": {}, "metadata": {}, "transient": {"display_id": "mine"}}
    assert outside.say("display_data", shown) == ["display_data"]
    assert outside.say("update_display_data", shown) == ["update_display_data"]


def test_37_75_past_the_limit_there_is_one_notice_and_the_reply_still_passes(
    outside: Outside,
) -> None:
    for _ in range(30):
        outside.say("stream", stream("x" * 10_000))
    notices = [c for _, c, _ in outside.heard.messages if "output cut" in c.get("text", "")]

    assert len(notices) == 1
    assert sum(len(c["text"]) for _, c, _ in outside.heard.messages) < LIMIT + 1000
    assert outside.say("execute_reply", {"status": "ok"}, channel="shell") == ["execute_reply"]


def test_74_a_flood_of_small_messages_reaches_the_limit_too(outside: Outside) -> None:
    for _ in range(1000):
        outside.say("clear_output", {"wait": False})
    assert len(outside.heard.messages) < 300


def test_78_payloads_are_filtered_by_list(outside: Outside) -> None:
    payload = [
        {"source": "page", "data": {"text/plain": "help"}, "start": 0, "other": 1},
        {"source": "edit", "filename": "/etc/passwd"},
        {"source": "edit_magic", "filename": "/etc/passwd"},
        {"source": "set_next_input", "text": "x = 1"},
        {"no": "source"},
        "text",
    ]
    outside.say("execute_reply", {"status": "ok", "payload": payload}, channel="shell")

    kept = outside.heard.messages[-1][1]["payload"]
    assert [item["source"] for item in kept] == ["page", "set_next_input"]
    assert "other" not in kept[0]


def test_70_forged_frames_of_the_inside_are_counted_and_dropped(outside: Outside) -> None:
    for frames in ([], [b"x"], [wire.DELIMITER], [b""] * 1024):
        outside.outgoing.published(Received(list(frames), False, 0))
        outside.outgoing.published(Received(list(frames), True, 1 << 40))
    assert outside.heard.messages == []
    assert outside.say("stream", stream()) == ["stream"]


# -- the output policy ----------------------------------------------------------------------------

SCRIPT = "<script>steal()</script>"
COMM = {"comm_id": "c", "target_name": "jupyter.widget"}


def in_the_page(html: str) -> str:
    """What of HTML stands in the page itself: frames are closed to it."""
    return re.sub(r"<iframe sandbox=\"allow-scripts\" [^>]*></iframe>", "", html)


@pytest.mark.parametrize(
    ("kind", "content", "channel", "shown"),
    [
        ("display_data", {"data": {"text/html": SCRIPT}}, "iopub", ("data", "text/html")),
        ("execute_result", {"data": {"text/html": SCRIPT}}, "iopub", ("data", "text/html")),
        (
            "execute_reply",
            {"status": "ok", "payload": [{"source": "page", "data": {"text/html": SCRIPT}}]},
            "shell",
            ("payload", 0, "data", "text/html"),
        ),
        (
            "execute_reply",
            {
                "status": "ok",
                "user_expressions": {"x": {"status": "ok", "data": {"text/html": SCRIPT}}},
            },
            "shell",
            ("user_expressions", "x", "data", "text/html"),
        ),
    ],
)
def test_76_78_a_script_in_a_bundle_stands_only_in_a_frame(
    outside: Outside, kind: str, content: Any, channel: str, shown: tuple[Any, ...]
) -> None:
    outside.say(kind, content, channel=channel)
    found = outside.heard.messages[-1][1]
    for step in shown:
        found = found[step]

    assert found.startswith("<iframe sandbox=")
    assert in_the_page(found) == ""


def test_76_what_help_and_the_debugger_show_is_cleaned(outside: Outside) -> None:
    for kind, content in (
        ("inspect", {"status": "ok", "found": True, "data": {"text/html": SCRIPT}, "metadata": {}}),
        ("debug", {"success": True, "body": {"data": {"text/html": SCRIPT}, "metadata": {}}}),
    ):
        outside.request(kind, f"{kind}_request")
        assert outside.say(f"{kind}_reply", content, kind, "shell") == [f"{kind}_reply"]
        body = outside.heard.messages[-1][1]
        assert in_the_page(body.get("body", body)["data"]["text/html"]) == ""


def test_76_an_update_is_cleaned_as_what_it_updates(outside: Outside) -> None:
    shown = {"data": {"text/plain": "x"}, "metadata": {}, "transient": {"display_id": "mine"}}
    outside.say("display_data", shown)
    shown["data"] = {"application/javascript": "steal()", "text/plain": "x"}
    shown["metadata"] = {"isolated": True}

    assert outside.say("update_display_data", shown) == ["update_display_data", "stream"]
    _, content, _ = outside.heard.messages[-2]
    assert content == {
        "data": {"text/plain": "x"}, "metadata": {}, "transient": {"display_id": "mine"},
    }  # fmt: skip
    assert "application/javascript" in outside.heard.messages[-1][1]["text"]
    assert outside.say("update_display_data", shown) == ["update_display_data"]  # told once


def test_77_escapes_in_text_are_gone_and_colours_stay(outside: Outside) -> None:
    evil = "\x1b[31mred\x1b[0m\x1b]52;c;c3RlYWw=\x07\x1b[2J\x9b2Jend"
    clean = "\x1b[31mred\x1b[0mend"
    outside.say("stream", stream(evil))
    assert outside.heard.messages[-1][1]["text"] == clean
    outside.say("display_data", {"data": {"text/plain": evil}})
    assert outside.heard.messages[-1][1]["data"] == {"text/plain": clean}
    outside.say("error", {"ename": evil, "evalue": evil, "traceback": [evil]})
    told = {"ename": clean, "evalue": clean, "traceback": [clean]}
    assert outside.heard.messages[-1][1] == told
    outside.cell.allow_stdin = True
    outside.say("input_request", {"prompt": evil, "password": False}, channel="stdin")
    assert outside.heard.messages[-1][1]["prompt"] == clean


@pytest.mark.parametrize(
    "change",
    [
        {"_view_module": "anywidget", "_esm": "export default {}"},
        {"_model_module": "anywidget"},
        {"_model_module": "https://evil.example/x.js"},
        {"_view_name": "HTMLView"},  # would put the text of a label into the page as HTML
    ],
)
def test_74_76_a_widget_with_code_of_its_own_is_not_opened(
    outside: Outside, change: dict[str, str]
) -> None:
    opened = outside.say("comm_open", {**COMM, "data": {"state": {**LABEL, **change}}})
    assert "comm_open" not in opened
    assert outside.say("comm_msg", {**COMM, "data": {"method": "custom"}}) == []


def test_74_76_a_widget_does_not_change_into_another(outside: Outside) -> None:
    assert outside.say("comm_open", {**COMM, "data": {"state": LABEL}}) == ["comm_open"]
    for change in ({"_view_name": "HTMLView"}, {"_view_module": "anywidget"}, {"_model_name": "X"}):
        said = outside.say("comm_msg", {**COMM, "data": {"method": "update", "state": change}})
        assert "comm_msg" not in said


def test_76_the_html_of_widgets_is_cleaned(outside: Outside) -> None:
    html = {**LABEL, "_model_name": "HTMLModel", "_view_name": "HTMLView", "value": SCRIPT + "<b>b"}
    output = {
        **LABEL, "_model_module": "@jupyter-widgets/output", "_model_name": "OutputModel",
        "_view_name": "OutputView",
        "outputs": [{"output_type": "display_data", "data": {"text/html": SCRIPT}}],
    }  # fmt: skip
    outside.say("comm_open", {**COMM, "data": {"state": html}})
    assert outside.heard.messages[-1][1]["data"]["state"]["value"] == "<b>b</b>"
    outside.say("comm_open", {**COMM, "comm_id": "o", "data": {"state": output}})
    kept = outside.heard.messages[-1][1]["data"]["state"]["outputs"][0]
    assert in_the_page(kept["data"]["text/html"]) == ""


def test_76_a_view_is_shown_only_of_a_widget_that_was_opened(outside: Outside) -> None:
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "c", "version_major": 2}}
    both = {"data": {**view, "text/plain": "Label()"}}
    outside.say("display_data", both)
    assert outside.heard.messages[-1][1]["data"] == {"text/plain": "Label()"}
    outside.say("comm_open", {**COMM, "data": {"state": LABEL}})
    outside.say("display_data", both)
    assert outside.heard.messages[-1][1]["data"] == both["data"]


def test_76_all_states_are_told_without_those_that_are_not_shown(outside: Outside) -> None:
    outside.say("comm_open", {**COMM, "data": {"state": LABEL}})
    control = {"comm_id": "control", "target_name": "jupyter.widget.control"}
    outside.outgoing.client_comm("comm_open", msgspec.json.encode(control))
    told = {
        "method": "update_states",
        "states": {
            "c": {"model_module": "@jupyter-widgets/controls", "model_name": "L", "state": LABEL},
            "evil": {"model_module": "anywidget", "state": {"_esm": "steal()"}},
        },
        "buffer_paths": [],
    }
    outside.say("comm_msg", {"comm_id": "control", "data": told})
    assert list(outside.heard.messages[-1][1]["data"]["states"]) == ["c"]


def test_trusted_shows_what_jupyter_shows_and_text_only_text() -> None:
    data = {"text/html": SCRIPT, "application/javascript": "x()", "text/plain": "x"}
    content = {"data": data, "metadata": {"isolated": True}}
    trusted, text = Outside("trusted"), Outside("text")
    trusted.say("display_data", content)
    text.say("display_data", content)

    assert trusted.heard.messages[-1][1] == content
    assert text.heard.messages[-1][1] == {"data": {"text/plain": "x"}, "metadata": {}}
    any_comm = {"comm_id": "c", "target_name": "mine", "data": {}}
    assert trusted.say("comm_open", any_comm) == ["comm_open"]
    assert "comm_open" not in text.say("comm_open", {**COMM, "data": {"state": LABEL}})
