"""`sandbox-kernel learn-seccomp`: which system calls a program makes, as a filter to keep."""

from __future__ import annotations

import sys

from sandbox_kernel import grammar, image, learnt, policy, settings
from sandbox_kernel.arguments import Flag, Parsed
from sandbox_kernel.bundle import seccomp_profile
from sandbox_kernel.cli import output, running, streams
from sandbox_kernel.cli.verb import FORMAT, Verb
from sandbox_kernel.container import Container, ProcessSpec, recording
from sandbox_kernel.errors import InvalidOption

_SAVE = Flag("save", ("--save",), "NAME",
    "Keep the filter under a name, for `--seccomp NAME`. What stands there is added to.")  # fmt: skip  # noqa: E501
_SAVE_FOR_IMAGE = Flag("save_for_image", ("--save-for-image",), "",
    "Keep it for this image: `--strict` takes it there from then on.")  # fmt: skip
_LIST = Flag("list", ("--list",), "", "Print those that are kept; nothing runs.")
_FORGET = Flag("forget", ("--forget",), "NAME", "Remove one that is kept; nothing runs.")


def learn(found: Parsed) -> int:
    """Runs the program, prints what it called and what it would lose; saves when told to."""
    if found.own.get("list"):
        return _list(found)
    if "forget" in found.own:
        name = grammar.seccomp(found.own["forget"], "--forget")
        if not learnt.forget(name):
            raise InvalidOption("--forget", name, f"one of {', '.join(learnt.names()) or 'none'}")
        print(name)
        return 0
    if not found.rest:
        raise InvalidOption("arguments", "nothing", "learn-seccomp [options] IMAGE [COMMAND...]")
    reference, *command = found.rest
    if found.options.get("seccomp"):
        allowed = "no filter: what it refuses could not be learnt"
        raise InvalidOption("--seccomp", found.options["seccomp"], allowed)
    wanted: list[str] = []
    if "save" in found.own:
        wanted.append(grammar.seccomp(found.own["save"], "--save"))
    plan = policy.plan(settings.COMMAND_LINE, **{**found.options, "image": reference})
    if plan.seccomp or plan.strict:
        option = "--seccomp" if plan.seccomp else "--strict"
        allowed = "`--strict=no`, and no filter: what one refuses could not be learnt"
        raise InvalidOption(option, plan.seccomp or "yes", allowed)
    if plan.runtime != "embedded" or "seccomp=unconfined" in plan.security_opt:
        allowed = "the runtime `embedded` and the usual filter, of which it takes away"
        raise InvalidOption("learn-seccomp", "another runtime or no filter", allowed)
    resolved = image.resolve(plan.image)
    argv = running.command_of(plan, resolved, command)
    with (
        recording.Recorder() as recorder,
        Container.create(plan, resolved=resolved) as made,
        streams.pipes(interactive=False, output=plan.output) as pipes,
    ):
        spec = ProcessSpec(
            argv=argv,
            descriptors={**pipes.inside, **recorder.descriptors},
            timeout=plan.timeout,
            recorder=recording.RECORDER,
        )
        process = made.run(spec)
        pipes.handed_over()
        with streams.forwarded(process):
            status = streams.status(pipes.copy(process))
    sys.stdout.flush()
    calls = recorder.calls()
    _show(calls, found)
    source = f"{plan.image} {' '.join(argv)}"[:200]
    own = learnt.of_image(resolved.digest)
    wanted += [own] if found.own.get("save_for_image") else []
    for kept in wanted:
        if status != 0:
            raise InvalidOption("--save", kept, f"a program that ends well, and not with {status}")
        saved = learnt.save(kept, calls, source)
        how = f"--strict with {plan.image}" if kept == own else f"--seccomp {kept}"
        print(f"saved as {kept}: {len(saved.calls)} calls; it is in force with `{how}`")
    if not wanted:
        print("nothing is saved: look at it, then give --save NAME or --save-for-image")
    return status


def _show(calls: dict[str, int], found: Parsed) -> None:
    """The proposal: by group what it may still call, and what it loses."""
    if found.own.get("format") == "json":
        output.data({"calls": calls, "always": sorted(seccomp_profile.OURS.calls)})
        return
    always = set(seccomp_profile.OURS.calls)
    rows = []
    for group in seccomp_profile.ALLOWED:
        made = [f"{call} ({calls[call]})" for call in sorted(group.calls) if call in calls]
        lost = [call for call in sorted(group.calls) if call not in calls and call not in always]
        if made or lost:
            rows.append((group.name, ", ".join(made) or "-", str(len(lost))))
    output.table(("group", "called (how often)", "refused then"), rows)


def _list(found: Parsed) -> int:
    kept = [one for name in learnt.names() if (one := learnt.find(name)) is not None]
    if found.own.get("format") == "json":
        output.data([one._asdict() for one in kept])
        return 0
    rows = [(one.name, str(len(one.calls)), "; ".join(one.learnt_from)) for one in kept]
    output.table(("name", "calls", "learnt from"), rows)
    return 0


VERBS = {
    "learn-seccomp": Verb(
        "learn-seccomp [options] IMAGE [COMMAND...]",
        "Run a program in a new container, print which system calls it made and which of "
        "those that are allowed it did not need, and keep that as a filter when told to. A "
        "filter that is kept only takes away: a call that is not in it fails with EPERM, and "
        "the view of system calls names it.",
        learn,
        (_SAVE, _SAVE_FOR_IMAGE, _LIST, _FORGET, FORMAT),
        options=None,
        command=True,
    )
}
