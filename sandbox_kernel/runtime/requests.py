"""What programs ask a launcher about its containers, and the answers: a function for each request.

Requests (`op`): create, run, limits, usage, stop, kill, kill-run, finish, wait, remove, list,
inspect, logs, events, writable, network, pool, about, cell, cell-usage, end-cell. Answers
(`event`): created, started, exited, limits, usage, stopping, removed, list, inspect, logs, events,
writable, network, pool, cell, recipe-wanted, network-wanted (nobody holds networks), error.

Each function is given the client, his message, and the descriptors that came with it: what it takes
of these it removes from the list. What it raises is the client's answer.
"""

from __future__ import annotations

import os

from sandbox_kernel.errors import StepFailed
from sandbox_kernel.runtime import cells, networks, open_files, outputs, telling

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sandbox_kernel.runtime.containers import Client, Containers

    Request = Callable[[Containers, Client, dict[str, Any], list[int]], None]


def _create(
    containers: Containers, client: Client, message: dict[str, Any], owned: list[int]
) -> None:
    containers.create(client, message, owned)


def _run(containers: Containers, client: Client, message: dict[str, Any], owned: list[int]) -> None:
    held = containers.find(message["container"])
    open_files.need("run", message["container"])
    numbers = dict(zip(message["numbers"], owned, strict=True))
    owned.clear()
    if message.get("logged"):
        outputs.collect(containers.loop, held, numbers)
    if held.agent is None and held.needs_agent(message["process"]):
        containers.open_agent(held)
    run = held.start(client, message["process"], numbers, message.get("timeout"))
    if not message.get("outlives"):
        client.run = (held, run)


def _limits(
    containers: Containers, client: Client, message: dict[str, Any], owned: list[int]
) -> None:
    held = containers.find(message["container"])
    if message.get("resources"):
        held.group.update(message["resources"])
        held.order["plan"] = message["plan"]
        containers.tell("limits", held, limits=held.group.limits())
    containers.answer(client, {"event": "limits", "limits": held.group.limits()})


def _usage(
    containers: Containers, client: Client, message: dict[str, Any], owned: list[int]
) -> None:
    held = containers.find(message["container"])
    containers.answer(client, {"event": "usage", "usage": held.usage()})


def _begin_cell(
    containers: Containers, client: Client, message: dict[str, Any], owned: list[int]
) -> None:
    """Answered when its process, the pidfd that came with this, is in its group."""
    held = containers.find(message["container"])
    if held.keeper and held.agent is None:
        containers.open_agent(held)
    (leader,) = owned
    owned.clear()
    cells.begin(held, client, message["cell"], leader)


def _cell_usage(
    containers: Containers, client: Client, message: dict[str, Any], owned: list[int]
) -> None:
    containers.answer(client, cells.usage(containers.find(message["container"]), message["cell"]))


def _end_cell(
    containers: Containers, client: Client, message: dict[str, Any], owned: list[int]
) -> None:
    """All that is in its group; with `leader`, first that one, and the group if it is empty."""
    held = containers.find(message["container"])
    gone = True
    if message.get("leader"):
        gone = cells.retire(held, message["cell"])
    else:
        cells.end(held, message["cell"])
    containers.answer(client, {"event": "cell", "gone": gone})


def _stop(
    containers: Containers, client: Client, message: dict[str, Any], owned: list[int]
) -> None:
    """SIGTERM to what was started in it; it ends when that did, or when the time is over."""
    held = containers.find(message["container"])
    containers.stop_later(held, float(message.get("timeout", 0)))
    containers.tell("stopping", held)
    held.stop()
    containers.answer(client, {"event": "stopping"})


def _kill(
    containers: Containers, client: Client, message: dict[str, Any], owned: list[int]
) -> None:
    containers.find(message["container"]).kill(message.get("reason", "killed"))
    containers.answer(client, {"event": "stopping"})


def _kill_run(
    containers: Containers, client: Client, message: dict[str, Any], owned: list[int]
) -> None:
    held = containers.find(message["container"])
    run = held.runs.get(message["run"])
    if run:
        held.kill_run(run, message.get("reason", "killed"))
    containers.answer(client, {"event": "stopping"})


