"""What a verb is: how it is called, what it takes, and the function that does it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from sandbox_kernel.arguments import Flag, Parsed, help_text, option_flags

# docker's exit status for what is not the program's own.
FAILED = 125

FORMAT = Flag(
    "format", ("--format",), "FORMAT", "How to print.", choices=("table", "json"), default="table"
)


class Verb(NamedTuple):
    """One verb. `command`: words after the first plain one belong to a program of the user."""

    usage: str
    summary: str
    run: Callable[[Parsed], int]
    flags: tuple[Flag, ...] = ()
    options: tuple[str, ...] | None = ()
    """Which settings it takes: names, or None for all."""
    command: bool = False
    least: int = 0
    most: int | None = None
    """How many plain words there may be."""

    def all_flags(self) -> tuple[Flag, ...]:
        """Its own flags, and those of the settings that it takes in spellings that are still free.

        `install --user` is Jupyter's; whom the container runs as is `install -u` there.
        """
        if self.options == ():
            return self.flags
        taken = {spelling for flag in self.flags for spelling in flag.spellings}
        free = []
        for flag in option_flags(self.options):
            spellings = tuple(word for word in flag.spellings if word not in taken)
            if spellings == flag.spellings:
                free.append(flag)  # itself: `arguments` knows some of them by identity
            elif spellings:
                free.append(flag._replace(spellings=spellings))
        return (*self.flags, *free)

    def help(self) -> str:
        """The whole text of `--help`."""
        return help_text(f"sandbox-kernel {self.usage}", self.summary, self.all_flags())
