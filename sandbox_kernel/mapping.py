"""`map`: the same code once for each of many items, each in a fresh container of its own.

    >>> import sandbox_kernel
    >>> def square(number):
    ...     return number * number
    >>> sandbox_kernel.map(square, [1, 2, 3]).check().values
    [1, 4, 9]

A few containers run at a time: as many as there are processors, and no more than the memory has
room for, every one at its limit.
"""

from __future__ import annotations

import functools
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from queue import SimpleQueue
from typing import Any, overload

from sandbox_kernel import engine, errors, host, policy, settings
from sandbox_kernel.container.cell import CellRequest, compiled_ahead
from sandbox_kernel.engine import Code, Result
from sandbox_kernel.grammar import shown_size
from sandbox_kernel.policy import ContainerPlan
from sandbox_kernel.workers import Outcome, Workers, wait

MOST_SHOWN = 60
MEMORY_STEP = 1 << 20
IN_HAND = (list, tuple, range)
"""Items of these are all there, and to look at some of them early changes nothing. A worker takes a
few of them at once, as long as nobody wants to hear of each: to wake who hands them out takes a
thirtieth of what the container of an item takes."""
MOST_TOGETHER, SHARES = 16, 4
Told = Callable[[int, Result], None]


class Results(Sequence[Result]):
    """The results of a `map`, in the order of its items."""

    def __init__(self, results: Iterable[Result], items: Iterable[str]) -> None:
        self._results = tuple(results)
        self.items = tuple(items)
        """Each item, in short."""

    @property
    def failures(self) -> tuple[tuple[int, str, Exception], ...]:
        """Index, item in short, and exception of each that failed."""
        failed = []
        for index, result in enumerate(self._results):
            if (problem := result.exception) is not None:
                failed.append((index, self.items[index], problem))
        return tuple(failed)

    @property
    def ok(self) -> bool:
        """Whether none failed."""
        return all(result.ok for result in self._results)

    @property
    def values(self) -> list[Any]:
        """What the function returned for each item; None for one that failed."""
        return self.output(engine.RETURNED)

    def output(self, name: str) -> list[Any]:
        """The value of one of `outputs` for each item; None where it is missing."""
        return [result.outputs.get(name) for result in self._results]

    def check(self) -> Results:
        """These results, or ItemsFailed, which names each item that failed."""
        failures = self.failures
        if failures:
            raise errors.ItemsFailed(failures, len(self))
        return self

    def __len__(self) -> int:
        return len(self._results)

    def __iter__(self) -> Iterator[Result]:
        return iter(self._results)

    @overload
    def __getitem__(self, index: int) -> Result: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Result]: ...
    def __getitem__(self, index: int | slice) -> Result | Sequence[Result]:
        return self._results[index]

    def __repr__(self) -> str:
        return f"<{len(self)} results, {len(self.failures)} failed>"