def _finish(
    containers: Containers, client: Client, message: dict[str, Any], owned: list[int]
) -> None:
    """The code of a container's only process is over: so is the container. No answer but the
    exit, and none when it ended meanwhile."""
    held = containers.get(message["container"])
    if held is None or client.run is None or client.run[0] is not held or not held.single:
        return
    if held.runs.get(0) is client.run[1] and held.reason is None:
        containers.on_exit(held, {"run": 0, "status": int(message["status"])})
        containers.pool.finished(held)


def _wait(
    containers: Containers, client: Client, message: dict[str, Any], owned: list[int]
) -> None:
    """Answered when the container is over, also when it is removed."""
    held = containers.get(message["container"])
    if held is None:
        containers.answer(client, {"event": "removed"})
    else:
        held.order.setdefault("waiting", []).append(client)


def _remove(
    containers: Containers, client: Client, message: dict[str, Any], owned: list[int]
) -> None:
    if containers.records.pop(message["container"], None):
        containers.answer(client, {"event": "removed"})
        return
    held = containers.find(message["container"], ending=True)
    held.order["record"] = False
    held.order.setdefault("waiting", []).append(client)
    held.kill("removed")


def _list(
    containers: Containers, client: Client, message: dict[str, Any], owned: list[int]
) -> None:
    containers.answer(client, {"event": "list", "containers": containers.rows()})


def _tell_about(
    containers: Containers, client: Client, message: dict[str, Any], owned: list[int]
) -> None:
    containers.answer(client, {"event": "about", **containers.about})


def _tell_pool(
    containers: Containers, client: Client, message: dict[str, Any], owned: list[int]
) -> None:
    """`do`: status, warm (an order will come), stop (answered when all that waited is gone)."""
    if message["do"] == "warm":
        order = message["order"]
        recipe = containers.recipe_of(order)
        if recipe is None or not containers.pool.knows(order["warm"]["key"], order, owned):
            containers.answer(client, {"event": "recipe-wanted"})
            return
        containers.pool.expect({**order, **recipe})
        containers.answer(client, {"event": "pool"})
    elif message["do"] == "stop":
        containers.stop_pool(lambda: containers.answer(client, {"event": "pool"}))
    else:
        answer = {"templates": containers.pool.status(), "bounds": containers.pool.bounds()}
        containers.answer(client, {"event": "pool", **answer})


def _inspect(
    containers: Containers, client: Client, message: dict[str, Any], owned: list[int]
) -> None:
    record = containers.records.get(message["container"])
    row = record.row if record else telling.inspected(containers.find(message["container"]))
    containers.answer(client, {**row, "event": "inspect"})


def _logs(
    containers: Containers, client: Client, message: dict[str, Any], owned: list[int]
) -> None:
    name = message["container"]
    record = containers.records.get(name)
    log = record.log if record else containers.find(name, ending=True).log

    def is_over() -> bool:
        return containers.get(name) is None

    telling.tell_log(log, message, is_over, lambda told: containers.answer(client, told))


def _hear_events(
    containers: Containers, client: Client, message: dict[str, Any], owned: list[int]
) -> None:
    telling.tell_events(containers.events, message, lambda told: containers.answer(client, told))


def _writable(
    containers: Containers, client: Client, message: dict[str, Any], owned: list[int]
) -> None:
    """A descriptor of the writable layer, for `diff`; where it came from is in the order."""
    held = containers.find(message["container"])
    containers.answer(
        client,
        {"event": "writable", "layered": bool(held.order.get("layers"))},
        (held.writable,),
    )


def _lend_network(
    containers: Containers, client: Client, message: dict[str, Any], owned: list[int]
) -> None:
    """Its network namespace, for another container that shares it."""
    held = containers.find(message["container"])
    if not held.ready:
        raise StepFailed("enter", message["container"], "it is just starting: try again")
    network = networks.of(held)
    try:
        containers.answer(client, {"event": "network"}, (network,))
    finally:
        os.close(network)


OPERATIONS: dict[str, Request] = {
    "create": _create,
    "run": _run,
    "limits": _limits,
    "usage": _usage,
    "cell": _begin_cell,
    "cell-usage": _cell_usage,
    "end-cell": _end_cell,
    "stop": _stop,
    "kill": _kill,
    "kill-run": _kill_run,
    "finish": _finish,
    "wait": _wait,
    "remove": _remove,
    "list": _list,
    "inspect": _inspect,
    "logs": _logs,
    "events": _hear_events,
    "writable": _writable,
    "network": _lend_network,
    "pool": _tell_pool,
    "about": _tell_about,
}
