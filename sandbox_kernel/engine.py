"""The public API: `run` code in a fresh container, `Sandbox` for several cells in one.

    >>> import sandbox_kernel
    >>> result = sandbox_kernel.run("print(x * 2)", inputs={"x": 21}, memory="256m")
    >>> result.stdout
    '42\\n'

Options are those of the command and the magics, with `_` for `-`. What the code does wrong is in
the `Result`; what the caller or the machine does wrong is raised.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from sandbox_kernel import errors, image, policy, settings
from sandbox_kernel.container import Container, Process, ProcessSpec
from sandbox_kernel.container import events as e
from sandbox_kernel.container.cell import Bounds, Cell, CellRequest
from sandbox_kernel.policy import ContainerPlan

MOST_VALUES = 16 << 30


@dataclass(frozen=True)
class Result:
    """What a cell did. `outputs` has the values asked for, by name."""

    status: int
    stdout: str
    stderr: str
    result: Mapping[str, Any] | None
    """The mime bundle of the last expression's value; `text` is its plain form."""
    displays: tuple[e.Display, ...]
    outputs: Mapping[str, Any]
    error: e.Error | None
    usage: Mapping[str, Any]
    notices: tuple[str, ...] = ()
    """Lines from outside: that output was cut, which default limits are not in force."""
    plan: ContainerPlan = field(default_factory=ContainerPlan, repr=False)
    container_id: str = ""

    @property
    def ok(self) -> bool:
        """Whether the code ended without an error."""
        return self.error is None

    @property
    def text(self) -> str | None:
        """The plain text of the last expression's value."""
        text = None if self.result is None else self.result.get("text/plain")
        return text if isinstance(text, str) else None

    def check(self) -> Result:
        """This result, or the error as an exception: `OutOfMemory`, ..., `CellRaised`."""
        if self.error is None:
            return self
        if self.error.failure is not None:
            raise self.error.failure
        raise errors.CellRaised(self.error.name, self.error.value, self.error.traceback)


class Run:
    """One cell on its way: iterate over its events, once; `interrupt` from anywhere.

    A container that was made for the cell is gone when the iteration is over or `close` returns.
    """

    def __init__(self, cell: Cell, container: Container, process: Process, *, single: bool) -> None:
        self.container = container
        self._cell = cell
        self._process = process
        self._single = single
        self._open = True

    def __iter__(self) -> Iterator[e.Event]:
        try:
            yield from self._cell.events(self._process)
        finally:
            self.close()

    def interrupt(self) -> None:
        """SIGINT to the code; after the grace time, or at the second call, it is ended."""
        self._cell.interrupt()

    def close(self) -> None:
        """End the run if it goes on. May be called twice."""
        if not self._open:
            return
        self._open = False
        self._process.close()
        if self._single:
            self.container.remove()
        self._cell.close()


def start(plan: ContainerPlan, request: CellRequest, container: Container | None = None) -> Run:
    """Start a cell by a plan: in a container of its own, or in one that is there."""
    bounds = Bounds(
        output=plan.output_limit,
        values=min(plan.memory or 1 << 30, MOST_VALUES),
        grace=plan.interrupt_grace,
        pids=(container.plan if container else plan).pids_limit,
    )
    resolved = container.image if container else image.resolve(plan.image)
    interpreter = plan.entrypoint or resolved.interpreter or "python3"
    cell = Cell(request, bounds)
    try:
        spec = ProcessSpec(
            argv=cell.argv(interpreter), descriptors=cell.descriptors, timeout=plan.timeout
        )
        if container is not None:
            process = container.run(spec)
        else:
            made = Container.create(plan, process=spec)
            assert made.process is not None
            process = made.process
        cell.handed_over()
    except BaseException:
        cell.close()
        raise
    return Run(cell, container or made, process, single=container is None)


