"""Lines that the outside answers, as the first line of a cell of the sandbox kernel.

`%sandbox` shows and changes the limits of the kernel's container; `%container top` shows what it
uses of them, live, and `%container show` other views of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sandbox_kernel.errors import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from sandbox_kernel.container import Container
    from sandbox_kernel.policy import ContainerPlan

    from .pinning import Pinning

SANDBOX = "%sandbox"
TOP = "%container top"
SHOW = "%container show"
UPDATE = "update"


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
    for name in (SANDBOX, TOP, SHOW):
        count = len(name.split())
        words = first.split(None, count)
        if words[:count] == name.split():
            line = words[count] if len(words) > count else ""
            return Command(name, line, f"# {first.strip()}{newline}{rest}")
    return None


def views(command: Command, container: Container) -> list[str]:
    """The words of the views that are asked for.

    Raises InvalidOption for a word that is none, and for a container that is not this kernel's: it
    knows no other.
    """
    from sandbox_kernel.widgets import kinds

    words = command.line.split()
    shown = ["limits"]
    if command.name == SHOW:
        if not words:
            raise InvalidOption(SHOW, "", f"one of {', '.join(kinds.KINDS)}; several: a,b")
        shown = kinds.read(words.pop(0))
    if words not in ([], [container.name], [container.id]):
        allowed = f"nothing, or `{container.name}`, the container of this kernel"
        raise InvalidOption(command.name, " ".join(words), allowed)
    return shown


def is_update(command: Command) -> bool:
    """Whether it is `%sandbox update`."""
    return command.name == SANDBOX and command.line.split() == [UPDATE]


def update(pinning: Pinning, named: ContainerPlan | None) -> dict[str, Any]:
    """Asks anew what the name of the kernel's image means, for its next start.

    Raises ImageError, HostLacks.
    """
    if named is None:
        raise InvalidOption(SANDBOX, UPDATE, "a kernel whose settings could be read")
    told = pinning.update(named)
    return {"text/plain": f"{told}\nRestart the kernel to run in what is named now."}


def run(command: Command, container: Container) -> dict[str, Any]:
    """Carries `%sandbox` out; the mime bundle to show. Raises SandboxErrors, each one line."""
    from sandbox_kernel import arguments, policy

    flags = arguments.option_flags()
    found = arguments.parse(arguments.words(command.line), flags)
    if found.own.get("help"):
        usage = f"{SANDBOX} [--memory SIZE] [--cpus NUMBER] ... | {SANDBOX} {UPDATE}|course"
        summary = (
            "Shows what is in force for this kernel; with limits, changes them at once. "
            "`update` asks anew what the name of its image means, and shows what changed; "
            "`course` shows the chapters of the course."
        )
        live = arguments.option_flags(policy.LIVE)
        return {"text/plain": arguments.help_text(usage, summary, live)}
    if found.rest and found.rest != ["show", "limits"]:
        from . import course

        if not found.options and (shown := course.in_a_sandbox(found.rest)) is not None:
            return shown
        raise InvalidOption(
            SANDBOX, found.rest[0], "options such as --memory 512m, `update`, `course`, or nothing"
        )
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