def map(  # noqa: A001 - it does what the builtin does
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
    """Run code once for each item, each time in a fresh container; the results, in order.

    `code` is text, with the item as its variable `name`; or a function, which is called with the
    item, and with `inputs` as keyword arguments. `inputs`, `outputs` and options are those of
    `run`, the same for every item. `items` is read as the workers need more, not
    all at once.

    `workers` run at once: by default as many as there are processors, and never more than the
    available memory holds at the limit of `memory`. Without such a limit, each gets its share of
    what `run` would give to one. `on_result(index, result)` is called here, as each one ends.

    What an item's code does wrong is in its result, and with `check` all of it is raised at the
    end, as ItemsFailed. An exception here (of `items`, of `on_result`, Ctrl-C) or a container that
    can't be made ends what is running, and is raised.

    Raises as `run` does.
    """
    plan = policy.plan(settings.PROGRAM, image=image, **options)
    request = engine.cell_request(code, inputs, outputs, item=name)
    plan = engine.declared(plan, request)
    results = run_each(plan, request, items, name=name, workers=workers, on_result=on_result)
    return results.check() if check else results


def run_each(
    plan: ContainerPlan,
    request: CellRequest,
    items: Iterable[object],
    *,
    name: str,
    workers: int | None = None,
    on_result: Told | None = None,
    on_start: Callable[[int], None] | None = None,
) -> Results:
    """`map`, for a plan and a request that are made. `on_start` hears how many work at once."""
    workers, plan = budget(plan, workers)
    if on_start is not None:
        on_start(workers)
    batch = _Batch(plan, compiled_ahead(request), name)
    results: dict[int, Result] = {}
    shown: list[str] = []
    told: SimpleQueue[Outcome[dict[int, Result]]] = SimpleQueue()
    left = len(items) if isinstance(items, IN_HAND) and on_result is None else 0
    asked = heard = 0

    def collect() -> None:
        nonlocal heard
        found = wait(told).get()
        heard += 1
        results.update(found)
        if on_result is not None:
            for index, result in found.items():
                on_result(index, result)

    threads = Workers(workers, "sandbox-map")
    try:
        source = iter(items)
        while some := tuple(itertools.islice(source, _together(left, workers))):
            threads.do(functools.partial(batch.run, len(shown), some), told)
            shown += [in_short(item) for item in some]
            left -= len(some)
            asked += 1
            while asked - heard > workers:  # some are ready for the first that is free
                collect()
        while heard < asked:
            collect()
    except BaseException:
        batch.stop()
        raise
    finally:
        threads.close()
    return Results([results[index] for index in range(len(shown))], shown)


def _together(left: int, workers: int) -> int:
    """How many of so many items a worker takes at once: few, where others might have to wait."""
    return max(1, min(MOST_TOGETHER, left // (SHARES * workers)))


class _Batch:
    """The runs of one `map` that go on, so that all can be ended."""

    def __init__(self, plan: ContainerPlan, request: CellRequest, name: str) -> None:
        self._plan = plan
        self._request = request
        self._name = name
        self._running: set[engine.Run] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def run(self, first: int, items: Sequence[object]) -> dict[int, Result]:
        """These items one after another, each in a fresh container: index and result."""
        results = {}
        for index, item in enumerate(items, first):
            if self._stopped:
                break  # nobody waits for them
            results[index] = self._one(index, item)
        return results

    def _one(self, index: int, item: object) -> Result:
        request = with_item(self._request, self._name, item)
        try:
            running = engine.start(self._plan, request)
        except errors.SandboxError as problem:
            note_item(problem, index, item)
            raise
        with self._lock:
            self._running.add(running)
            if self._stopped:
                _end(running)
        try:
            return engine.gather(running, self._plan)
        finally:
            with self._lock:
                self._running.discard(running)

    def stop(self) -> None:
        """End what runs, and what is just being started."""
        with self._lock:
            self._stopped = True
            for running in self._running:
                _end(running)


def _end(running: engine.Run) -> None:
    running.interrupt()
    running.interrupt()  # the second does not wait for the code


def with_item(request: CellRequest, name: str, item: object) -> CellRequest:
    """The request for one item."""
    return request.replaced(inputs={**request.inputs, name: item})


def note_item(problem: errors.SandboxError, index: int, item: object) -> None:
    """Adds to the error of starting one item which one it was."""
    problem.add_note(f"It was item {index} (`{in_short(item)}`).")


def in_short(item: object) -> str:
    """The item as one short line."""
    try:
        text = errors.shown(repr(item))
    except Exception:  # a caller's own __repr__
        text = f"<{type(item).__name__}>"
    return text if len(text) <= MOST_SHOWN else text[: MOST_SHOWN - 1] + "…"


def budget(plan: ContainerPlan, workers: int | None = None) -> tuple[int, ContainerPlan]:
    """How many containers of this plan may run at once, and the plan of each.

    A limit of memory that somebody asked for stays, and bounds their number. Without one, each
    gets its share of the default. Raises InvalidOption for more workers than fit.
    """
    if workers is not None and (type(workers) is not int or workers < 1):
        raise errors.InvalidOption("workers", workers, "a whole number from 1, or None")
    wanted = workers or len(os.sched_getaffinity(0))
    if plan.memory is None:
        return wanted, plan
    if "memory" not in plan.asked:
        return wanted, _shared(plan, wanted)
    available = host.available_memory()
    room = max(1, available // plan.memory)
    if workers is not None and workers > room:
        raise errors.InvalidOption(
            "workers", workers,
            f"at most {room}: each may use {shown_size(plan.memory)} (`memory`), and "
            f"{shown_size(available // MEMORY_STEP * MEMORY_STEP)} are available",
        )  # fmt: skip
    return min(wanted, room), plan


def _shared(plan: ContainerPlan, workers: int) -> ContainerPlan:
    """The plan with its share of what is by default for one."""
    if plan.memory is None or workers == 1:
        return plan
    changes = {}
    for name in ("memory", "memory_swap", "storage_size"):
        value = getattr(plan, name)
        if value is not None and name not in plan.asked:
            changes[name] = max(MEMORY_STEP, value // workers // MEMORY_STEP * MEMORY_STEP)
    return plan.replaced(**changes)
