"""The public API: `run` code in a fresh container, `Sandbox` for several cells in one.

    >>> import sandbox_kernel
    >>> result = sandbox_kernel.run("print(x * 2)", inputs={"x": 21}, memory="256m")
    >>> result.stdout
    '42\\n'

`mapping` runs code once for each of many items, `aio` is all of it for asyncio. Options are those
of the command and the magics, with `_` for `-`. What the code does wrong is in the `Result`; what
the caller or the machine does wrong is raised.
"""

from __future__ import annotations

import keyword
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sandbox_kernel import audit, errors, image, policy, settings
from sandbox_kernel.container import Container, Process, ProcessSpec, learning
from sandbox_kernel.container import events as e
from sandbox_kernel.container import files as f
from sandbox_kernel.container.cell import Bounds, Cell, CellRequest, Idle
from sandbox_kernel.policy import ContainerPlan
from sandbox_kernel.settings import Settings

MOST_VALUES = 16 << 30
RETURNED = "return_value"
"""The name of what a function returned, among the outputs. See `functions`."""

Code = str | Callable[..., Any]
"""Text, or a function that uses only its arguments; its source is what runs."""


@dataclass(frozen=True)
class Result:
    """What a cell did. It is data: the container is gone, or goes on without it."""

    status: int
    """The exit status, or minus the number of the signal that ended it."""
    stdout: str
    stderr: str
    result: Mapping[str, Any] | None
    """The mime bundle of the last expression's value; `text` is its plain form."""
    displays: tuple[e.Display, ...]
    """What `display()` and figures showed, in order, as mime bundles."""
    outputs: Mapping[str, Any]
    """The values asked for, by name. One that is missing has an error that names it."""
    files: Mapping[str, bytes]
    """The files asked for, by their paths below the working folder. There after an error too."""
    error: e.Error | None
    """Name, text and traceback of what went wrong; None when nothing did."""
    usage: Mapping[str, Any]
    """What the container used until then: `cpu_seconds`, `memory_peak_bytes`, `pids_peak`, ...;
    None where the host has no counter."""
    notices: tuple[str, ...] = ()
    """Lines from outside: that output was cut, which default limits are not in force."""
    plan: ContainerPlan = field(default_factory=ContainerPlan, repr=False)
    container_id: str = ""
    limits: Mapping[str, Any] = field(default_factory=dict)
    """The limits of the container as the kernel read them back: bytes, processors, processes."""
    digest: str = ""
    """Of the image: the same digest is the same image."""

    @property
    def ok(self) -> bool:
        """Whether the code ended without an error."""
        return self.error is None

    @property
    def text(self) -> str | None:
        """The plain text of the last expression's value."""
        text = None if self.result is None else self.result.get("text/plain")
        return text if isinstance(text, str) else None

    @property
    def value(self) -> Any:
        """What the function returned, where a function was run; else None."""
        return self.outputs.get(RETURNED)

    @property
    def exception(self) -> errors.SandboxError | None:
        """The error as an exception: `OutOfMemory`, ..., `CellRaised`; None when there is none."""
        if self.error is None:
            return None
        if self.error.failure is not None:
            return self.error.failure
        return errors.CellRaised(self.error.name, self.error.value, self.error.traceback)

    def check(self) -> Result:
        """This result, or the error raised: `OutOfMemory`, ..., `CellRaised`."""
        problem = self.exception
        if problem is not None:
            raise problem
        return self


