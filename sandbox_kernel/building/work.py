"""What all stages of one build share: store, cache, context, and whom to tell."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from sandbox_kernel.building.cache import Cache, Result, key
from sandbox_kernel.building.context import Context
from sandbox_kernel.building.events import Event, Listener, Notice
from sandbox_kernel.building.request import BuildRequest
from sandbox_kernel.building.state import State, timestamp
from sandbox_kernel.errors import ImageError, Killed
from sandbox_kernel.image.store import Store


class Work:
    """One build while it goes on. Used by the threads of its stages."""

    def __init__(
        self,
        store: Store,
        request: BuildRequest,
        file: str | None,
        escape: str,
        listener: Listener | None,
    ) -> None:
        self.store = store
        self.request = request
        self.escape = escape
        self._file = file
        self._cache = Cache(store)
        self._context: Context | None = None
        self._lock = threading.Lock()
        self._listener = listener
        self._stopped = threading.Event()
        self._noted: set[str] = set()
        self._stops: list[Callable[[], None]] = []

    def context(self) -> Context:
        """The context, opened by the first who needs it. Raises ImageError when there is none."""
        with self._lock:
            if self._context is None:
                if self.request.context is None:
                    raise ImageError("open the context: this build has none: name a folder")
                self._context = Context(self.request.context, self._file)
            return self._context

    def tell(self, event: Event) -> None:
        """One event, to one listener at a time."""
        if self._listener is not None:
            with self._lock:
                self._listener(event)

    def note(self, lines: Iterable[str]) -> None:
        """Lines that the user should know, each once: limits that are not in force."""
        for line in lines:
            with self._lock:
                if line in self._noted:
                    continue
                self._noted.add(line)
            self.tell(Notice(line))

    def first_created(self, state: State) -> str:
        """The time of an image whose first instruction makes no layer: when it came up first."""
        name = key(step="begin", below=state.chain, epoch=self.request.epoch)
        found = self.cached(name)
        return (found or self.keep(name, Result(timestamp(self.request.epoch), None))).created

    def cached(self, name: str) -> Result | None:
        """What a step made before."""
        return self._cache.get(name) if self.request.use_cache else None

    def keep(self, name: str, result: Result) -> Result:
        """Remember what a step made."""
        self._cache.put(name, result)
        return result

    def stop(self) -> None:
        """Another stage failed, or the user wants no more: no step begins any more."""
        self._stopped.set()
        with self._lock:
            stops = list(self._stops)
        for stop in stops:
            stop()

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()

    def check(self) -> None:
        """Raises Killed when the build was stopped."""
        if self.stopped:
            raise Killed("the build was stopped: another stage of it failed")

    def pause(self, seconds: float) -> None:
        """Let the seconds pass, or fewer when the build is stopped."""
        self._stopped.wait(seconds)

    def on_stop(self, stop: Callable[[], None]) -> Callable[[], None]:
        """Call this when the build is stopped; gives the function that takes it back."""
        with self._lock:
            self._stops.append(stop)
        if self.stopped:
            stop()

        def take_back() -> None:
            with self._lock:
                self._stops.remove(stop)

        return take_back

    def close(self) -> None:
        """Let the context go."""
        if self._context is not None:
            self._context.close()