def run(
    code: str,
    image: str | None = None,
    *,
    inputs: Mapping[str, object] | None = None,
    outputs: Sequence[str] = (),
    program: str | None = None,
    check: bool = False,
    **options: Any,
) -> Result:
    """Run code in a fresh container and wait for its end.

    `inputs` are variables of the code, `outputs` names of variables to bring out: as JSON, numpy
    arrays, Arrow tables or bytes. `program` runs the code by another program of the image, as its
    standard input. With `check`, an error of the code is raised. Options: `memory="256m"`,
    `timeout=30`, `cpus=0.5`, ...; see `sandbox-kernel run --help`.

    Raises InvalidOption, NotAllowed, LimitNotEnforceable, ImageError, ValueNotTransferable.
    """
    plan = policy.plan(settings.PROGRAM, image=image, **options)
    request = CellRequest(code=code, inputs=inputs or {}, outputs=_names(outputs), program=program)
    result = gather(start(plan, request), plan)
    return result.check() if check else result


class Sandbox:
    """A container for several cells: they share its files and its limits, no variables.

    >>> with Sandbox(memory="512m") as sandbox:
    ...     sandbox.run("open('note', 'w').write('hi')")
    ...     sandbox.run("print(open('note').read())").stdout
    'hi\\n'
    """

    def __init__(self, image: str | None = None, **options: Any) -> None:
        self.plan = policy.plan(settings.PROGRAM, image=image, **options)
        self.container = Container.create(self.plan)

    def run(
        self,
        code: str,
        *,
        inputs: Mapping[str, object] | None = None,
        outputs: Sequence[str] = (),
        program: str | None = None,
        check: bool = False,
    ) -> Result:
        """As the function `run`, in this container, in a control group below the container's."""
        names = _names(outputs)
        request = CellRequest(code=code, inputs=inputs or {}, outputs=names, program=program)
        result = gather(start(self.plan, request, self.container), self.plan)
        return result.check() if check else result

    def limits(self) -> dict[str, Any]:
        """The limits in force, read back from the kernel."""
        return self.container.limits()

    def set_limits(self, **changes: object) -> dict[str, Any]:
        """Change limits while it lives: `set_limits(memory="1g")`; what the kernel reads back."""
        return self.container.set_limits(settings.PROGRAM, **changes)

    def usage(self) -> Mapping[str, Any]:
        """What was used so far."""
        return self.container.usage()

    def close(self) -> None:
        """End the container; nothing of it is left."""
        self.container.remove()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def gather(running: Run, plan: ContainerPlan) -> Result:
    """All events of a run, put together."""
    texts: dict[type, list[str]] = {e.Stdout: [], e.Stderr: []}
    displays: list[e.Display] = []
    notices = list(running.container.not_in_force)
    outputs: dict[str, Any] = {}
    result: Mapping[str, Any] | None = None
    error: e.Error | None = None
    finished = e.Finished(0, {})
    try:
        for event in running:
            match event:
                case e.Stdout() | e.Stderr():
                    texts[type(event)].append(event.text)
                case e.Display():
                    displays.append(event)
                case e.Result():
                    result = event.data
                case e.Error():
                    error = error or event
                case e.Value():
                    outputs[event.name] = event.value
                case e.Notice():
                    notices.append(event.text)
                case e.Finished():
                    finished = event
    finally:
        running.close()
    return Result(
        status=finished.status,
        stdout="".join(texts[e.Stdout]),
        stderr="".join(texts[e.Stderr]),
        result=result,
        displays=tuple(displays),
        outputs=outputs,
        error=error,
        usage=finished.usage,
        notices=tuple(notices),
        plan=plan,
        container_id=running.container.id,
    )


def _names(outputs: Sequence[str]) -> tuple[str, ...]:
    for name in (outputs,) if isinstance(outputs, str) else outputs:
        if not isinstance(name, str) or not name.isidentifier():
            raise errors.InvalidOption("outputs", name, "names of variables")
    return (outputs,) if isinstance(outputs, str) else tuple(outputs)