class Run:
    """One cell on its way: iterate over its events, once; `interrupt` from anywhere.

    A container that was made for the cell is gone when the iteration is over or `close` returns;
    one that was ready is over then, and the launcher removes what is left of it.
    """

    def __init__(
        self,
        cell: Cell,
        container: Container,
        process: Process,
        *,
        single: bool,
        entry: audit.Entry | None = None,
    ) -> None:
        self.container = container
        self._entry = entry
        self._error: str | None = None
        self._end = e.Finished(-9, {})
        self._cell = cell
        self._process = process
        self._single = single
        self._open = True
        self._finished = False

    def __iter__(self) -> Iterator[e.Event]:
        try:
            for event in self._cell.events(self._process):
                self._note(event)
                if self._finished:
                    yield from self.files()
                yield event
        finally:
            self.close()

    def steps(self) -> Iterator[e.Event | Idle]:
        """The events without ever waiting: where there is none yet, what to wait for.

        For an event loop. It does not close the run and brings no files out, which take a moment:
        call `files` when it has finished, and `close` after it.
        """
        for event in self._cell.steps(self._process):
            self._note(event)
            yield event

    def _note(self, event: e.Event | Idle) -> None:
        if isinstance(event, e.Finished):
            self._finished, self._end = True, event
        elif isinstance(event, e.Error):
            self._error = self._error or event.name

    def files(self) -> list[e.Event]:
        """The files asked for as events; an error and notices where some can't be had."""
        patterns, most = self._cell.request.files_out, self._cell.bounds.values
        if not patterns:
            return []
        try:
            taken = f.take(self.container, patterns, most_bytes=most)
        except errors.NoSuchContainer:
            return [e.Notice("no files were brought out: the container is gone")]
        except (
            errors.CopyRefused,
            errors.StepFailed,
            errors.CellFailed,
            errors.ContainerError,
        ) as problem:
            name = type(problem).__name__
            return [e.Error(name, str(problem), f"{name}: {problem}\n", problem)]
        if not taken.files and not taken.skipped:
            return [e.Notice(f"no files were brought out: none meets `{', '.join(patterns)}`")]
        return [
            *(e.File(path, content) for path, content in taken.files.items()),
            *(
                e.Notice(f"`{errors.shown(path)}` was not brought out: {why}")
                for path, why in taken.skipped[:10]
            ),
        ]

    def limits(self) -> Mapping[str, Any]:
        """The limits that are in force for it, read back from the kernel."""
        if self._single:
            return self.container.limits_at_start
        try:
            return self.container.limits()
        except errors.NoSuchContainer:  # it is just ending, which the events will tell
            return self.container.limits_at_start

    def interrupt(self) -> None:
        """SIGINT to the code; after the grace time, or at the second call, it is ended."""
        self._cell.interrupt()

    def close(self) -> None:
        """End the run if it goes on. May be called twice."""
        if not self._open:
            return
        self._open = False
        if self._entry is not None:
            error = self._error if self._finished else self._error or "ended before its end"
            self._entry.end(
                status=self._end.status, error=error, usage=self._end.usage,
                container=self.container.id, limits=self.container.limits_at_start,
            )  # fmt: skip
        self._process.close()
        if self._single and self._finished and self.container.was_ready:
            self.container.close()  # the launcher ends it while the caller goes on
        elif self._single:
            self.container.remove()
        self._cell.close()


HEAD = "# /// script"
"""Begins the block by which a cell says what it needs: PEP 723."""


def declared(
    plan: ContainerPlan,
    request: CellRequest,
    source: str = settings.PROGRAM,
    *,
    within: Settings | None = None,
) -> ContainerPlan:
    """The plan of a cell in a fresh container: with the packages that its head declares, if any.

    Raises ImageError for a head that can't be read, NotAllowed for an image above the ceilings.
    """
    if request.program is not None or HEAD not in request.code:
        return plan
    from sandbox_kernel.image.environments import script

    reference = script.reference(request.code, plan.image)
    if reference is None:
        return plan
    return policy.with_image(plan, reference, source, within=within)


def refuse_head(request: CellRequest, container: str) -> None:
    """Raises InvalidOption for a cell that declares packages and runs in a container that is there.

    That has its image already, and to run without what was declared would be another cell.
    """
    if request.program is None and HEAD in request.code:
        from sandbox_kernel.image.environments import script

        if script.reference(request.code, "host") is not None:
            allowed = f"a cell in a fresh container: `{container}` has its image already"
            raise errors.InvalidOption(HEAD, "dependencies", allowed)


def start(plan: ContainerPlan, request: CellRequest, container: Container | None = None) -> Run:
    """Start a cell by a plan: in a container of its own, or in one that is there."""
    if container is not None:
        refuse_head(request, container.name)
    if request.files or request.files_out:
        return _start_with_files(plan, request, container)
    return _start(plan, request, container, single=container is None)


def _start_with_files(
    plan: ContainerPlan, request: CellRequest, container: Container | None
) -> Run:
    """As `start`, in a container that is there before the cell and after it."""
    held = container or Container.create(plan)
    try:
        if request.files:
            f.put(held, request.files)
        return _start(plan, request, held, single=container is None)
    except BaseException:
        if container is None:
            held.remove()
        raise


