"""`%container SUBCOMMAND ...`: the verbs of the command, in the notebook; some know its own state."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from magics.notebook import Notebook
from sandbox_kernel import arguments
from sandbox_kernel.errors import InvalidOption
from sandbox_kernel.policy import ContainerPlan
from sandbox_kernel.settings import OPTIONS

VERBS = (
    "ps", "inspect", "plan", "limits", "logs", "top", "stop", "rm", "diff", "cp", "events",
)  # fmt: skip
USAGE = f"%container {'|'.join(VERBS)} ..."


def help_text() -> str:
    """What stands below the options in `%container?`."""
    from sandbox_kernel.cli.main import VERBS as lines

    rows = [f"  %container {name:<8} {lines[name][1]}" for name in VERBS]
    return "\n".join(["subcommands, each with --help:", *rows])


def run(notebook: Notebook, line: str) -> None:
    """One subcommand. Raises InvalidOption for a line that is none."""
    words = arguments.words(line)
    if not words or words[0] == "--help":
        print(USAGE, "", help_text(), sep="\n")
        return
    name, *rest = words
    if name not in VERBS:
        raise InvalidOption("%container", name, f"one of {', '.join(VERBS)}")
    if "--help" not in rest:
        own = {"plan": _plan, "limits": _limits, "logs": _logs, "top": _top, "rm": _remove}.get(
            name
        )
        if own is not None and own(notebook, rest):
            return
    _command(name, rest)


def _command(name: str, words: list[str]) -> None:
    """A verb of the command, as it is."""
    from sandbox_kernel.cli import main

    module = importlib.import_module(f"sandbox_kernel.cli.{main.VERBS[name][0]}")
    verb = module.VERBS[name]
    found = arguments.parse(words, verb.all_flags(), command=verb.command)
    if found.own.pop("help", False):
        print(verb.help().replace("sandbox-kernel", "%container", 1))
        return
    count = len(found.rest)
    if count < verb.least or (verb.most is not None and count > verb.most):
        given = found.rest[verb.most] if verb.most is not None and count > verb.most else "nothing"
        raise InvalidOption("arguments", given, f"%container {verb.usage}")
    verb.run(found)


def _plan(notebook: Notebook, words: list[str]) -> bool:
    """The plan that a `%%container` cell with these words would have; nothing starts."""
    if "--format" in words or "--as" in words:
        return False
    found = arguments.parse(words, arguments.option_flags())
    options = {**found.options, **({"image": found.rest[0]} if found.rest else {})}
    print_plan(notebook.plan(options))
    return True


def _limits(notebook: Notebook, words: list[str]) -> bool:
    """`limits NAME [options]` of a container that this notebook keeps."""
    found = arguments.parse(words, arguments.option_flags())
    kept = notebook.find(found.rest[0]) if len(found.rest) == 1 else None
    if kept is None:
        return False
    if found.options:
        kept.container.set_limits(**found.options)
    print_limits(kept.container.limits())
    return True


def _logs(notebook: Notebook, words: list[str]) -> bool:
    """What the cells in a kept container printed."""
    kept = notebook.find(words[0]) if len(words) == 1 else None
    if kept is None:
        return False
    print(kept.log, end="")
    return True


def _top(notebook: Notebook, words: list[str]) -> bool:
    """The live view, where widgets can be shown."""
    kept = notebook.find(words[0]) if len(words) == 1 else None
    if kept is None:
        return False
    from IPython.display import display

    from sandbox_kernel.widgets import Limits

    display(Limits(kept.container))  # type: ignore[no-untyped-call]
    return True


def _remove(notebook: Notebook, words: list[str]) -> bool:
    """`rm NAME...` where all are this notebook's."""
    if not words or any(word.startswith("-") for word in words):
        return False
    found = [notebook.find(word) for word in words]
    if None in found:
        return False
    for kept in found:
        if kept is not None:
            notebook.drop(kept.container.name)
            print(kept.container.name)
    return True


def print_plan(plan: ContainerPlan, limits: Mapping[str, Any] | None = None) -> None:
    """Each value that is set, and where it comes from."""
    from sandbox_kernel.cli import output

    rows = [row for row in plan.describe(limits) if row.value != "-"]
    headings = ("option", "value", "from")
    if limits is None:
        output.table(headings, [(row.option, row.value, row.source) for row in rows])
    else:
        output.table(
            (*headings, "in force"),
            [(row.option, row.value, row.source, row.in_force) for row in rows],
        )


def print_limits(limits: Mapping[str, Any]) -> None:
    """The limits as the kernel has them."""
    from sandbox_kernel.cli import output

    rows = []
    for name, value in limits.items():
        option = OPTIONS.get(name)
        shown = "-" if value is None else option.show(value) if option else str(value)
        rows.append((name, "no limit" if shown == "-" else shown))
    output.table(("limit", "in force"), rows)
