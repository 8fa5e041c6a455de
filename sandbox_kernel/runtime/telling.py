"""What a launcher knows of its containers, for those who ask: rows, inspections, logs, events.

Nothing here changes a container. Of one that is over, what is left is kept as a record, if it was
to leave one, until that is removed.
"""

from __future__ import annotations

import base64
import time

from sandbox_kernel.errors import StepFailed
from sandbox_kernel.runtime.feed import Feed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sandbox_kernel.runtime.held import Held

    Answer = Callable[[dict[str, Any]], None]

MOST_EVENTS = 1000
"""How many are kept for those who ask later."""
# Positions that stand for "the first that is kept" and "only what comes".
FIRST, COMING = 0, -1


class Record:
    """A container that is over: how it was listed last, how it ended, and what it wrote."""

    __slots__ = ("log", "row")

    def __init__(self, row: dict[str, Any], log: Feed) -> None:
        self.row = row
        self.log = log


def of_ended(held: Held) -> Record:
    """What is left of a container whose processes are gone."""
    ended = {"state": "ended", "usage": held.usage(), "exit": held.last_exit, "pid": None}
    return Record({**row(held), **ended}, held.log)


def row(held: Held) -> dict[str, Any]:
    """A container as it is listed."""
    return {
        "id": held.id,
        "name": held.order.get("name"),
        "state": "ending" if held.reason else "running" if held.ready else "starting",
        "pid": held.pid,
        "created": held.order["created"],
        "about": held.order["about"],
        "plan": held.order["plan"],
        "runs": sorted(held.runs),
        "groups": held.group.paths(),
        "ready": held.ready,
        "exit": held.last_exit,
    }


def inspected(held: Held) -> dict[str, Any]:
    """All that is known of a container that lives."""
    return {
        **row(held),
        "limits": held.group.limits(),
        "usage": held.usage(),
        "process": held.order["config"]["process"],
        "made": _made_places(held.order),
        "connected": held.order.get("connected"),
    }


def _made_places(order: dict[str, Any]) -> list[str]:
    """What the runtime itself puts into a root file system."""
    mounted = [mount["destination"] for mount in order["config"].get("mounts", ())]
    entries = [entry["path"] for entry in order.get("entries", ())]
    return [*mounted, *entries, *(tree["destination"] for tree in order.get("trees", ()))]


def created(held: Held) -> dict[str, Any]:
    """The answer to who asked for it."""
    return {
        "event": "created",
        "id": held.id,
        "pid": held.pid,
        "limits": held.limits,
        "groups": held.group.paths(),
        "was_ready": not held.order.get("process"),
        "connected": held.order.get("connected"),
    }


def why_not_made(held: Held) -> StepFailed:
    """The error of who asked for one that is over before it was ready."""
    said = held.order.get("failed") or {
        "step": "make",
        "subject": held.id,
        "why": f"it ended before it was ready ({held.reason or 'killed'})",
    }
    return StepFailed(said["step"], said["subject"], said["why"], said.get("errno") or 0)


def event(kind: str, held: Held, details: dict[str, Any]) -> dict[str, Any]:
    """Something that happened to a container, for those who asked for events."""
    return {
        "time": time.time(),
        "kind": kind,
        "id": held.id,
        "name": held.order.get("name"),
        "image": (held.order.get("about") or {}).get("image"),
        **details,
    }


def tell_events(events: Feed, message: dict[str, Any], answer: Answer) -> None:
    """What happened after a position; with `wait` not before something does."""
    after = message.get("after", FIRST)
    after = events.end if after == COMING else after

    def tell() -> None:
        items, missed = events.after(after)
        answer({"event": "events", "events": items, "next": events.end, "missed": missed})

    if events.end > after or not message.get("wait"):
        tell()
    else:
        events.wait(tell)


def tell_log(
    log: Feed, message: dict[str, Any], is_over: Callable[[], bool], answer: Answer
) -> None:
    """What a container wrote after a position; with `wait` not before there is more."""
    after = message.get("after", FIRST)

    def tell() -> None:
        chunks, missed = log.after(after)
        encoded = [[stream, base64.b64encode(data).decode()] for stream, data in chunks]
        told = {"chunks": encoded, "next": log.end, "missed": missed, "over": is_over()}
        answer({"event": "logs", **told})

    if log.end > after or not message.get("wait") or is_over():
        tell()
    else:
        log.wait(tell)
