"""`sandbox-kernel run` and `exec`: a program in a new container, or in one that is there."""

from __future__ import annotations

import sys

from sandbox_kernel import image, policy, settings
from sandbox_kernel.arguments import Flag, Parsed
from sandbox_kernel.cli import output, streams
from sandbox_kernel.cli.verb import Verb
from sandbox_kernel.container import Container, ProcessSpec
from sandbox_kernel.errors import InvalidOption
from sandbox_kernel.image import Image
from sandbox_kernel.policy import ContainerPlan

_INTERACTIVE = Flag("interactive", ("--interactive", "-i"), "", "Give it our standard input.")
_DETACH = Flag("detach", ("--detach", "-d"), "", "Print the id and leave it running; see `logs`.")


def run(found: Parsed) -> int:
    """Makes a container for one program, passes its output on, and returns its status."""
    reference, *command = found.rest
    if "image" in found.options:
        raise InvalidOption(
            "--image", found.options["image"], f"IMAGE alone, and `{reference}` is one"
        )
    plan = policy.plan(settings.COMMAND_LINE, **{**found.options, "image": reference})
    resolved = image.resolve(plan.image)
    argv = command_of(plan, resolved, command)
    pipes = streams.Pipes(interactive=bool(found.own.get("interactive")))
    try:
        spec = ProcessSpec(argv=argv, descriptors=pipes.inside, timeout=plan.timeout)
        with output.progress(f"making a container of {plan.image}"):
            container = Container.create(plan, process=spec)
        pipes.handed_over()
        for line in container.not_in_force:
            sys.stderr.write(f"sandbox-kernel: {line}\n")
        assert container.process is not None
        with container, streams.forwarded(container.process):
            return streams.status(pipes.copy(container.process))
    finally:
        pipes.close()


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
        (_INTERACTIVE,),
        options=None,
        command=True,
        least=1,
    ),
}
