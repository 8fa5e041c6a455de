"""The relay's own widgets: comms that end outside, so that no state of the inside stops them.

To clients they are comms as any other. The inside does not know of them: what clients say to them
stays here, and nothing of the inside may use their ids. All of it is imported by the first one, so
a kernel that shows none does not pay for it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from . import contents
from .requests import Request
from .voice import Voice
from .wire import Message

if TYPE_CHECKING:
    from sandbox_kernel.observe import Observed
    from sandbox_kernel.widgets.live import Opened

TARGET = "jupyter.widget"
VIEW_TYPE = "application/vnd.jupyter.widget-view+json"
VERSION = {"version_major": 2, "version_minor": 1}
METADATA = b'{"version":"2.1.0"}'
MODULE = "anywidget"
_CLASSES = "sandbox_kernel.widgets.notebook"
MOST_LIVE = 8
FIRST_SECONDS = 0.1
"""How long the kernel waits for a view to have something to show: it is there at first paint."""


class Shown:
    """One view as an output of a cell; threads of its own fill it."""

    def __init__(self, opened: Opened, request: Request, wake: Callable[[], None]) -> None:
        from sandbox_kernel.widgets.live import Live

        self.comm_id = secrets.token_hex(16)
        self.display_id = secrets.token_hex(16)
        self.request = request
        self.live = Live(opened, wake)

    def state(self) -> dict[str, Any]:
        """The whole model, as a client needs it that does not know it yet."""
        from sandbox_kernel.widgets import contract, kinds

        return {
            **_MODEL,
            "_anywidget_id": f"{_CLASSES}.{kinds.class_name(self.live.name)}",
            "_esm": contract.script(),
            "_css": contract.style(self.live.name),
            "language": "",
            **self.live.state(),
        }


_MODEL = {
    "_model_module": MODULE,
    "_model_name": "AnyModel",
    "_model_module_version": "*",
    "_view_module": MODULE,
    "_view_name": "AnyView",
    "_view_module_version": "*",
    "_view_count": None,
}


class Widgets:
    """All views of one kernel. `wake` is readable when there is something to publish."""

    def __init__(self, voice: Voice) -> None:
        self._voice = voice
        self._shown: dict[str, Shown] = {}
        self.wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    # -- to clients -------------------------------------------------------------------------------

    def show(self, name: str, container: Observed, request: Request) -> None:
        """A live view of the container as an output of a cell. Raises InvalidOption."""
        from sandbox_kernel.widgets import opening

        opened = opening.open_view(name, container)
        while len(self._shown) >= MOST_LIVE:
            self._end(next(iter(self._shown.values())), "newer views took its place")
        shown = Shown(opened, request, lambda: os.eventfd_write(self.wake, 1))
        shown.live.wait_looked(FIRST_SECONDS)
        self._shown[shown.comm_id] = shown
        self._voice.publish(
            "comm_open",
            {
                "comm_id": shown.comm_id,
                "target_name": TARGET,
                "data": {"state": shown.state(), "buffer_paths": []},
            },
            request,
            METADATA,
        )
        data = {**shown.live.bundle(), VIEW_TYPE: {**VERSION, "model_id": shown.comm_id}}
        transient = {"display_id": shown.display_id}
        content = {"data": data, "metadata": {}, "transient": transient}
        self._voice.publish("display_data", content, request)

    def publish(self, *, congested: bool) -> None:
        """What is new, to all clients; where they don't keep up, only that a view has ended."""
        try:
            os.eventfd_read(self.wake)
        except BlockingIOError:
            return
        for shown in list(self._shown.values()):
            if not shown.live.live:
                self._end(shown, "")
            elif not congested and (news := shown.live.news()):
                self._update(shown, news, shown.request)

    def close(self) -> None:
        """Ends all views; their last state stays in the notebook."""
        for shown in list(self._shown.values()):
            self._end(shown, "the kernel ended")

    def _end(self, shown: Shown, why: str) -> None:
        """Its last state as an output without a widget, which a notebook can keep."""
        del self._shown[shown.comm_id]
        shown.live.stop(why, wait=False)
        self._update(shown, shown.live.state(), shown.request)
        content = {
            "data": shown.live.bundle(),
            "metadata": {},
            "transient": {"display_id": shown.display_id},
        }
        self._voice.publish("update_display_data", content, shown.request)

    def _update(self, shown: Shown, state: dict[str, Any], request: Request) -> None:
        content = {
            "comm_id": shown.comm_id,
            "data": {"method": "update", "state": state, "buffer_paths": []},
        }
        self._voice.publish("comm_msg", content, request)

    # -- from clients -----------------------------------------------------------------------------

    def owns(self, comm_id: str) -> bool:
        """Whether this comm ends here."""
        return comm_id in self._shown

    def takes(self, request: Request, message: Message) -> bool:
        """Whether a client's comm message was for one of these; then it is answered."""
        if not self._shown:
            return False
        try:
            found = contents.comm_to_us.decode(message.content)
        except (msgspec.MsgspecError, UnicodeError):
            return False
        shown = self._shown.get(found.comm_id)
        if shown is None:
            return False
        self._voice.status(request, "busy")
        if request.kind == "comm_close":
            del self._shown[shown.comm_id]
            shown.live.stop("stopped", wait=False)
        elif found.data.get("method") == "request_state":
            self._update(shown, shown.state(), request)
        elif found.data.get("method") == "custom":
            shown.live.hear(found.data.get("content"))
        self._voice.status(request, "idle")
        return True

    # -- in what the inside says about its own ----------------------------------------------------

    def in_comm_info(self, request: Request, content: Any) -> Any:
        """A `comm_info_reply` of the inside, with these comms in it."""
        if not self._shown or request.comm_target not in (None, TARGET):
            return content
        fields = contents.fields.decode(content)
        comms: dict[str, Any] = dict(contents.fields.decode(fields.get("comms", b"{}")))
        comms.update({comm_id: {"target_name": TARGET} for comm_id in self._shown})
        return contents.encode({**fields, "comms": comms})

    def in_all_states(self, content: Any) -> Any:
        """What the inside says when a client asks for all its widgets, with these among them."""
        fields = contents.fields.decode(content)
        data: dict[str, Any] = dict(contents.fields.decode(fields.get("data", b"{}")))
        if not self._shown or bytes(data.get("method", b"")) != b'"update_states"':
            return content
        states: dict[str, Any] = dict(contents.fields.decode(data.get("states", b"{}")))
        states.update({comm_id: _described(shown) for comm_id, shown in self._shown.items()})
        return contents.encode({**fields, "data": {**data, "states": states}})


def _described(shown: Shown) -> Mapping[str, Any]:
    return {
        "model_name": _MODEL["_model_name"],
        "model_module": MODULE,
        "model_module_version": _MODEL["_model_module_version"],
        "state": shown.state(),
    }
