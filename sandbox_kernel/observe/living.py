"""The life of a container as a source of facts: its launcher tells, and is never asked again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from sandbox_kernel import errors
from sandbox_kernel.container import Container
from sandbox_kernel.observe.lifecycle import Life, Watch
from sandbox_kernel.observe.source import Source

INTERVAL = 2.0


class LifeOf(Source):
    """Of one container, until it is gone; the last facts are of its end."""

    def __init__(self, container: Container) -> None:
        super().__init__(container.name, None, INTERVAL)
        self._container = container
        self._watch: Watch | None = None
        self._told_end = False

    def opened(self) -> Sequence[int]:
        with suppress(errors.LauncherGone):
            self._watch = Watch(self._container)
        return [] if self._watch is None else [self._watch.fileno()]

    def closed(self) -> None:
        if self._watch is not None:
            self._watch.close()

    def facts(self) -> Life | None:
        if self._watch is None or self._told_end:
            return None
        life = self._watch.look()
        self._told_end = self._watch.over
        return life
