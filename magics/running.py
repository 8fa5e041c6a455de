"""One `%%container` cell from its line to its last output."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from magics import grammar, live, oneline, shown, verbs
from magics.grammar import CellLine
from magics.notebook import Kept, Last, Notebook
from sandbox_kernel import engine, settings
from sandbox_kernel.container import Container, files
from sandbox_kernel.container import events as e
from sandbox_kernel.container.cell import CellRequest
from sandbox_kernel.errors import InvalidOption, StepFailed
from sandbox_kernel.output_policy import OutputPolicy
from sandbox_kernel.policy import ContainerPlan

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from sandbox_kernel.widgets.notebook import Widget


class Runner:
    """Runs a cell for a shell, with what its notebook keeps."""

    def __init__(self, shell: InteractiveShell, notebook: Notebook) -> None:
        self.shell = shell
        self.notebook = notebook

    def run(self, read: CellLine, cell: str) -> None:
        request = self._request(read, cell)
        within = self.notebook.settings()
        named = engine.declared(
            self.notebook.plan(read.options), request, settings.MAGIC, within=within
        )
        plan = self.notebook.pinning.plan(named)
        if read.map is not None:
            from magics import mapping

            _get(plan)
            mapping.run(self.shell, self.notebook, plan, request, read)
            return
        kept = self.notebook.reuse(named, read.options)
        if kept is None:
            _get(plan)
        if kept is None and plan.keep:
            container = Container.create(plan)
            kept = self.notebook.kept[container.name] = Kept(container, named.image)
        elif kept is not None:
            plan = kept.container.plan
        running = engine.start(plan, request, kept.container if kept else None)
        self._record(named)
        self.notebook.tell(running.container.not_in_force)
        self._show_published(running.container)
        policy = self.notebook.policy(named.output)
        if read.background:
            self._hand_over(running, plan, kept, read, policy)
            return
        views = self._show_live(running, read)
        error, finished = self._follow(running, kept, policy)
        for view in views:
            view.stop(finished.usage, "the cell ended")
        self._note(running.container, finished, plan, kept, read)
        if error is not None:
            raise shown.raised(error, policy)

    def _show_published(self, container: Container) -> None:
        """Where its ports are, once for each container."""
        ports = (container.connected or {}).get("published")
        if ports and live.in_a_notebook() and container.id not in self.notebook.published:
            from magics import published

            self.notebook.published.add(container.id)
            published.show(ports)

    def _record(self, named: ContainerPlan) -> None:
        """Lets the notebook keep what the image's name meant: see `image.pins`."""
        pinning = self.notebook.pinning
        pinning.record(named)
        kernel = getattr(self.shell, "kernel", None)
        if kernel is not None and hasattr(kernel, "language_info"):
            told = pinning.info({"language_info": kernel.language_info})
            kernel.language_info = told["language_info"]

    def _request(self, read: CellLine, cell: str) -> CellRequest:
        return CellRequest(
            code=cell,
            first_line=2,  # the magic's own line is the first of the notebook's cell
            inputs=self._inputs(read),
            outputs=read.outputs,
            program=read.program,
            files_out=read.files_out,
            by=settings.MAGIC,
        )

    def _hand_over(
        self,
        running: engine.Run,
        plan: ContainerPlan,
        kept: Kept | None,
        read: CellLine,
        policy: OutputPolicy,
    ) -> None:
        """The run goes on by itself, and the notebook gets a handle."""
        from magics.background import Background

        handle = Background(self.shell, running, plan, kept, policy)
        self.notebook.background = [one for one in self.notebook.background if not one.done]
        self.notebook.background.append(handle)
        for name in ("_container", *([read.handle] if read.handle else [])):
            self.shell.user_ns[name] = handle
        if read.readiness:
            with interrupts(running):
                handle.wait_ready(read.readiness)

    def _inputs(self, read: CellLine) -> dict[str, object]:
        """The variables of the notebook that the cell gets."""
        found = {}
        for name in read.inputs:
            if name not in self.shell.user_ns:
                raise InvalidOption(
                    "--in", name, "variables of this notebook: it has none so named"
                )
            found[name] = self.shell.user_ns[name]
        return found

    def _show_live(self, running: engine.Run, read: CellLine) -> list[Widget]:
        """The views that `--show` asks for, live while the cell runs."""
        names = [what for what in read.show if what in grammar.VIEWS]
        if not names or not live.in_a_notebook():
            return []
        try:
            return live.show(running.container, names)
        except BaseException:
            running.close()
            raise

    def _follow(
        self, running: engine.Run, kept: Kept | None, policy: OutputPolicy
    ) -> tuple[e.Error | None, e.Finished]:
        """Shows what comes, until the end; the first error is raised after it."""
        outlet = shown.Outlet(self.shell, policy, kept.displays if kept else None)
        error: e.Error | None = None
        finished = e.Finished(0, {})
        try:
            with interrupts(running):
                for event in running:
                    match event:
                        case e.Error():
                            error = error or event
                        case e.Value():
                            self.shell.user_ns[event.name] = event.value
                        case e.File():
                            unsaved = saved(event)
                            error = error or unsaved
                        case e.Finished():
                            finished = event
                        case e.Stdout() | e.Stderr() if kept is not None:
                            kept.write(event.text)
                            outlet.show(event)
                        case _:
                            outlet.show(event)
        finally:
            running.close()
        return error, finished

    def _note(
        self,
        container: Container,
        finished: e.Finished,
        plan: ContainerPlan,
        kept: Kept | None,
        read: CellLine,
    ) -> None:
        """Remembers the run as `_container`, and prints what `--show` asks for."""
        limits = dict(container.limits_at_start)
        if kept is not None and "limits" in read.show:
            limits = container.limits()
        last = Last(container.id, container.name, finished.status, finished.usage, plan, limits)
        self.notebook.last = self.shell.user_ns["_container"] = last
        for what in read.show:
            if what == "usage":
                print(oneline.usage_line(finished.usage))
            elif what == "plan":
                verbs.print_plan(plan, limits)
            elif what == "limits":
                verbs.print_limits(limits)


def saved(file: e.File) -> e.Error | None:
    """Writes a file that came out below the notebook's folder; the error where that fails."""
    try:
        files.save(os.getcwd(), file.path, file.content)
    except StepFailed as problem:
        name = type(problem).__name__
        return e.Error(name, str(problem), f"{name}: {problem}\n", problem)
    return None


@contextmanager
def interrupts(running: engine.Run) -> Iterator[None]:
    """Ctrl-C goes to the cell in the container: once to interrupt it, again to end it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def pass_on(number: int, frame: FrameType | None) -> None:
        running.interrupt()

    before: Any = signal.signal(signal.SIGINT, pass_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _get(plan: ContainerPlan) -> None:
    """The image, if it is not here yet, with a view of how far it is."""
    if plan.image != "host":
        from magics import transfers

        transfers.get(plan.image)
