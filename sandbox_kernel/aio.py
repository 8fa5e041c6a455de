"""`run`, `map` and `Sandbox` for asyncio: the same arguments, results and errors, awaited.

    async with asyncio.timeout(10):
        one, two = await asyncio.gather(aio.run("1 + 1"), aio.run("2 + 2"))

Cancelling a task ends its container, and the task is over when that is done. While code runs, no
thread waits for it: the event loop watches the container's descriptors. Making and removing a
container are short calls that wait for the launcher; they take turns in the loop's default
executor, which has a bounded number of threads.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

from sandbox_kernel import engine, errors, mapping, policy, settings
from sandbox_kernel.container import Container
from sandbox_kernel.container.cell import CellRequest, Idle
from sandbox_kernel.container.events import Finished
from sandbox_kernel.engine import Code, Gathered, Result
from sandbox_kernel.mapping import Results, Told
from sandbox_kernel.policy import ContainerPlan

__all__ = ["Sandbox", "map", "run"]

T = TypeVar("T")


async def run(
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
    """`sandbox_kernel.run`, awaited. Cancelled, it ends the container."""
    plan = policy.plan(settings.PROGRAM, image=image, **options)
    request = engine.cell_request(code, inputs, outputs, program, files=files, files_out=files_out)
    result = await _follow(engine.declared(plan, request), request)
    return result.check() if check else result


async def map(  # noqa: A001 - it does what the builtin does
    code: Code,
    items: Iterable[object],
    *,
    name: str = "item",
    inputs: Mapping[str, object] | None = None,
    outputs: Sequence[str] = (),
    workers: int | None = None,
    image: str | None = None,
    check: bool = False,
    on_result: Told | None = None,
    **options: Any,
) -> Results:
    """`sandbox_kernel.map`, awaited. Cancelled, it ends all that are running."""
    plan = policy.plan(settings.PROGRAM, image=image, **options)
    request = engine.cell_request(code, inputs, outputs, item=name)
    workers, plan = mapping.budget(engine.declared(plan, request), workers)
    numbered = enumerate(items)
    shown: list[str] = []
    results: dict[int, Result] = {}

    async def work() -> None:
        for index, item in numbered:
            shown.append(mapping.in_short(item))
            try:
                results[index] = await _follow(plan, mapping.with_item(request, name, item))
            except errors.SandboxError as problem:
                mapping.note_item(problem, index, item)
                raise
            if on_result is not None:
                on_result(index, results[index])

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(work())
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None  # the others are ends that it caused
    found = Results([results[index] for index in range(len(shown))], shown)
    return found.check() if check else found


class Sandbox:
    """`sandbox_kernel.Sandbox`, as an asynchronous context manager.

    >>> async with aio.Sandbox(memory="512m") as sandbox:
    ...     await sandbox.run("open('note', 'w').write('hi')")
    ...     (await sandbox.run("print(open('note').read())")).stdout

    Tasks may run cells in it at once; cancelling one ends its cell, and the container stays.
    """

    def __init__(self, image: str | None = None, **options: Any) -> None:
        self.plan = policy.plan(settings.PROGRAM, image=image, **options)
        self._container: Container | None = None

    @property
    def container(self) -> Container:
        """The container, from `async with` on."""
        if self._container is None:
            raise errors.ContainerError("run a cell in `Sandbox`: it is open in `async with` only")
        return self._container

    @property
    def id(self) -> str:
        """The container's id."""
        return self.container.id

    async def run(
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
        """As `aio.run`, in this container."""
        request = engine.cell_request(
            code, inputs, outputs, program, files=files, files_out=files_out
        )
        result = await _follow(self.plan, request, self.container)
        return result.check() if check else result

    async def limits(self) -> dict[str, Any]:
        """The limits in force, read back from the kernel."""
        return await _whole(self.container.limits)

    async def set_limits(self, **changes: object) -> dict[str, Any]:
        """Change limits while it lives; what the kernel reads back."""
        change = functools.partial(self.container.set_limits, settings.PROGRAM, **changes)
        return await _whole(change)

    async def usage(self) -> Mapping[str, Any]:
        """What was used so far."""
        return await _whole(self.container.usage)

    async def close(self) -> None:
        """End the container; nothing of it is left."""
        if self._container is not None:
            await _whole(self._container.remove)

    async def __aenter__(self) -> Sandbox:
        create = functools.partial(Container.create, self.plan)
        self._container = await _whole(create, undo=Container.remove)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


async def _follow(
    plan: ContainerPlan, request: CellRequest, container: Container | None = None
) -> Result:
    """One run from its start to its end, or to the end of this task."""
    start = functools.partial(engine.start, plan, request, container)
    running = await _whole(start, undo=engine.Run.close)
    try:
        limits = await _whole(running.limits)
        gathered = Gathered(running, plan)
        for step in running.steps():
            if isinstance(step, Idle):
                await _ready(step)
                continue
            if isinstance(step, Finished):
                for event in await _whole(running.files):
                    gathered.take(event)
            gathered.take(step)
    finally:
        await _whole(running.close)
    return gathered.result(limits)


async def _ready(idle: Idle) -> None:
    """Waits as a run wishes: for its descriptor, or for so many seconds."""
    loop = asyncio.get_running_loop()
    woken: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not woken.done():
            woken.set_result(None)

    loop.add_reader(idle.descriptor, wake)
    timer = None if idle.seconds is None else loop.call_later(idle.seconds, wake)
    try:
        await woken
    finally:
        loop.remove_reader(idle.descriptor)
        if timer is not None:
            timer.cancel()


async def _whole(function: Callable[[], T], *, undo: Callable[[T], object] | None = None) -> T:
    """The outcome of a short blocking call, which is not left half done.

    A task that is cancelled meanwhile waits for its end, undoes it, and is cancelled then.
    """
    loop = asyncio.get_running_loop()
    future = loop.run_in_executor(None, function)
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return future.result()
    if future.exception() is None and undo is not None:
        await _whole(functools.partial(undo, future.result()))
    raise cancelled
