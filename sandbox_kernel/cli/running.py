"""`sandbox-kernel run` and `exec`: a program in a new container, or in one that is there."""

from __future__ import annotations

import contextlib
import os
import sys

from sandbox_kernel import audit, container, errors, image, policy, settings
from sandbox_kernel.arguments import Flag, Parsed, words
from sandbox_kernel.cli import output, streams, transfers
from sandbox_kernel.cli.verb import Verb
from sandbox_kernel.container import (
    Container,
    Exit,
    Process,
    ProcessSpec,
    copying,
    files,
    readiness,
)
from sandbox_kernel.container.readiness import Readiness
from sandbox_kernel.errors import InvalidOption, shown
from sandbox_kernel.image import Image
from sandbox_kernel.policy import ContainerPlan

_INTERACTIVE = Flag("interactive", ("--interactive", "-i"), "", "Give it our standard input.")
_DETACH = Flag("detach", ("--detach", "-d"), "", "Print the id and leave it running; see `logs`.")
_FILES_OUT = Flag("files_out", ("--files-out",), "PATTERNS",
    "When it has ended, bring these files of its working folder into this one, such as "
    "'plots/*.png,**/*.csv'.", many=True)  # fmt: skip

_WAIT_PORT = Flag("wait_port", ("--wait-port",), "PORT",
    "With --detach: print the id when something in it listens on this port.",
    many=True)  # fmt: skip
_HEALTHCHECK = Flag("healthcheck", ("--healthcheck",), "COMMAND",
    "With --detach: print the id when this program of the image, run in the container, ends with "
    "status 0. It is tried again until then.")  # fmt: skip
_WAIT_TIME = Flag("wait_time", ("--wait-time",), "TIME",
    "How long it may take to be ready; then it is removed, and the status is 125.",
    default="30 s")  # fmt: skip
_SERVICE = (_WAIT_PORT, _HEALTHCHECK, _WAIT_TIME)


def run(found: Parsed) -> int:
    """Makes a container for one program, passes its output on, and returns its status."""
    reference, *command = found.rest
    if "image" in found.options:
        allowed = f"IMAGE alone, and `{reference}` is one"
        raise InvalidOption("--image", found.options["image"], allowed)
    plan = policy.plan(settings.COMMAND_LINE, **{**found.options, "image": reference})
    with transfers.Bars() as listen:
        resolved = image.resolve(plan.image, progress=listen)
    argv = command_of(plan, resolved, command)
    detach, interactive = bool(found.own.get("detach")), bool(found.own.get("interactive"))
    if detach and interactive:
        raise InvalidOption("--interactive", "with --detach", "one of them: nobody could type")
    given = [pattern for item in found.own.get("files_out", ()) for pattern in item.split(",")]
    patterns = files.read_patterns(given, "--files-out")
    if detach and patterns:
        raise InvalidOption("--files-out", ", ".join(patterns), "not with `--detach`: use `cp`")
    if plan.name and (detach or plan.keep):
        container.refuse_taken(plan.name)
    ready = _readiness(found, detach=detach)
    entry = audit.begin(plan, by=settings.COMMAND_LINE, digest=resolved.digest, argv=argv)
    try:
        if detach:
            return _run_detached(plan, argv, ready, entry)
        return _run_here(plan, argv, patterns, entry, interactive=interactive)
    except errors.SandboxError as problem:
        if entry is not None:
            entry.refuse(problem)
        raise


def _run_here(
    plan: ContainerPlan,
    argv: tuple[str, ...],
    patterns: tuple[str, ...],
    entry: audit.Entry | None,
    *,
    interactive: bool,
) -> int:
    """Passes its output on until it has ended."""
    with streams.pipes(interactive=interactive, output=plan.output) as pipes:
        spec = ProcessSpec(argv=argv, descriptors=pipes.inside, timeout=plan.timeout)
        held = plan.keep or bool(patterns)
        made = _make(plan, None if held else spec, detached=plan.keep)
        with made if not plan.keep else contextlib.closing(made):
            status = _pass_on(pipes, made.process or made.run(spec), made, entry)
            if patterns:
                _bring_out(made, patterns, plan)
            return status


def _bring_out(made: Container, patterns: tuple[str, ...], plan: ContainerPlan) -> None:
    """Writes the files below our working folder; what is passed over is said."""
    taken = files.take(made, patterns, most_bytes=plan.memory or copying.MOST_BYTES)
    for path, content in taken.files.items():
        files.save(os.getcwd(), path, content)
    for path, why in taken.skipped:
        sys.stderr.write(f"sandbox-kernel: not brought out: `{shown(path)}`: {why}\n")
    if not taken.files and not taken.skipped:
        sys.stderr.write(f"sandbox-kernel: no file meets `{', '.join(patterns)}`\n")


