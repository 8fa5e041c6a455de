"""All containers of this user with what each uses; for root those of other users, too.

Those of this user are listed by their launchers. Launchers answer nobody but their own user, root
neither, so of others only that is here which their control groups tell: who, how much, how many.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from sandbox_kernel import container, errors
from sandbox_kernel.container import Container, Listed
from sandbox_kernel.observe.groups import Group
from sandbox_kernel.observe.sampling import Limits, Reading, Sample, sample
from sandbox_kernel.observe.source import INTERVAL, Source, drained
from sandbox_kernel.observe.use import Use, in_force, read
from sandbox_kernel.runtime import client
from sandbox_kernel.runtime.cgroups import contract, mounted

LIST_SECONDS = 0.5
"""Between two questions to all launchers; one that starts is asked at once."""
OTHERS_SECONDS = 2.0
LOG_LINES = 12
LOG_BYTES = 4096
MOST_OTHERS = 500
_MOST_LEVELS = 6


@dataclass(frozen=True, slots=True)
class Row:
    """One container."""

    id: str
    name: str
    """Empty for one of another user."""
    state: str
    """starting, running, ending, ended; `other` for one of another user."""
    image: str
    program: str
    """The program that asked for it."""
    launcher: str
    """What tells programs of the same name apart."""
    user: int
    created: float
    """Seconds since the epoch; 0: not known."""
    runs: int
    status: str
    """How it ended, in a word or two; empty while it lives."""
    use: Sample | None
    logs: tuple[str, ...] | None = None
    """The last lines that its programs wrote, where they were asked for."""


@dataclass(slots=True)
class _Watched:
    """A container that runs: who samples it."""

    container: Container
    use: Use
    gone: bool = False


@dataclass(slots=True)
class _Other:
    """A group of another user's container."""

    id: str
    user: int
    paths: dict[str, str]
    group: Group
    before: Reading | None = None
    created: float = field(default=0.0)


class Containers(Source):
    """Looks at all of them. `show_logs` may be called by any thread."""

    def __init__(self, interval: float = INTERVAL, *, others: bool = True) -> None:
        super().__init__("containers", None, interval)
        self._watched: dict[str, _Watched] = {}
        self._others: dict[str, _Other] = {}
        self._look_at_others = others and os.geteuid() == 0
        self._listed: list[Listed] = []
        self._list_due = self._others_due = 0.0
        self._launchers: int | None = None
        self._logged: frozenset[str] = frozenset()

    def show_logs(self, ids: Sequence[str]) -> None:
        """Of which containers the last lines are wanted."""
        self._logged = frozenset(ids)

    def opened(self) -> Sequence[int]:
        with suppress(OSError):  # there was no launcher yet: the list finds the first
            self._launchers = client.watch_launchers()
        return [] if self._launchers is None else [self._launchers]

    def closed(self) -> None:
        for watched in self._watched.values():
            _let_go(watched)
        for other in self._others.values():
            other.group.close()
        if self._launchers is not None:
            os.close(self._launchers)
        self._watched, self._others, self._launchers = {}, {}, None

    def facts(self) -> tuple[Row, ...]:
        """One row for each, the oldest first."""
        now = time.monotonic()
        if (self._launchers is not None and drained(self._launchers)) or now >= self._list_due:
            self._list_due = now + LIST_SECONDS
            self._list()
        rows = [self._row(listed) for listed in self._listed]
        if self._look_at_others:
            if now >= self._others_due:
                self._others_due = now + OTHERS_SECONDS
                self._find_others()
            rows += [self._row_of(other) for other in self._others.values()]
        return tuple(rows)

    # -- those of this user -----------------------------------------------------------------------

    def _list(self) -> None:
        self._listed = container.list_all()
        running = {listed.id for listed in self._listed if listed.state == "running"}
        for known in set(self._watched) - running:
            _let_go(self._watched.pop(known))
        for wanted in running - set(self._watched):
            with suppress(errors.SandboxError, OSError, TimeoutError):  # it ended meanwhile
                found = container.find(wanted)
                use = Use(found)
                use.opened()
                self._watched[wanted] = _Watched(found, use)

    def _row(self, listed: Listed) -> Row:
        watched = self._watched.get(listed.id)
        used = None
        if watched is not None and not watched.gone:
            used = watched.use.facts()
            watched.gone = used is None
        logs = None
        if listed.id in self._logged:
            logs = _tail(listed.id)
        return Row(
            id=listed.id,
            name=listed.name,
            state="ending" if watched is not None and watched.gone else listed.state,
            image=listed.image,
            program=listed.program,
            launcher=os.path.basename(listed.folder),
            user=os.getuid(),
            created=listed.created,
            runs=listed.runs,
            status=_how(listed.exit) if listed.state == "ended" else "",
            use=used,
            logs=logs,
        )

    # -- those of others --------------------------------------------------------------------------

    def _find_others(self) -> None:
        found: dict[str, tuple[int, dict[str, str]]] = {}
        for controller, user, path in _groups_of_others():
            made = os.path.basename(path).partition(".")[2]
            found.setdefault(made, (user, {}))[1][controller] = path
        for gone in set(self._others) - set(found):
            self._others.pop(gone).group.close()
        for made, (user, paths) in found.items():
            if made not in self._others:
                created = 0.0
                with suppress(OSError):
                    created = os.stat(next(iter(paths.values()))).st_ctime
                self._others[made] = _Other(made, user, paths, Group(paths), created=created)

    def _row_of(self, other: _Other) -> Row:
        usage = read(other.group)
        now = Reading(time.monotonic(), usage)
        before, other.before = other.before, now
        limits: Limits = in_force(other.group)
        return Row(
            id=other.id,
            name="",
            state="other",
            image="",
            program="",
            launcher="",
            user=other.user,
            created=other.created,
            runs=0,
            status="",
            use=sample(before, now, limits, time.time()),
        )


