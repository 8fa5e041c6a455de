"""`%%container --map NAME`: one cell for each item of a list, each in a fresh container."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magics import oneline, shown
from magics.grammar import ITEM, CellLine
from magics.notebook import Notebook
from magics.progress import Progress
from sandbox_kernel import errors, mapping
from sandbox_kernel.container import events as e
from sandbox_kernel.container.cell import CellRequest
from sandbox_kernel.engine import Result
from sandbox_kernel.errors import InvalidOption
from sandbox_kernel.policy import ContainerPlan

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


NOT_IN_FORCE = "is not in force"
"""In a line about a default limit, which is the same for every item."""


def run(
    shell: InteractiveShell,
    notebook: Notebook,
    plan: ContainerPlan,
    request: CellRequest,
    read: CellLine,
) -> None:
    """Runs the cell for each item, shows what each put out in their order, sets `--out` lists.

    Raises InvalidOption for what can't be mapped, and ItemsFailed when all items are through.
    """
    assert read.map is not None
    items = _items(shell, read.map)
    if plan.keep or plan.name:
        option, value = ("--keep", "true") if plan.keep else ("--name", plan.name)
        raise InvalidOption(option, value, "not with `--map`: each item has a fresh container")
    progress = Progress(len(items))
    waiting: dict[int, Result] = {}
    policy = notebook.policy(plan.output)
    following = 0

    def on_result(index: int, result: Result) -> None:
        nonlocal following
        progress.count(failed=not result.ok)
        progress.make_room()
        notebook.tell(line for line in result.notices if NOT_IN_FORCE in line)
        waiting[index] = result
        while following in waiting:
            outlet = shown.Outlet(shell, policy)  # each item has a container of its own
            _show(outlet, following, items[following], waiting.pop(following))
            following += 1
        progress.show()

    try:
        results = mapping.run_each(
            plan, request, items,
            name=ITEM, workers=read.workers, on_result=on_result, on_start=progress.start,
        )  # fmt: skip
    except KeyboardInterrupt:
        why = f"{progress.done} of {len(items)} items were done; the others are ended"
        line = f"KeyboardInterrupt: {why}"
        raise shown.raised(e.Error("KeyboardInterrupt", why, line)) from None
    finally:
        progress.close()
    for name in read.outputs:
        shell.user_ns[name] = results.output(name)
    shell.user_ns["_container"] = results
    failures = results.failures
    if failures:
        problem = errors.ItemsFailed(failures, len(results))
        first = results[failures[0][0]].error
        before = first.traceback.rstrip().split("\n") if first is not None else []
        line = oneline.colored(f"ItemsFailed: {problem}")
        raise oneline.shown_as(problem, [*before, "", line])


def _items(shell: InteractiveShell, name: str) -> list[object]:
    """The items of the notebook's list of this name."""
    if name not in shell.user_ns:
        raise InvalidOption("--map", name, "a list of this notebook: it has none so named")
    value = shell.user_ns[name]
    if not isinstance(value, list | tuple | range):
        kind = type(value).__name__
        raise InvalidOption("--map", name, f"a list, tuple or range: it is of type `{kind}`")
    return list(value)


def _show(outlet: shown.Outlet, index: int, item: object, result: Result) -> None:
    """What one item's run put out, below a line that says whose it is."""
    shows = result.result is not None and result.text != "None"
    notices = [line for line in result.notices if NOT_IN_FORCE not in line]
    if not (result.stdout or result.stderr or result.displays or notices or shows):
        return
    outlet.show(e.Stdout(f"item {index} (`{mapping.in_short(item)}`):\n"))
    for text in (e.Stdout(result.stdout), e.Stderr(result.stderr)):
        if text.text:
            outlet.show(text)
    for line in notices:
        outlet.show(e.Notice(line))
    for display in result.displays:
        outlet.show(display)
    if shows and result.text is not None:
        outlet.show(e.Stdout(result.text + "\n"))
