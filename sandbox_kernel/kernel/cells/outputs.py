"""Events of a cell as the messages that Jupyter shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sandbox_kernel.container import events as e
from sandbox_kernel.output_policy import Displays, OutputPolicy

Publish = Callable[[str, dict[str, Any]], None]


class Outputs:
    """Says events on, as far as the level of their cell lets them."""

    def __init__(self) -> None:
        self._policies: dict[str, OutputPolicy] = {}

    def policy(self, level: str) -> OutputPolicy:
        """The one of that level: it remembers what was told."""
        return self._policies.setdefault(level, OutputPolicy(level))

    def show(
        self,
        event: e.Event,
        publish: Publish,
        count: int,
        policy: OutputPolicy,
        displays: Displays,
    ) -> None:
        """One event as a message. Errors, values and the end are the caller's.

        `displays`: of the container that the cell runs in.
        """
        if isinstance(event, e.Display):
            self._display(event, publish, policy, displays)
        else:
            self._show(event, publish, count, policy)
        for line in policy.news():
            publish("stream", {"name": "stderr", "text": f"[sandbox: {line}]\n"})

    def _show(self, event: e.Event, publish: Publish, count: int, policy: OutputPolicy) -> None:
        match event:
            case e.Stdout():
                publish("stream", {"name": "stdout", "text": policy.text(event.text)})
            case e.Stderr():
                publish("stream", {"name": "stderr", "text": policy.text(event.text)})
            case e.Notice():
                publish("stream", {"name": "stderr", "text": f"[sandbox: {event.text}]\n"})
            case e.Result():
                data, metadata = policy.bundle(e.portable(event.data), event.metadata)
                content = {"data": data, "metadata": metadata, "execution_count": count}
                publish("execute_result", content)
            case e.Clear():
                publish("clear_output", {"wait": event.wait})

    def _display(
        self, event: e.Display, publish: Publish, policy: OutputPolicy, displays: Displays
    ) -> None:
        transient = displays.outside(event.transient, update=event.update)
        if transient is None:
            return
        kind = "update_display_data" if event.update else "display_data"
        data, metadata = policy.bundle(e.portable(event.data), event.metadata)
        content = {"data": data, "metadata": metadata, "transient": transient}
        publish(kind, content)


def error_content(event: e.Error, policy: OutputPolicy) -> dict[str, Any]:
    """The content of `error`."""
    lines = policy.text(event.traceback).rstrip().split("\n")
    name, colon, text = lines[-1].partition(":")
    if name.replace(".", "").isidentifier():
        lines[-1] = f"\x1b[31m{name}\x1b[39m{colon}{text}"
    told = {"ename": policy.text(event.name), "evalue": policy.text(event.value)}
    return {**told, "traceback": lines}
