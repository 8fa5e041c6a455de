"""Events of a cell to what a notebook shows: text, displays, the result, errors of one kind."""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sandbox_kernel import errors
from sandbox_kernel.container import events as e
from sandbox_kernel.grammar import shown_seconds, shown_size

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

RED, PLAIN = "\x1b[31m", "\x1b[39m"
SCRIPTS = ("application/javascript", "text/javascript")


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
                    data=portable(event.data),
                    metadata=dict(event.metadata),
                    transient=dict(event.transient),
                    update=event.update,
                )
            case e.Result():
                self._flush()
                self.shell.displayhook(Shown(portable(event.data), event.metadata))
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


def portable(data: Mapping[str, Any]) -> dict[str, Any]:
    """A mime bundle as Jupyter sends it: bytes in base64, no scripts."""
    return {
        mime: base64.b64encode(item).decode("ascii") if isinstance(item, bytes) else item
        for mime, item in data.items()
        if mime not in SCRIPTS
    }


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
    lines[-1] = _colored(lines[-1])
    return shown_as(problem, lines)


def shown_as(problem: Exception, lines: list[str]) -> Exception:
    """The exception with these lines as its traceback: IPython looks for such a method."""
    problem._render_traceback_ = lambda: lines  # type: ignore[attr-defined]
    return problem


@contextmanager
def one_line() -> Iterator[None]:
    """Our own errors are one line in a notebook, and stop it as every error does."""
    try:
        yield
    except errors.SandboxError as problem:
        if not hasattr(problem, "_render_traceback_"):
            shown_as(problem, [_colored(f"{type(problem).__name__}: {problem}")])
        raise problem.with_traceback(None) from None


def _colored(line: str) -> str:
    """`Name: text` with the name in red."""
    name, colon, text = line.partition(":")
    return f"{RED}{name}{PLAIN}{colon}{text}" if name.replace(".", "").isidentifier() else line


def usage_line(usage: Mapping[str, Any]) -> str:
    """What a run used, as one line; what the host does not count is left out."""
    forms = (
        ("cpu_seconds", "CPU time {}", lambda n: shown_seconds(round(n, 3))),
        ("memory_peak_bytes", "peak memory {}", shown_size),
        ("pids_peak", "{} processes at most", str),
        ("throttled_seconds", "throttled for {}", lambda n: shown_seconds(round(n, 3))),
        ("written_bytes", "{} written to devices", shown_size),
        ("storage_bytes", "{} of files", shown_size),
    )
    parts = []
    for name, text, form in forms:
        number = usage.get(name)
        if number:
            parts.append(text.format(form(number)))
    return ", ".join(parts) or "nothing counted"