def _start(
    plan: ContainerPlan, request: CellRequest, container: Container | None, *, single: bool
) -> Run:
    bounds = Bounds(
        output=plan.output_limit,
        values=min(plan.memory or 1 << 30, MOST_VALUES),
        grace=plan.interrupt_grace,
        pids=(container.plan if container else plan).pids_limit,
    )
    resolved = container.image if container else image.resolve(plan.image)
    interpreter = plan.entrypoint or resolved.interpreter or "python3"
    if container is None and request.program is None and not plan.cold:
        learning.learn(request.code)
    entry = audit.begin(
        plan, by=request.by, digest=resolved.digest, code=request.code,
        argv=(request.program,) if request.program else (),
    )  # fmt: skip
    cell = Cell(request, bounds, single=single)
    try:
        spec = ProcessSpec(
            argv=cell.argv(interpreter), descriptors=cell.descriptors, timeout=plan.timeout
        )
        if container is not None:
            process = container.run(spec)
        else:
            made = Container.create(plan, process=spec, resolved=resolved)
            assert made.process is not None
            process = made.process
        cell.handed_over()
    except BaseException as problem:
        cell.close()
        if entry is not None:
            entry.refuse(problem)
        raise
    return Run(cell, container or made, process, single=single, entry=entry)


def run(
    code: Code,
    image: str | None = None,
    *,
    inputs: Mapping[str, object] | None = None,
    outputs: Sequence[str] = (),
    files: Mapping[str, object] | None = None,
    files_out: Sequence[str] = (),
    program: str | None = None,
    check: bool = False,
    **options: Any,
) -> Result:
    """Run code in a fresh container and wait for its end.

    `code` is text: `inputs` are variables of it, `outputs` names of variables to bring out. Or it
    is a function: it is called with `inputs` as keyword arguments, and what it returns is
    `result.value`. Only its source goes in, so it imports what it needs itself. Values cross as
    JSON, numpy arrays, Arrow tables or bytes. `program` runs the text by another program of the
    image, as its standard input.

    `files` are placed in its working folder before it begins: relative path to bytes, or to the
    path of a file here. `files_out` are patterns (`plots/*.png`, `**/*.csv`) of files in it that
    are `result.files` afterwards, also after an error.

    A block `# /// script` at the head of the code (PEP 723) makes the image: its packages, over
    `image`.

    Options, as `sandbox-kernel run --help` lists them: sizes in bytes or as text (`memory="256m"`),
    times in seconds or as text (`timeout="500ms"`), `cpus=0.5`, `pids_limit=64`, ...

    With `check`, an error of the code is raised. An exception here, Ctrl-C too, ends the container.

    Raises InvalidOption, NotAllowed, LimitNotEnforceable, ImageError, ValueNotTransferable,
    ContainerError.
    """
    with audit.refusals(settings.PROGRAM):
        plan = policy.plan(settings.PROGRAM, image=image, **options)
        request = cell_request(code, inputs, outputs, program, files=files, files_out=files_out)
        plan = declared(plan, request)
        result = gather(start(plan, request), plan)
    return result.check() if check else result


def cell_request(
    code: Code,
    inputs: Mapping[str, object] | None = None,
    outputs: Sequence[str] = (),
    program: str | None = None,
    *,
    item: str | None = None,
    files: Mapping[str, object] | None = None,
    files_out: Sequence[str] = (),
) -> CellRequest:
    """What to run, from what a caller gives. `item` names an input that is given later.

    Raises InvalidOption for what does not fit together.
    """
    given = dict(inputs or {})
    for name in (*given, *([] if item is None else [item])):
        if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
            raise errors.InvalidOption("inputs", name, "names of variables")
    if item in given:
        raise errors.InvalidOption("inputs", item, "another name: each item has this one")
    if isinstance(code, str):
        if program is not None and (given or item is not None or outputs):
            raise errors.InvalidOption("program", program, "code without inputs and outputs")
        return CellRequest(
            code=code,
            inputs=given,
            outputs=_names(outputs),
            program=program,
            files=f.read_files(files),
            files_out=f.read_patterns(files_out),
        )
    if program is not None or outputs:
        option, value = ("program", program) if program is not None else ("outputs", outputs)
        raise errors.InvalidOption(option, value, "nothing: a function returns its value")
    from sandbox_kernel import functions  # reads source, which takes longer to load than a cell

    first = () if item is None else (item,)
    source = functions.source_of(code, returned=RETURNED, positional=first, named=given)
    return CellRequest(
        code=source.code,
        name=source.name,
        first_line=source.first_line,
        inputs=given,
        outputs=(RETURNED,),
        shows=False,
        files=f.read_files(files),
        files_out=f.read_patterns(files_out),
    )


