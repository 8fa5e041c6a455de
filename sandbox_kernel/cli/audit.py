"""`sandbox-kernel audit`: what the record says ran, and what was refused."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from sandbox_kernel import audit, settings
from sandbox_kernel.arguments import Flag, Parsed
from sandbox_kernel.cli import output
from sandbox_kernel.cli.verb import FORMAT, Verb
from sandbox_kernel.errors import InvalidOption
from sandbox_kernel.grammar import shown_size

_LAST = Flag("last", ("--last",), "NUMBER", "Only the newest ones.")
_NOTEBOOK = Flag(
    "notebook", ("--notebook",), "TEXT", "Only those of notebooks with this in the path."
)
_REFUSED = Flag("refused", ("--refused",), "", "Only what did not start.")
_PATH = Flag("path", ("--path",), "", "Print where the record lies, and nothing of it.")
HEADINGS = ("time", "by", "user", "notebook", "image", "cell", "ended", "took", "memory")


def show(found: Parsed) -> int:
    """Prints the record: a line for each run, or all that is known of each as JSON."""
    own = found.own
    if own.get("path"):
        print(audit.place())
        return 0
    count = own.get("last")
    if count is not None and not (count.isdecimal() and 0 < int(count) <= 1_000_000):
        raise InvalidOption("--last", count, "a whole number from 1")
    wanted = own.get("notebook", "")
    runs: Iterator[Mapping[str, Any]] | deque[Mapping[str, Any]] = (
        run
        for run in audit.runs()
        if wanted in str(run.get("notebook") or "")
        and (not own.get("refused") or run["kind"] == "refused")
    )
    if count is not None:
        runs = deque(runs, maxlen=int(count))
    if own.get("format") == "json":
        for run in runs:
            output.line(run)
        return 0
    output.table(HEADINGS, [_row(run) for run in runs])
    if audit.level() == "off":
        where = settings.load().user_file or "your config.toml"
        print(f'nothing is written down now: set `audit = "on"` in {where}')
    return 0


def _row(run: Mapping[str, Any]) -> tuple[str, ...]:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run["time"]))
    ended = run.get("ended")
    took = memory = ""
    if run["kind"] == "refused":
        how = f"refused: {run.get('why', '')}"
    elif ended is None:
        how = "no end is written: it runs, or was killed"
    else:
        how = str(ended.get("error") or f"status {ended.get('status')}")
        took = f"{ended.get('seconds', 0):.3g} s"
        peak = ended.get("usage", {}).get("memory_peak_bytes")
        memory = shown_size(peak) if isinstance(peak, int) else ""
    image = str(run.get("image") or "")
    known = str(run.get("digest") or "").partition(":")[2][:12]
    words = (
        when, run.get("by"), run.get("user"), run.get("notebook") or "",
        f"{image} {known}".strip(), str(run.get("cell") or "")[:12], how, took, memory,
    )  # fmt: skip
    return tuple(output.short(output.clean(str(word)), 60) for word in words)


VERBS = {
    "audit": Verb(
        "audit [options]",
        "Print the record of what ran and what was refused, where `audit` is on in your settings.",
        show,
        (_LAST, _NOTEBOOK, _REFUSED, _PATH, FORMAT),
    ),
}
