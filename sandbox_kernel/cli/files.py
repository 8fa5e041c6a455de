"""`sandbox-kernel diff` and `cp`: a container's files, what changed in them, and copying them."""

from __future__ import annotations

import sys

from sandbox_kernel import container, grammar
from sandbox_kernel.arguments import Flag, Parsed
from sandbox_kernel.cli import output
from sandbox_kernel.cli.verb import FORMAT, Verb
from sandbox_kernel.container import changes, copying
from sandbox_kernel.errors import InvalidOption

_MOST_BYTES = Flag(
    "max_bytes", ("--max-bytes",), "SIZE", "Stop when more would be copied.", default="16 GiB"
)
_MOST_FILES = Flag(
    "max_files", ("--max-files",), "N", "Stop when more would be copied.", default="1000000"
)


def diff(found: Parsed) -> int:
    """Lists what was added, changed or deleted since the container was made, or between two."""
    if len(found.rest) == 2:
        return _difference(*found.rest, as_json=found.own.get("format") == "json")
    live = container.find(found.rest[0])
    listed = changes.changes(live)
    if found.own.get("format") == "json":
        output.data([{"kind": change.kind, "path": change.path} for change in listed])
        return 0
    for change in listed:
        print(output.clean(f"{change.kind} {change.path}"))
    return 0


def _difference(first: str, second: str, *, as_json: bool) -> int:
    from sandbox_kernel.cli import layers

    with output.progress(f"comparing {first} and {second}"):
        listed = layers.compare(first, second)
    if as_json:
        output.data([each._asdict() for each in listed])
        return 0
    for each in listed:
        what = f"  ({', '.join(each.what)})" if each.what else ""
        print(output.clean(f"{each.kind} {each.path}{what}"))
    return 0


def copy(found: Parsed) -> int:
    """Copies to or from `CONTAINER:PATH`; what was passed over is said."""
    source, target = found.rest
    most_bytes = grammar.size(found.own.get("max_bytes", copying.MOST_BYTES), "--max-bytes")
    most_files = grammar.whole(
        found.own.get("max_files", copying.MOST_FILES), "--max-files", least=1, most=1 << 40
    )
    there, here = _place(source), _place(target)
    if (there is None) == (here is None):
        raise InvalidOption("cp", f"{source} {target}", "CONTAINER:PATH on one of the two sides")
    if there:
        live = container.find(there[0])
        with output.progress(f"copying from {live.name}"):
            skipped = copying.copy_out(
                live, there[1], target, most_bytes=most_bytes, most_files=most_files
            )
        for path, why in skipped:
            sys.stderr.write(output.clean(f"sandbox-kernel: not copied: {path}: {why}") + "\n")
    elif here:
        live = container.find(here[0])
        with output.progress(f"copying to {live.name}"):
            copying.copy_in(source, live, here[1], most_bytes=most_bytes, most_files=most_files)
    return 0


def _place(word: str) -> tuple[str, str] | None:
    """`NAME:/path`; a word with a `/` before its `:` is a path of the host."""
    name, colon, path = word.partition(":")
    return (name, path) if colon and name and "/" not in name else None


VERBS = {
    "diff": Verb(
        "diff [options] CONTAINER | IMAGE IMAGE | CONTAINER IMAGE",
        "List what changed in a container's files since it was made, or what is different from "
        "the first to the second of two images or containers: A added, C changed, D deleted.",
        diff,
        (FORMAT,),
        least=1,
        most=2,
    ),
    "cp": Verb(
        "cp [options] CONTAINER:PATH PATH | PATH CONTAINER:PATH",
        "Copy a file or folder out of a container or into it. Into a folder that is there, else "
        "under that name. Links are copied as links; devices and the like are passed over.",
        copy,
        (_MOST_BYTES, _MOST_FILES),
        least=2,
        most=2,
    ),
}
