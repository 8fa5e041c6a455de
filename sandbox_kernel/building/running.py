"""RUN: a program in a container of the stage, and what it changed as a layer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from sandbox_kernel.building import cache
from sandbox_kernel.building.cache import Result
from sandbox_kernel.building.state import State, timestamp
from sandbox_kernel.building.work import Work
from sandbox_kernel.containerfile import mounts
from sandbox_kernel.containerfile.instructions import Run
from sandbox_kernel.containerfile.mounts import RunMount

Origins = Callable[[str], State]
SCRIPT = 3
"""The descriptor of a script that names its interpreter."""


def run(
    work: Work, state: State, made: Run, origins: Origins, stage: str, number: int
) -> tuple[Result, bool]:
    """The layer of a RUN, and whether it was there already. Raises BuildFailed and others."""
    resolved = [mounts.resolve(m, state.lookup, work.escape, state.workdir) for m in made.mounts]
    network = _network(work, made)
    argv, script = _argv(state, made)
    environment = {**state.arguments, **state.environment}
    key = cache.key(
        step="run",
        below=state.chain,
        argv=argv,
        script=script.decode("utf-8", "surrogateescape") if script else None,
        environment=environment,
        workdir=state.workdir,
        user=state.user,
        network=network,
        mounts=[_identity(work, mount, origins) for mount in resolved],
        epoch=work.request.epoch,
    )
    found = work.cached(key)
    if found is not None:
        return found, True
    # Only now: a build with nothing to do needs no containers.
    from sandbox_kernel.building import executing, mounting, workshop

    with ExitStack() as stack:
        mounted = mounting.mount_all(work, stack, resolved, origins)
        with workshop.bench(
            work,
            state.layers,
            mounts=mounted.binds,
            config={"Env": [f"{name}={value}" for name, value in environment.items()]},
            network=network,
            bare=False,
        ) as bench:
            mounting.prepare(work, bench, mounted)
            executing.execute(work, bench, state, made, (argv, script), mounted, (stage, number))
            layer = bench.layer(work.store, work.request.epoch)
    return work.keep(key, Result(timestamp(work.request.epoch), layer)), False


def _network(work: Work, made: Run) -> str:
    allowed = work.request.plan.network
    if made.network in ("none", allowed):
        return made.network
    if made.network == "default":
        return allowed
    raise made.place.error(
        f"`--network={made.network}`: this build has the network `{allowed}`: say "
        f"`--network {made.network}` for the whole build, if it may be had, or copy what is needed "
        "into the context"
    )


def _argv(state: State, made: Run) -> tuple[list[str], bytes | None]:
    """The words to execute; and a script that they are to read, when it names its interpreter."""
    if not made.command.shell:
        return list(made.command.words), None
    (text,) = made.command.words
    if len(made.documents) == 1 and text == made.documents[0].mark:
        content = made.documents[0].content
        if content.startswith("#!"):
            return [f"/proc/self/fd/{SCRIPT}"], content.encode("utf-8", "surrogateescape")
        return [*state.shell, content], None
    for document in made.documents:
        text += f"\n{document.content}{document.name}"
    return [*state.shell, text + "\n" if made.documents else text], None


def _identity(work: Work, mount: RunMount, origins: Origins) -> Any:
    """What of a mount counts for the cache: never a secret, never what a cache holds."""
    basic = [mount.kind, mount.target, mount.read_only]
    if mount.kind == "bind":
        origin = origins(mount.origin) if mount.origin is not None else None
        if origin is not None:
            return [*basic, origin.chain, mount.source]
        seen = work.context().fingerprint([mount.source.lstrip("/")], None, parents=False)
        return [*basic, seen]
    return [*basic, mount.id, mount.size, mount.mode, mount.uid, mount.gid, mount.env]