class Sandbox:
    """A container for several cells: they share its files and its limits, no variables.

    >>> with Sandbox(memory="512m") as sandbox:
    ...     sandbox.run("open('note', 'w').write('hi')")
    ...     sandbox.run("print(open('note').read())").stdout
    'hi\\n'

    Threads may run cells in it at once. Raises as the function `run` does.
    """

    def __init__(self, image: str | None = None, **options: Any) -> None:
        with audit.refusals(settings.PROGRAM):
            self.plan = policy.plan(settings.PROGRAM, image=image, **options)
            self.container = Container.create(self.plan)

    @property
    def id(self) -> str:
        """The container's id, as `sandbox-kernel ps` shows it."""
        return self.container.id

    @property
    def digest(self) -> str:
        """Of the image."""
        return self.container.image.digest

    def run(
        self,
        code: Code,
        *,
        inputs: Mapping[str, object] | None = None,
        outputs: Sequence[str] = (),
        files: Mapping[str, object] | None = None,
        files_out: Sequence[str] = (),
        program: str | None = None,
        check: bool = False,
    ) -> Result:
        """As the function `run`, in this container, in a control group below the container's.

        `timeout` of the sandbox is that of each run. A run that reaches the memory limit ends the
        container, and later ones raise NoSuchContainer.
        """
        request = cell_request(code, inputs, outputs, program, files=files, files_out=files_out)
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

    def __exit__(self, *_: object) -> None:
        self.close()


class Gathered:
    """The events of a run put together, one by one, until `result`."""

    def __init__(self, running: Run, plan: ContainerPlan) -> None:
        self._plan = plan
        self._container = running.container
        self._texts: dict[type, list[str]] = {e.Stdout: [], e.Stderr: []}
        self._displays: list[e.Display] = []
        self._notices = list(running.container.not_in_force)
        self._outputs: dict[str, Any] = {}
        self._files: dict[str, bytes] = {}
        self._result: Mapping[str, Any] | None = None
        self._error: e.Error | None = None
        self._finished = e.Finished(0, {})

    def take(self, event: e.Event) -> None:
        """One more event."""
        match event:
            case e.Stdout() | e.Stderr():
                self._texts[type(event)].append(event.text)
            case e.Display():
                self._displays.append(event)
            case e.Result():
                self._result = event.data
            case e.Error():
                self._error = self._error or event
            case e.Value():
                self._outputs[event.name] = event.value
            case e.File():
                self._files[event.path] = event.content
            case e.Notice():
                self._notices.append(event.text)
            case e.Finished():
                self._finished = event

    def result(self, limits: Mapping[str, Any]) -> Result:
        """What the run did, in a container with these limits."""
        return Result(
            status=self._finished.status,
            stdout="".join(self._texts[e.Stdout]),
            stderr="".join(self._texts[e.Stderr]),
            result=self._result,
            displays=tuple(self._displays),
            outputs=self._outputs,
            files=self._files,
            error=self._error,
            usage=self._finished.usage,
            notices=tuple(self._notices),
            plan=self._plan,
            container_id=self._container.id,
            limits=limits,
            digest=self._container.image.digest,
        )


def gather(running: Run, plan: ContainerPlan) -> Result:
    """All events of a run, put together."""
    try:
        limits = running.limits()
        gathered = Gathered(running, plan)
        for event in running:
            gathered.take(event)
    finally:
        running.close()
    return gathered.result(limits)


def _names(outputs: Sequence[str]) -> tuple[str, ...]:
    for name in (outputs,) if isinstance(outputs, str) else outputs:
        if not isinstance(name, str) or not name.isidentifier():
            raise errors.InvalidOption("outputs", name, "names of variables")
    return (outputs,) if isinstance(outputs, str) else tuple(outputs)
