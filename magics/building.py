"""`%container build PATH`, and `%%container build`, whose cell is the Containerfile."""

from __future__ import annotations

import sys

from magics.notebook import Notebook
from sandbox_kernel import arguments, settings
from sandbox_kernel.errors import InvalidOption


def run(notebook: Notebook, words: list[str], cell: str | None) -> None:
    """Builds, tells what happens, and prints name and digest. Raises as `building.build`."""
    from sandbox_kernel.cli import building

    verb = building.VERBS["build"]
    found = arguments.parse(words, verb.all_flags())
    if found.own.pop("help", False):
        print(verb.help().replace("sandbox-kernel", "%container", 1))
        return
    if len(found.rest) > 1:
        raise InvalidOption("PATH", found.rest[1], f"one folder, and `{found.rest[0]}` is one")
    if cell is not None and "file" in found.own:
        raise InvalidOption("--file", found.own["file"], "not with a cell, which is the file")
    if found.own.get("file") == "-":
        raise InvalidOption("--file", "-", "a file: a notebook has no standard input for it")
    if cell is not None and not found.rest:
        found.rest.append(".")  # the notebook's folder, as its cells see it
    within = notebook.settings()
    made = building.perform(found, settings.MAGIC, cell, stream=sys.stdout, within=within)
    name = found.own.get("tag")
    print(f"{name}: {made.digest}" if name else made.digest)