def _let_go(watched: _Watched) -> None:
    watched.use.closed()
    watched.container.close()


def _tail(container_id: str) -> tuple[str, ...]:
    try:
        live = container.find(container_id)
        try:
            text = b"".join(piece for _, piece in live.logs())[-LOG_BYTES:]
        finally:
            live.close()
    except (errors.SandboxError, OSError, TimeoutError):
        return ()
    return tuple(text.decode("utf-8", "replace").splitlines()[-LOG_LINES:])


def _how(exit_: Mapping[str, Any] | None) -> str:
    if exit_ is None:
        return ""
    if exit_.get("reason") not in (None, "exited", "signal"):
        return str(exit_["reason"])
    if exit_.get("signal"):
        return f"signal {exit_['signal']}"
    return f"status {exit_.get('status')}"


def _groups_of_others() -> Iterator[tuple[str, int, str]]:
    """Controller ("" on version 2), user, and directory of each container's group not root's."""
    mounts = mounted.read()
    left = [MOST_OTHERS * 8]
    for controller, mount in mounts.v1.items():
        top = f"{mount.directory}/{contract.TOP}"
        for user in _folders(top):
            if os.path.basename(user).startswith("user-"):
                yield from ((controller, _owner(path), path) for path in _made(user, left))
    if mounts.v2 is not None:
        for path in _walk(mounts.v2.directory, left, 0):
            if _owner(path) != 0:
                yield "", _owner(path), path


def _walk(directory: str, left: list[int], level: int) -> Iterator[str]:
    for path in _folders(directory):
        left[0] -= 1
        if left[0] < 0:
            return
        if _is_ours(path):
            yield path
        elif level < _MOST_LEVELS:
            yield from _walk(path, left, level + 1)


def _made(directory: str, left: list[int]) -> Iterator[str]:
    for path in _folders(directory):
        left[0] -= 1
        if left[0] >= 0 and _is_ours(path):
            yield path


def _is_ours(path: str) -> bool:
    """Whether the directory is named as the group of a container is: LAUNCHER.CONTAINER."""
    launcher, _, made = os.path.basename(path).partition(".")
    return (len(launcher), len(made)) == (16, 12) and _is_hexadecimal(launcher + made)


def _is_hexadecimal(text: str) -> bool:
    return all(letter in "0123456789abcdef" for letter in text)


def _folders(directory: str) -> list[str]:
    try:
        with os.scandir(directory) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _owner(path: str) -> int:
    try:
        return os.stat(path).st_uid
    except OSError:
        return 0
