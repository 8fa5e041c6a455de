"""`sandbox-kernel pool status|warm|stop`: the warm holder of this user."""

from __future__ import annotations

from sandbox_kernel import errors, grammar, policy, settings
from sandbox_kernel.arguments import Parsed
from sandbox_kernel.cli import output
from sandbox_kernel.cli.verb import FORMAT, Verb
from sandbox_kernel.container import holding
from sandbox_kernel.network import client as network

DO = ("status", "warm", "stop")


def pool(found: Parsed) -> int:
    """Shows it, lets it have a kernel ready, or ends it."""
    do = found.rest[0]
    if do not in DO:
        raise errors.InvalidOption("pool", do, f"one of {', '.join(DO)}")
    if do == "warm":
        holding.keep_kernel_ready(policy.plan(settings.COMMAND_LINE, **found.options))
    elif do == "stop":
        holding.stop()
        network.stop()
    else:
        _show(found)
    return 0


def _show(found: Parsed) -> None:
    rows = holding.status()
    if found.own.get("format") == "json":
        output.data(rows or [])
        return
    if rows is None:
        print("there is no warm holder: the first kernel starts one, or `sandbox-kernel pool warm`")
        return
    headings = ("template", "state", "ready", "in use", "idle", "memory", "modules", "refused")
    output.table(
        headings,
        [
            (
                row["template"][:12],
                row["state"],
                str(row["ready"]),
                str(row["in_use"]),
                grammar.shown_seconds(row["idle_seconds"]),
                grammar.shown_size(row["usage"].get("memory_bytes") or 0),
                " ".join(row["modules"]) or "-",
                "; ".join(f"{name}: {why}" for name, why in row["refused"].items()) or "-",
            )
            for row in rows
        ],
    )


VERBS = {
    "pool": Verb(
        "pool status|warm|stop [options]",
        "What is kept ready between kernels: show it, have a kernel ready for the next start with "
        "these options, or end it.",
        pool,
        flags=(FORMAT,),
        options=None,
        least=1,
        most=1,
    )
}
