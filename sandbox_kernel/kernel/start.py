"""Puts an ipykernel into a container: this kernel's plan, its first process, its descriptors."""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from sandbox_kernel import errors
from sandbox_kernel.linux import template_memory

from .inner import Channels
from .pinning import Pinning

if TYPE_CHECKING:
    from sandbox_kernel.container import Container, Process
    from sandbox_kernel.policy import ContainerPlan
    from sandbox_kernel.runtime.client import Holder

PROGRAM, CONFIGURATION = 3, 4
BY = "kernel"
"""Who asks, for the record."""
NUMBERS = {"shell": 5, "control": 6, "stdin": 7, "iopub": 8}
"""As `inside/kernel.py` and `inside/application.py` have them."""


def plan() -> ContainerPlan:
    """What the settings of user, project, kernelspec and notebook make. Raises what they lack."""
    from sandbox_kernel import policy, settings

    within = settings.of_notebook(settings.of_kernelspec(settings.load()))
    return policy.allow(policy.request({}), within)


def start_inside(
    plan: ContainerPlan, descriptors: Mapping[int, int], holder: Holder | None
) -> tuple[Container, Process]:
    """A container whose first process is an ipykernel, the image's or the kernel layer's.

    The warm holder has one ready, if there is a holder; else it is made by a launcher of our own,
    which ends with us.

    Raises what `Container.create` raises, and ImageError for an image without a known Python.
    """
    from sandbox_kernel import image
    from sandbox_kernel.container import Container, ProcessSpec
    from sandbox_kernel.container.program import KERNEL, START_KERNEL, program

    resolved = image.for_kernel(image.resolve(plan.image))
    interpreter = resolved.interpreter
    if interpreter is None:
        raise errors.ImageError(f"start a kernel in `{plan.image}`: it has no Python that is known")
    spec = ProcessSpec(
        argv=(interpreter, "-c", START_KERNEL),
        descriptors={**descriptors, PROGRAM: program(KERNEL)},
    )
    try:
        container = Container.create(plan, process=spec, launcher=holder, resolved=resolved)
    except errors.LauncherGone:
        if holder is None:
            raise
        container = Container.create(plan, process=spec, resolved=resolved)
    if container.process is None:
        raise errors.ContainerError(f"start a kernel in `{plan.image}`: no process was started")
    return container, container.process


def _end_launcher() -> None:
    """It was started ahead of what it was to be told, and nothing came of that."""
    from sandbox_kernel.runtime import client

    client.end_shared()


def configuration(key: str) -> int:
    """A pipe that holds the inner configuration, so that it is in no argv, environment or file."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.write(writing, json.dumps({"key": key}).encode())
    os.close(writing)
    return reading


class Inside:
    """The inside as the relay gets to know it: on its way, there, or failed."""

    def __init__(self) -> None:
        self.key = secrets.token_hex(32)
        self.plan: ContainerPlan | None = None
        self.named: ContainerPlan | None = None
        """The plan with the image as it was named, before what the name meant was looked up."""
        self.pinning = Pinning()
        self.container: Container | None = None
        self.process: Process | None = None
        self.channels: Channels | None = None
        self.failure: BaseException | None = None
        self.errors_read, self._errors_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.settled = threading.Event()
        self.answers = threading.Event()
        """Set by the relay when the kernel inside has answered for the first time."""

    def start(self) -> None:
        """Runs in a thread of its own: an image may take long, and Jupyter asks meanwhile."""
        handed = -1
        try:
            self.named = self.plan or plan()
            os.eventfd_write(self.wake, 1)  # whoever asks may have waited to know what it says
            self.plan = self.pinning.plan(self.named)
            self.channels = Channels(self.plan.output_limit + (1 << 20))
            handed = configuration(self.key)
            self.container, self.process = start_inside(
                self.plan,
                {
                    2: self._errors_write,
                    CONFIGURATION: handed,
                    **{
                        NUMBERS[name]: listener.fileno()
                        for name, listener in self.channels.listeners.items()
                    },
                },
                self.holder() if self.plan.from_holder else None,
            )
            self.pinning.record(self.named)
        except (errors.SandboxError, OSError) as error:
            self.failure = error
            from sandbox_kernel import audit

            audit.refused(error, by=BY)
            _end_launcher()
        finally:
            if handed >= 0:
                os.close(handed)
            os.close(self._errors_write)
            if self.channels:
                self.channels.handed_over()
            self.settled.set()
            os.eventfd_write(self.wake, 1)
        if self.container and self.plan and self.plan.from_holder:
            self.answers.wait()  # the next kernel can wait, this one's user does
            self.keep_one_ready(self.plan)
        if self.container:  # else it tells why there is none, and ends
            template_memory.give_back()

    def holder(self) -> Holder | None:
        """Who may have the container ready."""
        from sandbox_kernel.runtime import client

        return client.find_holder()

    def keep_one_ready(self, plan: ContainerPlan) -> None:
        """Let the warm holder have a kernel ready for the next start; it is started if need be."""
        from sandbox_kernel.container import holding

        from . import relay_template

        # The next kernel is none the slower than this one without it, so nobody need be told.
        with suppress(errors.SandboxError, OSError, TimeoutError):
            holding.keep_kernel_ready(plan)
            relay_template.keep_one()
