"""Events of a cell to what a notebook shows: text, displays, the result, errors of one kind."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from magics.oneline import colored, shown_as
from sandbox_kernel import errors
from sandbox_kernel.container import events as e

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


class Outlet:
    """Where a shell shows things."""

    def __init__(self, shell: InteractiveShell) -> None:
        self.shell = shell

    def show(self, event: e.Event) -> None:
        """Shows one event. Errors and values are the caller's."""
        match event:
            case e.Stdout():
                sys.stdout.write(event.text)
                sys.stdout.flush()
            case e.Stderr():
                sys.stderr.write(event.text)
                sys.stderr.flush()
            case e.Notice():
                print(f"container: {event.text}", file=sys.stderr)
            case e.Display():
                self._flush()
                self.shell.display_pub.publish(
                    data=e.portable(event.data),
                    metadata=dict(event.metadata),
                    transient=dict(event.transient),
                    update=event.update,
                )
            case e.Result():
                self._flush()
                self.shell.displayhook(Shown(e.portable(event.data), event.metadata))
            case e.Clear():
                self._flush()
                self.shell.display_pub.clear_output(wait=event.wait)  # type: ignore[no-untyped-call]

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


def raised(error: e.Error) -> Exception:
    """The exception for the notebook: named as inside, shown as the traceback from inside."""
    if error.failure is not None:
        problem: Exception = error.failure
    else:
        name = error.name if error.name.isidentifier() else "CellRaised"
        kind = type(name, (errors.CellRaised,), {"__module__": "container"})
        problem = kind(error.name, error.value, error.traceback)
        problem.args = (error.value,)
    lines = error.traceback.rstrip().split("\n")
    lines[-1] = colored(lines[-1])
    return shown_as(problem, lines)
