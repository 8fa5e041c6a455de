"""Events of a cell to what a notebook shows: text, displays, the result, errors of one kind."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from magics.oneline import colored, shown_as
from sandbox_kernel import errors
from sandbox_kernel.container import events as e
from sandbox_kernel.output_policy import Displays, OutputPolicy

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


class Outlet:
    """Where a shell shows things of one container, as far as the `output` of the plan lets it.

    `displays`: those that the container has shown before, if it is one that goes on.
    """

    def __init__(
        self, shell: InteractiveShell, policy: OutputPolicy, displays: Displays | None = None
    ) -> None:
        self.shell = shell
        self.policy = policy
        self.displays = displays or Displays()

    def show(self, event: e.Event) -> None:
        """Shows one event. Errors and values are the caller's."""
        self._show(event)
        for line in self.policy.news():
            print(f"container: {line}", file=sys.stderr)

    def _show(self, event: e.Event) -> None:
        match event:
            case e.Stdout():
                sys.stdout.write(self.policy.text(event.text))
                sys.stdout.flush()
            case e.Stderr():
                sys.stderr.write(self.policy.text(event.text))
                sys.stderr.flush()
            case e.Notice():
                print(f"container: {event.text}", file=sys.stderr)
            case e.Display():
                self._flush()
                self._display(event)
            case e.Result():
                self._flush()
                data, metadata = self.policy.bundle(e.portable(event.data), event.metadata)
                self.shell.displayhook(Shown(data, metadata))
            case e.Clear():
                self._flush()
                self.shell.display_pub.clear_output(wait=event.wait)  # type: ignore[no-untyped-call]

    def _display(self, event: e.Display) -> None:
        transient = self.displays.outside(event.transient, update=event.update)
        if transient is None:
            return
        data, metadata = self.policy.bundle(e.portable(event.data), event.metadata)
        self.shell.display_pub.publish(
            data=data, metadata=metadata, transient=transient, update=event.update
        )

    def _flush(self) -> None:
        sys.stdout.flush()
        sys.stderr.flush()


class Shown:
    """The result of a cell in a container: what it looked like there."""

    def __init__(self, data: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
        self._data = dict(data)
        self._metadata = dict(metadata)

    def __repr__(self) -> str:
        return str(self._data.get("text/plain", "<result of a container>"))

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        return self._data, self._metadata


def raised(error: e.Error, policy: OutputPolicy | None = None) -> Exception:
    """The exception for the notebook: named as inside, shown as the traceback from inside."""
    clean = policy.text if policy else str
    if error.failure is not None:
        problem: Exception = error.failure
    else:
        name = error.name if error.name.isidentifier() else "CellRaised"
        value = clean(error.value)
        kind = type(name, (errors.CellRaised,), {"__module__": "container"})
        problem = kind(error.name, value, error.traceback)
        problem.args = (value,)
    lines = clean(error.traceback).rstrip().split("\n")
    lines[-1] = colored(lines[-1])
    return shown_as(problem, lines)
