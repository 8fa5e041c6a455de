"""Lines that the outside answers: `%sandbox` as the first line of a cell of the sandbox kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from sandbox_kernel.container import Container

NAME = "%sandbox"


class Command(NamedTuple):
    """The words behind `%sandbox`, and the cell without them; its lines keep their numbers."""

    line: str
    rest: str

    @property
    def alone(self) -> bool:
        """Whether there is nothing else to run."""
        return not self.rest.partition("\n")[2].strip()


def find(code: str) -> Command | None:
    """The command that a cell begins with, or None."""
    first, newline, rest = code.partition("\n")
    words = first.split(None, 1)
    if not words or words[0] != NAME:
        return None
    return Command(words[1] if len(words) > 1 else "", f"# {first.strip()}{newline}{rest}")


def run(command: Command, container: Container) -> dict[str, Any]:
    """Carries it out; the mime bundle to show. Raises a SandboxError whose text is one line."""
    from sandbox_kernel import arguments, policy
    from sandbox_kernel.errors import InvalidOption

    flags = arguments.option_flags()
    found = arguments.parse(arguments.words(command.line), flags)
    if found.own.get("help"):
        usage = f"{NAME} [--memory SIZE] [--cpus NUMBER] ..."
        summary = "Shows what is in force for this kernel; with limits, changes them at once."
        live = arguments.option_flags(policy.LIVE)
        return {"text/plain": arguments.help_text(usage, summary, live)}
    if found.rest and found.rest != ["show", "limits"]:
        raise InvalidOption(NAME, found.rest[0], "options such as --memory 512m, or nothing")
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
