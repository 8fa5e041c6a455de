"""`%container SUBCOMMAND ...`: verbs of the command, and those that know what a notebook keeps."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from magics import live
from magics.notebook import Notebook
from sandbox_kernel import arguments
from sandbox_kernel.errors import InvalidOption
from sandbox_kernel.grammar import ENVIRONMENTS
from sandbox_kernel.policy import ContainerPlan
from sandbox_kernel.settings import OPTIONS
from sandbox_kernel.widgets import kinds

VERBS = (
    "ps", "inspect", "plan", "limits", "logs", "top", "stop", "rm", "diff", "cp", "events",
    "images", "history", "tree", "commit", "tag", "save", "load", "rmi", "prune", "image",
    "sbom", "build", "pull", "push", "tags", "referrers", "net", "capture", "show", "learn-seccomp",
)  # fmt: skip


def help_text() -> str:
    """What stands below the options in `%container?`."""
    from sandbox_kernel.cli import main

    rows = [f"  %container {name:<8} {main.VERBS[name][1]}" for name in VERBS]
    return "\n".join(["subcommands, each with --help:", *rows])


def run(notebook: Notebook, line: str) -> None:
    """One subcommand. Raises InvalidOption for a line that is none."""
    words = arguments.words(line)
    if not words or words[0] == "--help":
        print(f"%container {'|'.join(VERBS)} ...", "", help_text(), sep="\n")
        return
    name, *rest = words
    if name not in VERBS:
        raise InvalidOption("%container", name, f"one of {', '.join(VERBS)}")
    if name == "build":
        from magics import building

        building.run(notebook, rest, None)
        return
    if "--help" not in rest and name in OWN and OWN[name](notebook, rest):
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
    """What one container uses against its limits, live, where there is a notebook to show it."""
    if len(words) != 1 or words[0].startswith("-") or not live.in_a_notebook():
        return False
    kept = notebook.find(words[0])
    shown = live.show(kept.container if kept else words[0])
    if kept:
        kept.views += shown
    return True


def _show(notebook: Notebook, words: list[str]) -> bool:
    """`show limits,layers NAME`: live views, where there is a notebook to show them."""
    if not 1 <= len(words) <= 2 or words[0].startswith("-") or not live.in_a_notebook():
        return False
    names = kinds.read(words[0], "%container show")
    if len(words) == 1 and not all(name in kinds.ALONE for name in names):
        return False
    kept = notebook.find(words[1]) if len(words) == 2 else None
    shown = live.show(kept.container if kept else words[1] if len(words) == 2 else None, names)
    if kept:
        kept.views += shown
    return True


def _inspect(notebook: Notebook, words: list[str]) -> bool:
    """Everything about a kept container, as JSON; about an image, as a table."""
    kept = notebook.find(words[0]) if len(words) == 1 else None
    if kept is None:
        from magics import tables

        return tables.inspect(words)
    from sandbox_kernel.cli import output

    container = kept.container
    facts = {
        "id": container.id,
        "name": container.name,
        "image": container.plan.image,
        "digest": container.image.digest,
        "pid": container.pid,
        "limits": container.limits(),
        "not_in_force": container.not_in_force,
        "usage": container.usage(),
        "cgroups": container.cgroup_paths(),
        "plan": container.plan.options(),
        "sources": dict(container.plan.sources),
    }
    print(json.dumps(facts, indent=2, default=output.plain))
    return True


def _stop(notebook: Notebook, words: list[str]) -> bool:
    """`stop NAME` of a kept container: its processes are told to end, and it is gone."""
    kept = notebook.find(words[0]) if len(words) == 1 else None
    if kept is None:
        return False
    kept.container.stop()
    notebook.drop(kept.container.name)
    print(kept.container.name)
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


def _pull(notebook: Notebook, words: list[str]) -> bool:
    from magics import transfers

    return transfers.pull(notebook, words)


def _push(notebook: Notebook, words: list[str]) -> bool:
    from magics import transfers

    return transfers.push(notebook, words)


def _images(notebook: Notebook, words: list[str]) -> bool:
    from magics import tables

    return tables.images(words)


def _history(notebook: Notebook, words: list[str]) -> bool:
    from magics import tables

    return tables.history(words)


def _tree(notebook: Notebook, words: list[str]) -> bool:
    from magics import layer_trees

    return layer_trees.show(notebook, words)


def _diff(notebook: Notebook, words: list[str]) -> bool:
    from magics import tables

    return tables.diff(notebook, words)


def _tag(notebook: Notebook, words: list[str]) -> bool:
    """An environment that is kept by its name is one that this notebook may have."""
    if words and words[0].startswith(ENVIRONMENTS):
        notebook.plan({"image": words[0]})
    return False


def _sbom(notebook: Notebook, words: list[str]) -> bool:
    from magics import tables

    return tables.sbom(notebook, words)


def _tags(notebook: Notebook, words: list[str]) -> bool:
    from magics import tables

    return tables.tags(notebook, words)


def _referrers(notebook: Notebook, words: list[str]) -> bool:
    from magics import tables

    return tables.referrers(notebook, words)


def _net(notebook: Notebook, words: list[str]) -> bool:
    from magics import network_facts

    return network_facts.run(words)


def _capture(notebook: Notebook, words: list[str]) -> bool:
    from magics import packets

    return packets.run(words)


OWN: dict[str, Callable[[Notebook, list[str]], bool]] = {
    "inspect": _inspect, "plan": _plan, "limits": _limits, "logs": _logs,
    "top": _top, "show": _show, "stop": _stop, "rm": _remove, "pull": _pull, "push": _push,
    "images": _images, "history": _history, "tree": _tree, "diff": _diff, "tag": _tag,
    "sbom": _sbom, "tags": _tags, "referrers": _referrers, "net": _net, "capture": _capture,
}  # fmt: skip
"""Subcommands for what this notebook keeps. False: the words mean something else."""


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
