"""The life of one container: from its image to its end, with the times that its launcher noted.

Sources: the events of the launcher, which it tells as they happen, and its row of the container.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sandbox_kernel import container, errors
from sandbox_kernel.container import Container
from sandbox_kernel.runtime.client import ANSWER_SECONDS, Channel

STATES = ("image", "created", "started", "running", "stopping", "ended", "removed")
"""In the order in which a container has them."""
MOST_RUNS = 20


@dataclass(frozen=True, slots=True)
class Stage:
    """One state of the life. `at`: seconds since the epoch, None where it was not yet, or never."""

    name: str
    at: float | None
    source: str


@dataclass(frozen=True, slots=True)
class RunOf:
    """A process that was started in it by somebody outside."""

    number: int
    started: float | None
    ended: float | None
    how: str
    """How it ended: a status or a signal; "" while it goes on."""


@dataclass(frozen=True, slots=True)
class Life:
    """What is known of it. The image is the class, the container one object of it."""

    taken: float
    image: str
    digest: str
    layers: int
    objects: int
    """How many containers of this image there are now, of this user."""
    id: str
    name: str
    pid: int | None
    program: str
    state: str
    """One of `STATES`."""
    reason: str
    """Why it ended."""
    stages: tuple[Stage, ...]
    runs: tuple[RunOf, ...]
    missed: bool
    """Whether the launcher no longer knew all of it."""


class Watch:
    """Hears of one container until it is gone; then `look` says so once more."""

    def __init__(self, watched: Container) -> None:
        self._container = watched
        self._channel: Channel | None = watched.connect()
        self._times: dict[str, float] = {}
        self._runs: dict[int, RunOf] = {}
        self._reason = ""
        self._missed = False
        self._heard = False
        self._row: Mapping[str, Any] = {}
        self._know()
        self._channel.ask("events", {})

    def fileno(self) -> int:
        """Readable when something happened; -1 when nothing can any more."""
        return -1 if self._channel is None else self._channel.fileno()

    @property
    def over(self) -> bool:
        """Whether it is gone."""
        return "removed" in self._times

    def look(self) -> Life:
        """How it stands now, without waiting longer than the launcher needs for an answer."""
        self._hear()
        listed = self._all()
        own = self._container
        state = self._state()
        return Life(
            taken=time.time(),
            image=own.image.reference,
            digest=own.image.digest,
            layers=len(own.image.layers),
            objects=sum(each.image == own.image.reference for each in listed),
            id=own.id,
            name=own.name,
            pid=None if state in ("ended", "removed") else own.pid,
            program=str(self._row.get("program", "")),
            state=state,
            reason=self._reason,
            stages=tuple(Stage(name, self._times.get(name), _SOURCES[name]) for name in STATES),
            runs=tuple(self._runs.values())[-MOST_RUNS:],
            missed=self._missed,
        )

    def close(self) -> None:
        """Hear no more."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _hear(self) -> None:
        """Take what was told, and ask for what comes."""
        while self._channel is not None:
            try:
                answer, _ = self._channel.hear(0.0 if self._heard else ANSWER_SECONDS)
            except TimeoutError:
                break
            except errors.LauncherGone:  # it ends with its last container
                self._times.setdefault("ended", time.time())
                self._times.setdefault("removed", time.time())
                self.close()
                break
            self._heard = True
            self._missed = self._missed or bool(answer["missed"])
            for event in answer["events"]:
                if event["id"] == self._container.id:
                    self._take(event)
            self._channel.ask("events", {"wait": True, "after": answer["next"]})

    def _take(self, event: Mapping[str, Any]) -> None:
        kind, at = event["kind"], float(event["time"])
        if kind == "created":
            self._times["started"] = at
        elif kind == "started":
            self._times.setdefault("running", at)
            self._runs[event["run"]] = RunOf(event["run"], at, None, "")
        elif kind == "exited":
            before = self._runs.get(event["run"])
            self._runs[event["run"]] = RunOf(
                event["run"], before.started if before else None, at, _how(event)
            )
        elif kind == "stopping":
            self._times["stopping"] = at
        elif kind == "out-of-memory":
            self._reason = kind
        elif kind == "ended":
            self._times["ended"] = at
            self._reason = str(event.get("reason") or self._reason)

    def _know(self) -> None:
        """When it was asked for."""
        for each in self._all():
            if each.id == self._container.id:
                self._times["created"] = each.created
                self._row = {"program": each.program}

    def _all(self) -> list[container.Listed]:
        listed = container.list_all()
        there = any(each.id == self._container.id for each in listed)
        if not there and ("ended" in self._times or "created" in self._times):
            self._times.setdefault("ended", time.time())
            self._times.setdefault("removed", time.time())
        return listed

    def _state(self) -> str:
        for name in ("removed", "ended", "stopping"):
            if name in self._times:
                return name
        if any(run.ended is None for run in self._runs.values()):
            return "running"
        return "started" if "started" in self._times or self._missed else "created"


_SOURCES = {
    "image": "the store of images",
    "created": "the launcher's row: created",
    "started": "the launcher's event: created",
    "running": "the launcher's event: started",
    "stopping": "the launcher's event: stopping",
    "ended": "the launcher's event: ended",
    "removed": "it is listed no more",
}


def _how(event: Mapping[str, Any]) -> str:
    if event.get("failure"):
        return "not started"
    reason = event.get("reason")
    if reason:
        return str(reason)
    if event.get("signal"):
        return f"signal {event['signal']}"
    return f"status {event.get('status')}"
