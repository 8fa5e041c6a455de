"""Events of a cell as the messages that Jupyter shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sandbox_kernel.container import events as e

Publish = Callable[[str, dict[str, Any]], None]
MOST_DISPLAYS = 100_000


class Outputs:
    """Says events on; knows the displays of all cells, since only these may be updated."""

    def __init__(self) -> None:
        self._displays: dict[str, None] = {}

    def show(self, event: e.Event, publish: Publish, count: int) -> None:
        """One event as a message. Errors, values and the end are the caller's."""
        match event:
            case e.Stdout():
                publish("stream", {"name": "stdout", "text": event.text})
            case e.Stderr():
                publish("stream", {"name": "stderr", "text": event.text})
            case e.Notice():
                publish("stream", {"name": "stderr", "text": f"[sandbox: {event.text}]\n"})
            case e.Display():
                self._display(event, publish)
            case e.Result():
                content = {"data": e.portable(event.data), "metadata": dict(event.metadata)}
                publish("execute_result", {**content, "execution_count": count})
            case e.Clear():
                publish("clear_output", {"wait": event.wait})

    def _display(self, event: e.Display, publish: Publish) -> None:
        transient: Mapping[str, Any] = event.transient
        known = transient.get("display_id")
        if event.update and known not in self._displays:
            return
        if isinstance(known, str) and len(self._displays) < MOST_DISPLAYS:
            self._displays[known] = None
        kind = "update_display_data" if event.update else "display_data"
        content = {"data": e.portable(event.data), "metadata": dict(event.metadata)}
        publish(kind, {**content, "transient": dict(transient)})


def error_content(event: e.Error) -> dict[str, Any]:
    """The content of `error`."""
    lines = event.traceback.rstrip().split("\n")
    name, colon, text = lines[-1].partition(":")
    if name.replace(".", "").isidentifier():
        lines[-1] = f"\x1b[31m{name}\x1b[39m{colon}{text}"
    return {"ename": event.name, "evalue": event.value, "traceback": lines}
