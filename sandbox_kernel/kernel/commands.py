"""Lines that the outside answers, as the first line of a cell of the sandbox kernel.

`%sandbox` shows and changes the limits of the kernel's container; `%container top` shows what it
uses of them, live.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sandbox_kernel.errors import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from sandbox_kernel.container import Container

SANDBOX = "%sandbox"
TOP = "%container top"


class Command(NamedTuple):
    """A command, the words behind it, and the cell without it; its lines keep their numbers."""

    name: str
    line: str
    rest: str

    @property
    def alone(self) -> bool:
        """Whether there is nothing else to run."""
        return not self.rest.partition("\n")[2].strip()


def find(code: str) -> Command | None:
    """The command that a cell begins with, or None."""
    first, newline, rest = code.partition("\n")
    for name in (SANDBOX, TOP):
        count = len(name.split())
        words = first.split(None, count)
        if words[:count] == name.split():
            line = words[count] if len(words) > count else ""
            return Command(name, line, f"# {first.strip()}{newline}{rest}")
    return None


def check_top(command: Command, container: Container) -> None:
    """Raises InvalidOption for a container that is not this kernel's: it knows no other."""
    if command.line.strip() not in ("", container.name, container.id):
        allowed = f"nothing, or `{container.name}`, the container of this kernel"
        raise InvalidOption(TOP, command.line.strip(), allowed)


def run(command: Command, container: Container) -> dict[str, Any]:
    """Carries `%sandbox` out; the mime bundle to show. Raises SandboxErrors, each one line."""
    from sandbox_kernel import arguments, policy

    flags = arguments.option_flags()
    found = arguments.parse(arguments.words(command.line), flags)
    if found.own.get("help"):
        usage = f"{SANDBOX} [--memory SIZE] [--cpus NUMBER] ..."
        summary = "Shows what is in force for this kernel; with limits, changes them at once."
        live = arguments.option_flags(policy.LIVE)
        return {"text/plain": arguments.help_text(usage, summary, live)}
    if found.rest and found.rest != ["show", "limits"]:
        raise InvalidOption(SANDBOX, found.rest[0], "options such as --memory 512m, or nothing")
    if found.options:
        container.set_limits(**found.options)
        return {"text/plain": table(container, only=found.options)}
    return {"text/plain": table(container)}


def table(container: Container, only: Mapping[str, Any] | None = None) -> str:
    """The plan with what the kernel reads back: option, value, in force, source."""
    rows = [("option", "value", "in force", "from")]
    for row in container.plan.describe(container.limits()):
        if row.value == "-" or (only is not None and row.option not in only):
            continue
        rows.append((row.option, row.value, row.in_force, row.source))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        "  ".join((*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]))
        for row in rows
    ]
    return "\n".join((*(line.rstrip() for line in lines), *container.not_in_force))
