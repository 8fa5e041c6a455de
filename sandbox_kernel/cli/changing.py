"""`sandbox-kernel limits`, `stop` and `rm`: changing and ending containers that are there."""

from __future__ import annotations

import sys
from collections.abc import Callable

from sandbox_kernel import container, errors, grammar, policy, settings
from sandbox_kernel.arguments import Flag, Parsed
from sandbox_kernel.cli import output
from sandbox_kernel.cli.verb import FAILED, FORMAT, Verb

_TIME = Flag("time", ("--time", "-t"), "TIME", "How long it has to end by itself.")
_FORCE = Flag("force", ("--force", "-f"), "", "Also one that is running.")


def limits(found: Parsed) -> int:
    """Changes what is given, then prints what the kernel reads back."""
    live = container.find(found.rest[0])
    if found.options:
        live.set_limits(settings.COMMAND_LINE, **found.options)
    in_force = live.limits()
    if found.own.get("format") == "json":
        output.data(in_force)
        return 0
    rows = [
        (row.option, row.value, row.source, row.in_force)
        for row in live.plan.describe(in_force)
        if row.option in in_force
    ]
    output.table(("limit", "asked for", "from", "in force"), rows)
    return 0


def stop(found: Parsed) -> int:
    """SIGTERM, and after a time the end; returns when it is over."""
    seconds = grammar.seconds(found.own["time"], "--time") if "time" in found.own else None

    def end(reference: str) -> None:
        live = container.find(reference)
        with output.progress(f"stopping {live.name}"):
            live.stop(seconds)
            live.wait()

    return _each(found.rest, end)


def remove(found: Parsed) -> int:
    """Removes what is over; with `--force` ends what runs."""

    def end(reference: str) -> None:
        listed = container.match(reference)
        if listed.state != "ended" and not found.own.get("force"):
            raise errors.InvalidOption(
                "CONTAINER", reference, "one that is over: stop it first, or give `--force`"
            )
        container.find(reference).remove()

    return _each(found.rest, end)


def _each(references: list[str], end: Callable[[str], None]) -> int:
    """One after the other; what fails is said, and does not keep the others from it."""
    status = 0
    for reference in references:
        try:
            end(reference)
            print(reference)
        except errors.SandboxError as error:
            sys.stderr.write(f"sandbox-kernel: {output.clean(str(error))}\n")
            status = FAILED
    return status


VERBS = {
    "limits": Verb(
        "limits [options] CONTAINER",
        "Print the limits of a live container as the kernel reads them back; those that are given "
        "are changed first.",
        limits,
        (FORMAT,),
        options=policy.LIVE,
        least=1,
        most=1,
    ),
    "stop": Verb(
        "stop [options] CONTAINER...",
        "Tell what runs in containers to end; what does not in time is ended.",
        stop,
        (_TIME,),
        least=1,
    ),
    "rm": Verb("rm [options] CONTAINER...", "Remove containers.", remove, (_FORCE,), least=1),
}
