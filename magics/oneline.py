"""Things said in one line: our own errors, and what a run used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sandbox_kernel import errors
from sandbox_kernel.grammar import shown_seconds, shown_size

RED, PLAIN = "\x1b[31m", "\x1b[39m"


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
            notes = " ".join(getattr(problem, "__notes__", ()))
            shown_as(problem, [colored(f"{type(problem).__name__}: {problem} {notes}".rstrip())])
        raise problem.with_traceback(None) from None


def colored(line: str) -> str:
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