def _readiness(found: Parsed, *, detach: bool) -> Readiness:
    """When the program counts as ready. Raises InvalidOption."""
    for flag in _SERVICE:
        if flag.name in found.own and not detach:
            given = ",".join(found.own[flag.name]) if flag.many else found.own[flag.name]
            raise InvalidOption(flag.spellings[0], given, "only with `--detach`")
    own = found.own
    return readiness.read(
        own.get("wait_port", ()), own.get("healthcheck"), own.get("wait_time"), words
    )


def _run_detached(
    plan: ContainerPlan, argv: tuple[str, ...], ready: Readiness, entry: audit.Entry | None
) -> int:
    """Prints the id when the program runs and is ready; its output goes to the container's log."""
    spec = ProcessSpec(argv=argv, timeout=plan.timeout, logged=True)
    made = _make(plan, None if plan.keep else spec, detached=True)
    with contextlib.closing(made):
        process = made.process or made.run(spec, outlives=True)
        if not process.started():
            made.remove()
            return _ended(process.wait(), made, entry)
        _wait_ready(made, process, ready)
        if entry is not None:
            entry.end(error="detached: it goes on", container=made.id, limits=made.limits_at_start)
        print(made.id)
        return 0


def _wait_ready(made: Container, process: Process, ready: Readiness) -> None:
    """Returns when it is; else what it wrote is shown, and it is removed. Raises NotReady."""

    def over(seconds: float) -> bool:
        try:
            process.wait(seconds)
        except TimeoutError:
            return False
        return True

    try:
        ready.wait(made, over)
    except BaseException:
        wrote = b"".join(text for _, text in made.logs())
        for line in wrote.decode(errors="replace").splitlines():
            sys.stderr.write(f"{output.clean(line)}\n")
        made.remove()
        raise


def _make(plan: ContainerPlan, spec: ProcessSpec | None, *, detached: bool) -> Container:
    with output.progress(f"making a container of {plan.image}"):
        made = Container.create(plan, process=spec, detached=detached)
    for line in made.not_in_force:
        sys.stderr.write(f"sandbox-kernel: {line}\n")
    return made


def _pass_on(
    pipes: streams.Pipes, process: Process, made: Container, entry: audit.Entry | None
) -> int:
    pipes.handed_over()
    with streams.forwarded(process):
        return _ended(pipes.copy(process), made, entry)


def _ended(exit_: Exit, made: Container, entry: audit.Entry | None) -> int:
    """The status to end with, which is in the record now."""
    status = streams.status(exit_)
    if entry is not None:
        failure = exit_.error()
        entry.end(
            status=status, error=type(failure).__name__ if failure else None, usage=exit_.usage,
            container=made.id, limits=made.limits_at_start,
        )  # fmt: skip
    return status


def execute(found: Parsed) -> int:
    """Runs one more program in a container that is there, and returns its status."""
    reference, *argv = found.rest
    given = settings.read_options(found.options, settings.COMMAND_LINE)
    live = container.find(reference)
    level = given.get("output") or "safe"
    interactive = bool(found.own.get("interactive"))
    with streams.pipes(interactive=interactive, output=level) as pipes:
        spec = ProcessSpec(
            argv=tuple(argv),
            env={
                key: os.environ.get(key, "") if text is None else text
                for key, text in given.get("env", ())
            },
            cwd=given.get("workdir"),
            user=given.get("user"),
            timeout=given.get("timeout"),
            descriptors=pipes.inside,
        )
        with contextlib.closing(live):
            plan = live.plan.replaced(audit=audit.level())
            entry = audit.begin(
                plan, by=settings.COMMAND_LINE, digest=live.image.digest, argv=tuple(argv),
                container=live.id,
            )  # fmt: skip
            return _pass_on(pipes, live.run(spec), live, entry)


def command_of(plan: ContainerPlan, resolved: Image, command: list[str]) -> tuple[str, ...]:
    """As docker: the entrypoint (ours or the image's) with the command (ours or the image's)."""
    if plan.entrypoint:
        return (plan.entrypoint, *command)
    entrypoint = tuple(resolved.config.get("Entrypoint") or ())
    argv = entrypoint + (tuple(command) or tuple(resolved.config.get("Cmd") or ()))
    if argv:
        return argv
    if resolved.interpreter:
        return (resolved.interpreter,)
    raise InvalidOption("COMMAND", "nothing", "a program: the image names none to start")


VERBS = {
    "run": Verb(
        "run [options] IMAGE [COMMAND...]",
        "Run a program in a new container. The exit status is the program's; 125 if we failed, "
        "126 if it can't be executed, 127 if it was not found, 124 if it timed out.",
        run,
        (_INTERACTIVE, _DETACH, _FILES_OUT, *_SERVICE),
        options=None,
        command=True,
        least=1,
    ),
    "exec": Verb(
        "exec [options] CONTAINER COMMAND...",
        "Run a program in a container that is there. The exit status is as that of `run`.",
        execute,
        (_INTERACTIVE,),
        options=("env", "workdir", "user", "timeout", "output"),
        command=True,
        least=2,
    ),
}
